"""The scripts on two small data sets whose pictures have the same names: trained on together, scored apart."""

import json
import shutil
from pathlib import Path

import pytest
from running import TINY, TINY_ALIGNER, make_data, refused, script

pytestmark = pytest.mark.slow


def values(folder: Path, *names: str) -> dict[str, list[str]]:
    """The options for data sets in ``folder``, which have these names: option to values."""
    return {
        "--dataset": ["folder"] * len(names),
        "--data-dir": [str(folder / name) for name in names],
        "--captions-file": [str(folder / f"{name}.csv") for name in names],
    }


def typed(options: dict[str, list[str]]) -> list[str]:
    return [part for option, found in options.items() for part in (option, *found)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data sets "photos" and "drawings" with other pictures under the same names, and "unscored", which has no dev."""
    folder = tmp_path_factory.mktemp("several")
    make_data(folder / "made")
    (folder / "made/encoder.keras").rename(folder / "encoder.keras")
    captions = (folder / "made/captions.csv").read_text()
    for name in ("photos", "drawings", "unscored"):
        shutil.copytree(folder / "made/pictures", folder / name)
        (folder / f"{name}.csv").write_text(captions.replace("picture", name.rstrip("s")))
    for i in range(12):  # the colours in another order
        shutil.copyfile(folder / f"photos/{i:02}.png", folder / f"drawings/{11 - i:02}.png")
    (folder / "unscored.csv").write_text(captions.replace(",dev", ",").replace(",test", ","))
    return folder


@pytest.fixture(scope="module")
def places(folder) -> list[str]:
    return ["--feature-dir", str(folder / "features"), "--run-dir", str(folder / "runs")]


@pytest.fixture(scope="module")
def tiny(folder, places) -> list[str]:
    return [*TINY, "--encoder", str(folder / "encoder.keras"), *places]


@pytest.fixture(scope="module")
def trained(folder, tiny) -> Path:
    """A run of one epoch on photos and drawings; drawings weigh 1.5."""
    both = [*typed(values(folder, "photos", "drawings")), "--data-weight", "1", "1.5"]
    outcome = script("train", *both, *tiny, "--epochs", "1", "--name", "mixed")
    assert outcome.status == 0, outcome
    assert "40 captions in" in outcome.out
    return folder / "runs/mixed"


def stores(folder: Path) -> set[str]:
    return {path.name for path in (folder / "features").iterdir()}


def test_a_store_of_one_data_set_serves_beside_another(folder, tiny, trained):
    before = stores(folder)
    assert len(before) == 2
    alone = typed(values(folder, "photos"))
    outcome = script("preprocessing", *alone, *tiny)
    assert "features: 12 images" in outcome.out
    assert stores(folder) == before
    outcome = script("preprocessing", *typed(values(folder, "photos", "drawings")), *tiny)
    assert [line for line in outcome.out.splitlines() if line.endswith(":")] == ["photos:", "drawings:"]
    assert outcome.out.count("features: 12 images") == 2
    assert stores(folder) == before


def test_a_resumed_run_still_knows_its_data_sets(folder, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    outcome = script("train", "--resume", run, "--epochs", "2")
    assert outcome.status == 0, outcome
    assert "40 captions in" in outcome.out
    config = json.loads((run / "config.json").read_text())
    assert (config["dataset"], config["data_weight"]) == (["folder", "folder"], [1, 1.5])
    assert (run / "history.csv").read_text().splitlines()[0].count("cider/") == 2


def test_evaluate_scores_each_and_together(folder, trained):
    outcome = script("evaluate", "--model", trained, "--split", "test", "--beam-sizes", "1,2", "--report")
    assert outcome.status == 0, outcome
    rows = json.loads((trained / "evaluation/scores-test-coco.json").read_text())
    assert [(row["dataset"], row["decoding"]) for row in rows] == [
        (name, decoding) for decoding in ("greedy", "beam 2") for name in ("photos", "drawings", "together")
    ]
    for one, other, mean in (rows[:3], rows[3:]):
        for score in ("cider_d", "rouge_l", "shuffled_cider_d"):
            assert mean[score] == pytest.approx((one[score] + other[score]) / 2)
        assert mean["captions"] == 4
    assert "| mixed | test | photos | 2 | coco | greedy |" in outcome.out
    for name in ("photos", "drawings"):
        predictions = json.loads((trained / f"evaluation/predictions-test-{name}-beam2.json").read_text())
        assert [(entry["image_id"], entry["file_name"]) for entry in predictions] == [(10, "10.png"), (11, "11.png")]
        page = (trained / f"evaluation/report-{name}.html").read_text()
        assert f"<p>Data set {name} · " in page
        assert all(label in page for label in ("dev, together", f"dev, {name}"))


def test_evaluate_takes_the_data_sets_that_are_named(folder, trained, tmp_path):
    evaluate = ["--model", trained, "--split", "test", "--beam-sizes", "1", "--output", tmp_path]
    assert script("evaluate", *evaluate, "--dataset", "drawings").status == 0
    [row] = json.loads((tmp_path / "scores-test-drawings-coco.json").read_text())
    assert row["dataset"] == "drawings"
    assert (tmp_path / "predictions-test-drawings-beam1.json").exists()
    # Others, of which the captioner knows nothing, are written as those of a captioner of one data set.
    assert script("evaluate", *evaluate, *typed(values(folder, "photos"))).status == 0
    [row] = json.loads((tmp_path / "scores-test-coco.json").read_text())
    assert "dataset" not in row
    refused(
        "evaluate", *evaluate, "--dataset", "etchings", mentions="dataset: there is no 'etchings'; name some of photos"
    )
    both = typed(values(folder, "photos", "drawings"))
    predictions = tmp_path / "predictions-test-beam1.json"
    refused("evaluate", "--predictions", predictions, *both, mentions="--predictions: a file holds .* one data set")


def test_a_data_set_without_dev_is_trained_on(folder, tiny, trained):
    both = typed(values(folder, "photos", "unscored"))
    outcome = script("train", *both, *tiny, "--epochs", "1", "--name", "unscored")
    assert outcome.status == 0, outcome
    assert "note: unscored: has no split dev, so it is trained on and not scored" in outcome.err
    assert "note: unscored: images in no split, though others are in one: 4" in outcome.err
    assert "32 captions in" in outcome.out
    assert "    photos: dev nll" in outcome.out
    assert "    unscored: dev nll" not in outcome.out
    outcome = script("preprocessing", *typed(values(folder, "unscored")), *tiny)
    assert outcome.status == 0, outcome
    assert "has no split dev; training needs one" in outcome.err
    assert "in training); there is no dev" in outcome.out
    refused("train", *typed(values(folder, "unscored")), *tiny, mentions="no images in split 'dev'")


def test_what_is_wrong_with_one_of_several_is_said_before_any_work(folder, tiny):
    both = values(folder, "photos", "drawings")
    for change, mentions in (
        ({"--data-dir": both["--data-dir"][:1]}, "data_dir: 1 given, and 2"),
        ({"--captions-file": [*both["--captions-file"], "c.csv"]}, "captions_file: 3 given, and 2"),
        ({"--data-weight": ["1", "0"]}, "data_weight: 0 is not above 0; .* leave it out"),
        ({"--dataset": ["folder", "folders"]}, "dataset: Input should be .* got 'folders'"),
    ):
        refused("train", *typed(both | change), *tiny, mentions=mentions)
    captions = (folder / "drawings.csv").read_text()
    (folder / "untrained.csv").write_text(captions.replace(",train", ",dev"))
    untrained = both | {"--captions-file": [both["--captions-file"][0], str(folder / "untrained.csv")]}
    refused("train", *typed(untrained), *tiny, mentions="data set drawings has no training captions; .* leave it out")


def test_fine_tuning_and_retrieval_with_several(folder, trained, places):
    tuning = ["--stage", "finetune", "--init", trained, "--tuned-layers", "2", "--epochs", "1", "--name", "tuned"]
    outcome = script("train", *tuning, *places)
    assert outcome.status == 0, outcome
    assert "    drawings: dev nll" in outcome.out
    align = ["--stage", "align", "--init", trained, "--epochs", "1", "--name", "towers", *TINY_ALIGNER[-4:]]
    outcome = script("train", *align, *places)
    assert outcome.status == 0, outcome
    towers = ["retrieve", "--model", folder / "runs/towers", "--split", "test"]
    found = script(*towers, "a red picture", "--best", "9", "--rerank", trained).out
    assert found.count("10.png") == found.count("11.png") == 2
    found = script(*towers, "--dataset", "photos", "a red picture", "--best", "9").out
    assert found.count("10.png") == found.count("11.png") == 1
