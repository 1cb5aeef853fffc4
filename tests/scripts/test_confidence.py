"""A confidence from end to end: fitted on dev, kept in the bundle, shown with captions, and scored."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import save_encoder
from PIL import Image
from running import Outcome, refused, script

from captioning.metrics.right import cider_of_people
from config import Config

PICTURES = 72  # the first 12 are for training, the rest are dev


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A run folder with a captioner without a confidence, its pictures, and captions.csv.

    The captions with the higher log p are right: their references are like what the captioner says.
    """
    import keras

    from captioning.features.encoder import build_encoder
    from captioning.words.vocabulary import Vocabulary
    from model import Captioner

    folder = tmp_path_factory.mktemp("untrained")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        pixels = rng.integers(0, 256, (2, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 32), Image.Resampling.NEAREST).save(folder / "pictures" / f"{i:02}.png")
    keras.utils.set_random_seed(0)
    config = Config(
        dataset="folder", data_dir=str(folder / "pictures"), captions_file=str(folder / "captions.csv"),
        feature_dir=str(folder / "features"), encoder=save_encoder(folder / "encoder.keras"), image_size=32,
        feature_grid=2, decoder="attention", embedding_size=8, hidden_size=8, min_length=3, max_caption_length=6,
        beam_size=2,
    )  # fmt: skip
    words = ["a", "red", "green", "lake", "by", "night", "snow", "and", "sky"]
    captioner = Captioner.untrained(config, Vocabulary(words), build_encoder(config))
    for weight in captioner.decoder.trainable_weights:
        weight.assign(rng.normal(0, 0.7, weight.shape))
    captioner.save(folder / "captioner.zip")
    said = [
        json.loads(line) for line in script("test", folder / "pictures", "--model", folder, "--json").out.splitlines()
    ]
    middle = np.median([line["captions"][0]["log_prob"] for line in said[12:]])
    rows = ["image,caption,split"]
    for i, line in enumerate(said):
        best = line["captions"][0]
        like = best["caption"] if best["log_prob"] > middle else f"nothing of that kind {i}"
        split = "train" if i < 12 else "dev"
        rows += [f"{line['image'][-6:]},{text},{split}" for text in (like, f"{like} today")]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def sure(untrained, tmp_path_factory) -> tuple[Path, Outcome]:
    """The same with a confidence, and what fitting it printed."""
    folder = tmp_path_factory.mktemp("sure")
    shutil.copyfile(untrained / "captioner.zip", folder / "captioner.zip")
    return folder, script("evaluate", "--model", folder, "--fit-confidence", "--unsure-below", "0.6")


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path / "captioner.zip") as bundle:
        return {name: bundle.read(name) for name in bundle.namelist() if name != "bundle.json"}


def test_fitting_prints_what_was_tried_and_adds_to_the_bundle(untrained, sure):
    folder, outcome = sure
    assert outcome.status == 0, outcome
    lines = outcome.out.splitlines()
    assert [line.split(" | ")[0][2:] for line in lines[2:7]] == ["log-p", "entropy", "words", "distance", "directions"]
    assert "60 captions, 50.0% of them right (CIDEr above " in lines[-1]
    assert lines[-1].endswith("; unsure below 0.6")
    before, after = members(untrained), members(folder)
    assert set(after) - set(before) == {"confidence.json", "confidence.npz"}
    assert all(after[name] == content for name, content in before.items())
    stored = json.loads(after["confidence.json"])
    assert (stored["unsure_below"], stored["fitted"]["captions"], stored["fitted"]["split"]) == (0.6, 60, "dev")
    assert stored["right_cider"] > 0
    assert not (folder / "evaluation").exists()


@pytest.mark.slow
def test_it_can_be_fitted_anew_even_if_it_cannot_be_read(untrained, sure, tmp_path):
    from captioning.storage import bundles

    shutil.copyfile(sure[0] / "captioner.zip", tmp_path / "captioner.zip")
    with bundles.changing(tmp_path, "captioner") as folder:
        (folder / "confidence.json").write_text("{}")
    picture = untrained / "pictures" / "00.png"
    refused("test", picture, "--model", tmp_path, mentions=r"its confidence cannot be read .*--fit-")
    options = ["--right-cider", "20", "--confidence-inputs", "log-p"]
    outcome = script("evaluate", "--model", tmp_path, "--fit-confidence", *options)
    assert outcome.status == 0, outcome
    stored = json.loads(members(tmp_path)["confidence.json"])
    assert (stored["inputs"], stored["right_cider"]) == ("log-p", 20)
    assert f"unsure below {stored['unsure_below']:g}" in outcome.out
    assert stored["unsure_below"] in [step / 20 for step in range(1, 20)]


def test_captions_are_the_same_and_say_how_sure_they_are(untrained, sure):
    plain = script("test", untrained / "pictures", "--model", untrained)
    outcome = script("test", untrained / "pictures", "--model", sure[0])
    assert "note: captions come without a confidence: this captioner has none" in plain.err
    assert "without a confidence" not in outcome.err
    assert all("[" not in line for line in plain.out.splitlines())
    found = []
    for was, now in zip(plain.out.splitlines(), outcome.out.splitlines(), strict=True):
        assert now.startswith(f"{was} [")
        percent, _, unsure = now.removeprefix(f"{was} [").partition("%]")
        assert unsure in ("", " (unsure)")
        assert int(percent) == 60 or (int(percent) < 60) == bool(unsure)
        found.append(unsure)
    assert {*found} == {"", " (unsure)"}
    beams = script("test", untrained / "pictures" / "00.png", "--model", sure[0], "--best", "2").out.splitlines()
    assert len(beams) == 3
    assert all("%]" in line for line in beams[1:])


@pytest.mark.slow
def test_min_confidence_leaves_captions_out(untrained, sure, tmp_path):
    command = ["test", untrained / "pictures", "--model", sure[0]]
    entries = [json.loads(line) for line in script(*command, "--json").out.splitlines()]
    every = {entry["image"]: entry["captions"][0] for entry in entries}
    assert all(found["unsure"] == (found["confidence"] < 0.6) for found in every.values())
    least = sorted(found["confidence"] for found in every.values())[PICTURES // 2]
    wanted = [image for image, found in every.items() if found["confidence"] >= least]
    shown = script(*command, "--min-confidence", str(least), "--pictures", tmp_path / "out")
    assert shown.status == 0
    assert [line.split(": ")[0] for line in shown.out.splitlines()] == wanted
    assert f"note: pictures without a caption of that --min-confidence: {PICTURES - len(wanted)}\n" in shown.err
    assert len(list((tmp_path / "out").iterdir())) == len(wanted)
    again = [json.loads(line) for line in script(*command, "--json", "--min-confidence", str(least)).out.splitlines()]
    assert [entry["image"] for entry in again] == list(every)
    assert [entry["image"] for entry in again if entry["captions"]] == wanted


def test_an_album_keeps_unsure_captions_and_the_metadata_does_not(untrained, sure, tmp_path):
    folder, output = tmp_path / "album", tmp_path / "captions.jsonl"
    shutil.copytree(untrained / "pictures", folder)
    command = ["test", folder, "--model", sure[0], "--output", output]
    assert script(*command).status == 0
    found = {line["image"]: line["captions"][0] for line in map(json.loads, output.read_text().splitlines())}
    before = output.read_bytes()
    least = sorted(caption["confidence"] for caption in found.values())[PICTURES // 2]
    outcome = script(*command, "--min-confidence", str(least), "--write-metadata", "sidecar")
    assert outcome.status == 0
    assert output.read_bytes() == before
    wanted = {name for name, caption in found.items() if caption["confidence"] >= least}
    assert {path.name.removesuffix(".xmp") for path in folder.glob("*.xmp")} == wanted
    assert f"unsure: {PICTURES - len(wanted)} captions below --min-confidence were not written" in outcome.out


@pytest.mark.slow
def test_evaluate_says_and_draws_what_the_confidence_is_worth(sure, tmp_path):
    outcome = script("evaluate", "--model", sure[0], "--output", tmp_path, "--report")
    assert outcome.status == 0, outcome
    rows = json.loads((tmp_path / "scores-dev-coco.json").read_text())
    greedy, beam = (row["confidence"] for row in rows)
    assert beam["right"] == 0.5
    assert beam["auroc"] > 0.8
    for size in (1, 2):
        assert (tmp_path / f"confidence-dev-beam{size}.png").stat().st_size > 10_000
        entries = json.loads((tmp_path / f"predictions-dev-beam{size}.json").read_text())
        shares = [entry["confidence"] < 0.6 for entry in entries]
        assert (greedy, beam)[size - 1]["unsure"] == pytest.approx(np.mean(shares), abs=0.02)
    assert "confidence: right 50.0%" in outcome.out
    assert "beam 2, confidence: right 50.0%" in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def two_sets(untrained) -> list[str]:
    """The options that name two data sets: that of the captioner, and half of its pictures with longer captions."""
    head, *lines = (untrained / "captions.csv").read_text().splitlines()
    longer = [line.replace(",dev", " in the evening,dev") for line in lines[:84]]
    (untrained / "half.csv").write_text("\n".join([head, *longer]) + "\n")
    files = [untrained / "captions.csv", untrained / "half.csv"]
    folders = [untrained / "pictures"] * 2
    shutil.copytree(folders[0], untrained / "half")
    folders[1] = untrained / "half"
    return ["--dataset", "folder", "folder", "--data-dir", *map(str, folders), "--captions-file", *map(str, files)]


@pytest.mark.slow
def test_several_data_sets_make_one_confidence_and_are_scored_apart_and_together(sure, two_sets, tmp_path):
    shutil.copyfile(sure[0] / "captioner.zip", tmp_path / "captioner.zip")
    model = ["--model", tmp_path, *two_sets]
    outcome = script("evaluate", *model, "--fit-confidence")
    assert outcome.status == 0, outcome
    assert "\n90 captions, " in outcome.out
    stored = json.loads(members(tmp_path)["confidence.json"])
    # Each data set has its own document frequencies, as when it is scored.
    people = []
    for name in ("captions", "half"):
        rows = [line.split(",") for line in Path(two_sets[two_sets.index("--captions-file") + 1]).with_name(f"{name}.csv")
                .read_text().splitlines() if line.endswith(",dev")]  # fmt: skip
        groups = [[one[1], other[1]] for one, other in zip(rows[::2], rows[1::2], strict=True)]
        people.append(cider_of_people(groups))
    assert stored["right_cider"] == round(float(np.percentile(np.concatenate(people), 25)), 1)
    assert script("evaluate", *model, "--beam-sizes", "2", "--output", tmp_path).status == 0
    one, other, both = json.loads((tmp_path / "scores-dev-coco.json").read_text())
    assert both["dataset"] == "together"
    found = [row["confidence"] for row in (one, other, both)]
    for share in ("right", "error", "unsure"):
        assert found[2][share] == pytest.approx((60 * found[0][share] + 30 * found[1][share]) / 90)
    assert found[2]["right"] == pytest.approx(stored["fitted"]["cross_validation"]["right"])
    assert both["chair_s"] == pytest.approx((60 * one["chair_s"] + 30 * other["chair_s"]) / 90)
    assert len(list(tmp_path.glob("confidence-dev-*-beam2.png"))) == 3


def test_without_a_confidence_evaluate_says_nothing_of_it(untrained, tmp_path):
    outcome = script("evaluate", "--model", untrained, "--output", tmp_path, "--beam-sizes", "1")
    assert "confidence" not in outcome.out
    assert not list(tmp_path.glob("confidence*"))
    assert all("confidence" not in row for row in json.loads((tmp_path / "scores-dev-coco.json").read_text()))
    assert '"confidence"' not in (tmp_path / "predictions-dev-beam1.json").read_text()


def test_what_fitting_refuses(untrained, tmp_path):
    fit = ["evaluate", "--model", untrained, "--fit-confidence"]
    before = (untrained / "captioner.zip").read_bytes()
    refused(*fit, "--split", "test", mentions="--fit-confidence: is fitted on dev, and --split is test")
    refused(*fit, "--split", "train", mentions="--fit-confidence: is fitted on dev")
    refused(*fit, "--model", untrained, mentions="--fit-confidence: takes one captioner")
    refused(*fit, "--views", "4", mentions="--fit-confidence: takes one captioner")
    refused("evaluate", "--predictions", "x", "--fit-confidence", mentions="--fit-confidence: takes one captioner")
    refused(*fit, "--report", mentions="--report: --fit-confidence writes into the bundle and nothing else")
    refused(*fit, "--output", tmp_path, mentions="--output: --fit-confidence writes into the bundle")
    refused(*fit, "--beam-sizes", "2", mentions="--beam-sizes: --fit-confidence writes")
    refused(*fit, "--protocol", "seed", mentions="--fit-confidence: uses the coco protocol")
    refused(*fit, "--unsure-below", "1.5", mentions=r"--unsure-below: 1\.5 is no probability")
    refused(*fit, "--right-cider", "5000", mentions="--fit-confidence: 0 of 60 captions are right .* another --right-c")
    for option in ("--right-cider", "--unsure-below"):
        refused("evaluate", "--model", untrained, option, "0.5", mentions=f"{option}: is for --fit-confidence")
    lines = (untrained / "captions.csv").read_text().splitlines()
    (tmp_path / "single.csv").write_text("\n".join(lines[:1] + lines[1::2]))
    refused(
        *fit,
        "--captions-file",
        tmp_path / "single.csv",
        mentions="--right-cider: each image has only one caption by people",
    )
    (tmp_path / "dev.csv").write_text("\n".join(line for line in lines if not line.endswith("train")))
    refused(*fit, "--captions-file", tmp_path / "dev.csv", mentions="has no images in split 'train'")
    assert (untrained / "captioner.zip").read_bytes() == before


def test_what_min_confidence_refuses(untrained, sure):
    picture = untrained / "pictures" / "00.png"
    least = ["--min-confidence", "0.5"]
    refused(
        "test",
        picture,
        "--model",
        untrained,
        *least,
        mentions="--min-confidence: needs a confidence, and this captioner has none; evaluate.py",
    )
    models = ["--model", sure[0], "--model", sure[0]]
    refused(
        "test",
        picture,
        *models,
        *least,
        mentions="--min-confidence: needs a confidence, and an ensemble and --views have none",
    )
    refused(
        "test",
        picture,
        "--model",
        sure[0],
        "--views",
        "4",
        *least,
        mentions="--min-confidence: needs a confidence, and an ensemble",
    )
    refused("test", picture, "--model", sure[0], "--min-confidence", "50", mentions="--min-confidence: 50.0 is no prob")
    assert "an ensemble and --views have none" in script("test", picture, *models).err
