"""retrieve.py from end to end on a dozen small pictures: scores, searches both ways, re-ranking, and what it refuses."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import TINY_ALIGNER, make_data, process, refused, script

from captioning.retrieval.index import ImageIndex, create
from config import Config

WORDS = ["a", "picture", "this", "one", "is", "red", "green", "blue", "grey"]
SMALL = {"image_size": 32, "embedding_size": 8, "hidden_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("retrieve")
    return folder, make_data(folder)


@pytest.fixture(scope="module")
def models(data) -> tuple[Path, Path]:
    """The folders of an aligner and of a captioner, both untrained."""
    import keras

    from captioning.features.encoder import build_encoder
    from captioning.retrieval.aligner import Aligner
    from captioning.words.vocabulary import Vocabulary
    from model import Captioner

    keras.utils.set_random_seed(0)
    places = dict(zip(data[1][::2], data[1][1::2], strict=True))
    common = (
        SMALL
        | {"encoder": str(data[0] / "encoder.keras")}
        | {name[2:].replace("-", "_"): value for name, value in places.items()}
    )
    for folder, make, changes in (
        ("aligned", Aligner, {"stage": "align", "monitor": "recall", "joint_size": 16}),
        ("captioned", Captioner, {}),
    ):
        config = Config(**common | changes)
        (data[0] / folder).mkdir()
        made = make.untrained(config, Vocabulary(WORDS), build_encoder(config))
        made.save(data[0] / folder / ("aligner.zip" if make is Aligner else "captioner.zip"))
    return data[0] / "aligned", data[0] / "captioned"


@pytest.fixture
def photos(data, tmp_path) -> Path:
    """Four of the pictures, one of them in a folder below, and a file that is not a picture."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "c.png", "more/d.png")):
        shutil.copyfile(data[0] / "pictures" / f"{i:02}.png", folder / name)
    (folder / "bad.jpg").write_text("this is text")
    return folder


# A split, scored ------------------------------------------------------------------------------------------------------


def test_a_split_is_scored_with_and_without_a_captioner(models):
    aligned, captioned = models
    outcome = script("retrieve", "--model", aligned, "--split", "test")
    assert outcome.status == 0, outcome
    assert outcome.out == (aligned / "evaluation" / "retrieval-test.md").read_text()
    (row,) = json.loads((aligned / "evaluation" / "retrieval-test.json").read_text())
    assert (row["image_to_text"]["gallery"], row["image_to_text"]["queries"]) == (4, 2)
    assert (row["text_to_image"]["gallery"], row["text_to_image"]["queries"]) == (2, 4)
    assert row["text_to_image"]["r5"] == 100
    assert "| aligned | test | two towers | 2 | 4 |" in outcome.out

    options = ["--rerank", captioned, "--candidates", "2", "--rerank-by", "per-word", "--cosine-weight", "3"]
    outcome = script("retrieve", "--model", aligned, "--split", "test", *options)
    assert outcome.status == 0, outcome
    towers, *others = json.loads((aligned / "evaluation" / "retrieval-test.json").read_text())
    assert {name: towers[name] for name in ("image_to_text", "text_to_image")} == {
        name: row[name] for name in ("image_to_text", "text_to_image")
    }
    kinds = [(other["reranking"]["kind"], other["reranking"]["cosine_weight"]) for other in others]
    assert kinds == [("likelihood", 0), ("per-word", 0), ("gain", 0), ("per-word", 3)]
    # Images for a caption come in the same order by all three.
    assert others[0]["text_to_image"] == others[1]["text_to_image"] == others[2]["text_to_image"]


@pytest.mark.slow
def test_captions_of_a_file_are_scored_in_place_of_peoples(data, models, tmp_path):
    from preprocessing import load_dataset

    places = dict(zip(data[1][::2], data[1][1::2], strict=True))
    dataset = load_dataset(Config(**{name[2:].replace("-", "_"): value for name, value in places.items()}))
    records = dataset.split("test")
    said = [{"image_id": record.image_id, "caption": record.captions[0]} for record in records]
    (tmp_path / "said.json").write_text(json.dumps(said))
    search = ["retrieve", "--model", models[0], "--split", "test", "--predictions", tmp_path / "said.json"]
    outcome = script(*search, "--output", tmp_path)
    assert outcome.status == 0, outcome
    (row,) = json.loads((tmp_path / "retrieval-test-said.json").read_text())
    assert (row["text_to_image"]["queries"], row["text_to_image"]["gallery"]) == (2, 2)
    assert row["predictions"].endswith("said.json")
    (tmp_path / "said.json").write_text(json.dumps(said[:1]))
    refused(*search, mentions=r"said\.json: its images are not those of the test split: 1 missing")
    refused(*search, "red", mentions="--predictions: is for the scores of a split")


def test_weights_are_chosen_on_dev(models):
    aligned, captioned = models
    outcome = script("retrieve", "--model", aligned, "--rerank", captioned, "--choose", "--candidates", "2")
    assert outcome.status == 0, outcome
    rows = json.loads((aligned / "evaluation" / "retrieval-dev.json").read_text())
    assert [row["reranking"]["kind"] for row in rows[1:]] == ["likelihood", "per-word", "gain"] * 2
    for alone, best in zip(rows[1:4], rows[4:], strict=True):
        assert best["recall"] >= alone["recall"]
    assert "best: --rerank-by " in outcome.err


# Searches -------------------------------------------------------------------------------------------------------------


def test_words_find_photos_in_a_folder(models, photos):
    from captioning.pictures.loading import load_image
    from captioning.retrieval.aligner import Aligner

    aligned, _ = models
    queries = ["a red picture", "grey"]
    outcome = script("retrieve", "--model", aligned, "--images", photos, *queries, "--best", "3", "--json")
    assert outcome.status == 0, outcome
    assert f"note: left out: {photos / 'bad.jpg'}: cannot be read as a picture" in outcome.err
    aligner = Aligner.load(aligned)
    names = ["a.png", "b.png", "c.png", "more/d.png"]
    vectors = aligner.embed_pixels(np.stack([load_image(photos / name, 32) for name in names]))
    for line, query, cosines in zip(
        outcome.out.splitlines(), queries, aligner.embed_texts(queries) @ vectors.T, strict=True
    ):
        found = json.loads(line)
        assert found["query"] == query
        order = np.argsort(-cosines)[:3]
        assert [result["image"] for result in found["results"]] == [str(photos / names[i]) for i in order]
        np.testing.assert_allclose([result["cosine"] for result in found["results"]], cosines[order], atol=1e-3)


def test_new_photos_enter_the_index(models, photos, data, tmp_path):
    aligned, _ = models
    search = ["retrieve", "--model", aligned, "--images", photos, "--index", tmp_path / "index"]
    assert script(*search).err.count("index of 4 images") == 1
    before = json.loads((tmp_path / "index" / "index.json").read_text())
    shutil.copyfile(data[0] / "pictures" / "05.png", photos / "e.png")
    outcome = script(*search, "green")
    assert "index of 5 images" in outcome.err
    assert str(photos / "e.png") in outcome.out
    after = json.loads((tmp_path / "index" / "index.json").read_text())
    assert after["images"][:4] == before["images"]
    # Of another model the index is refused, and stays.
    from captioning.retrieval.aligner import Aligner

    aligner = Aligner.load(aligned)
    aligner.towers.set_weights([weight + 1 for weight in aligner.towers.get_weights()])
    (tmp_path / "other").mkdir()
    aligner.save(tmp_path / "other" / "aligner.zip")
    search[2] = tmp_path / "other"
    refused(*search, "green", mentions="index: this index was built with another model .* name another --index")
    assert json.loads((tmp_path / "index" / "index.json").read_text()) == after


def test_an_index_that_is_named_alone_is_searched_as_it_is(models, photos, data, tmp_path):
    search = ["retrieve", "--model", models[0], "--index", tmp_path / "index"]
    assert script(*search, "--images", photos).status == 0
    before = (tmp_path / "index" / "index.json").read_bytes()
    shutil.copyfile(data[0] / "pictures" / "05.png", photos / "e.png")
    (photos / "b.png").unlink()
    outcome = script(*search, "green", "--json")
    assert outcome.status == 0, outcome
    found = {result["image"] for result in json.loads(outcome.out)["results"]}
    assert found == {str(photos / name) for name in ("a.png", "c.png", "more/d.png")}
    assert "b.png: has vanished since it was indexed" in outcome.err
    assert (tmp_path / "index" / "index.json").read_bytes() == before
    for source, mentions in (("flickr8k-dev", r"is that of a split \(flickr8k-dev\); add --split"), ("/x", None)):
        about = json.loads(before) | {"source": source} | ({"model": "m2"} if source == "/x" else {})
        (tmp_path / "index" / "index.json").write_text(json.dumps(about))
        refused(*search, "green", mentions=mentions or "was built with another model")
    create(tmp_path / "none", json.loads(before)["model"], "/photos", [], {}, [], 16)
    refused(
        *search[:4], tmp_path / "none", "green", mentions="none holds no pictures; search the folder with --images /ph"
    )


def test_indexes_merge_into_one(tmp_path):
    for name in "ab":
        create(tmp_path / name, "m", f"/photos/{name}", [("0.jpg", (1, 1))], {}, [np.ones((1, 2))], 2)
    merge = ["retrieve", "--merge-indexes", tmp_path / "a", tmp_path / "b"]
    outcome = script(*merge, "--output", tmp_path / "both")
    assert outcome.status == 0, outcome
    assert f"index of 2 images: {tmp_path / 'both'}; search it with --images /photos --index " in outcome.err
    assert ImageIndex(tmp_path / "both").images == ["a/0.jpg", "b/0.jpg"]
    refused(*merge, "--output", tmp_path / "both", mentions="both: holds an index already")
    refused(*merge, mentions="--output: is missing; name the folder of the new index")
    refused(*merge[:3], "--output", tmp_path / "new", mentions="--merge-indexes: one index is not enough")
    refused("retrieve", "red", *merge[1:], mentions="a query: --merge-indexes searches nothing")
    refused(*merge, "--output", tmp_path / "new", "--best", "3", mentions="--best: --merge-indexes searches nothing")


def cosines(outcome) -> list[list[float]]:
    """What a search with --json printed, a line for each query."""
    assert outcome.status == 0, outcome
    return [[result["cosine"] for result in json.loads(line)["results"]] for line in outcome.out.splitlines()]


@pytest.mark.slow
def test_faiss_finds_what_exact_search_finds(models, data, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("captioning.retrieval.index_types.LEAST", 0)
    (tmp_path / "photos").mkdir()
    for i in range(72):  # of all sizes, so that no two are equal
        with Image.open(data[0] / "pictures" / f"{i % 12:02}.png") as picture:
            picture.resize((30 + i, 40)).save(tmp_path / "photos" / f"{i}.png")
    search = [
        "retrieve",
        "--model",
        models[0],
        "--images",
        tmp_path / "photos",
        "--index",
        tmp_path / "index",
        "--json",
    ]
    words = ["a red picture", "grey", "--best", "2"]
    exact = cosines(script(*search, *words))
    for _ in range(2):
        outcome = script(*search, *words, "--index-type", "hnsw")
        np.testing.assert_allclose(cosines(outcome), exact, atol=1e-6)
    assert "recall@10" not in outcome.err, "the second search reads what the first has built"
    recall = json.loads((tmp_path / "index" / "hnsw.json").read_text())["recall"]
    assert sorted(recall) == ["photos", "words"]


def test_towers_that_come_with_the_repository_need_no_name(models, photos, tmp_path, monkeypatch):
    shipped = tmp_path / "pretrained"
    shipped.mkdir()
    monkeypatch.setattr("captioning.retrieval.index.SEARCH", shipped / "search.zip")
    monkeypatch.setattr("captioning.retrieval.index.PRETRAINED", shipped)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    search = ["retrieve", "--images", photos, "red"]
    refused(*search, mentions=r"search\.zip: there are no towers here; .*--model RUN")
    shutil.copyfile(models[0] / "aligner.zip", shipped / "search.zip")
    first = script(*search)
    assert first.status == 0, first
    assert len(list((tmp_path / "cache").rglob("index.json"))) == 1
    assert list(shipped.iterdir()) == [shipped / "search.zip"], "nothing is written beside it"
    second = script(*search, "blue")
    assert second.out.startswith(first.out)
    assert second.out.count("\n") == 2 * first.out.count("\n")


def vanish(monkeypatch, path: Path, when: str) -> None:
    """Delete ``path`` when the index of a search is ready, or when the search is done."""
    import captioning.retrieval.index as index
    import captioning.retrieval.searching as searching

    module, name = {"indexed": (index, "update"), "found": (searching, "search_images")}[when]
    before = getattr(module, name)

    def then(*args, **kwargs):
        found = before(*args, **kwargs)
        path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(module, name, then)


@pytest.mark.parametrize("options", [[], ["--rerank"]])
def test_photos_that_vanish_during_a_search_are_left_out(models, photos, tmp_path, monkeypatch, options):
    search = ["retrieve", "--model", models[0], "--images", photos, "a red picture", "--best", "4", "--json"]
    options = [*options, models[1]] if options else []
    before = [found["image"] for found in json.loads(script(*search, *options).out)["results"]]
    assert len(before) == 4
    vanish(monkeypatch, Path(before[1]), "indexed")
    outcome = script(*search, *options)
    assert outcome.status == 0, outcome
    assert [found["image"] for found in json.loads(outcome.out)["results"]] == [before[0], *before[2:]]
    assert outcome.err.count("note: left out: ") == 2, "the one that was never readable, and the one that vanished"
    assert before[1] in outcome.err


def test_a_photo_that_vanishes_before_it_is_drawn_costs_no_other(models, photos, tmp_path, monkeypatch):
    search = ["retrieve", "--model", models[0], "--images", photos, "red", "--pictures", tmp_path / "drawn"]
    vanish(monkeypatch, photos / "b.png", "found")
    outcome = script(*search)
    assert outcome.status == 0, outcome
    assert f"note: left out: {photos / 'b.png'}: cannot be read" in outcome.err
    assert (tmp_path / "drawn" / "red.png").exists()


def test_names_of_photos_that_are_not_utf_8_are_printed(models, photos):
    (photos / "a.png").rename(photos / os.fsdecode(b"caf\xe9.png"))
    search = ["retrieve", "--model", models[0], "--images", photos, "red"]
    assert r"caf\udce9.png" in script(*search).out
    names = [Path(found["image"]).name for found in json.loads(script(*search, "--json").out)["results"]]
    assert os.fsdecode(b"caf\xe9.png") in names


def test_words_find_the_images_of_a_split(models, data, tmp_path):
    aligned, _ = models
    outcome = script(
        "retrieve", "--model", aligned, "--split", "test", "blue", "--index", tmp_path / "index", "--pictures", tmp_path
    )
    assert outcome.status == 0, outcome
    assert len(outcome.out.splitlines()) == 3
    for name in ("10.png", "11.png"):
        assert str(data[0] / "pictures" / name) in outcome.out
    with Image.open(tmp_path / "blue.png") as drawn:
        assert drawn.size[0] > 400


def scenes(folder: Path) -> Path:
    """Four pictures that differ, a copy of the first one, small and dark, and a file that is no picture."""
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.png", "c.png", "d.png")):
        cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((120, 100), Image.Resampling.BICUBIC).save(folder / name)
    with Image.open(folder / "a.png") as image:
        image.resize((60, 50)).point(lambda value: int(0.7 * value)).save(folder / "copy.jpg")
    (folder / "bad.jpg").write_text("this is text")
    return folder


def test_a_photo_finds_photos_like_it_and_its_copies_first(models, tmp_path, monkeypatch):
    folder = scenes(tmp_path / "scenes")
    monkeypatch.chdir(folder)
    (folder / "red").write_bytes((folder / "b.png").read_bytes())  # no suffix, so it is not in the index
    search = ["retrieve", "--model", models[0], "--images", folder, "--best", "2"]
    outcome = script(*search, "a.png", "a red picture", "red", "--picture", "c.p*", "--picture", "copy.jpg", "--json")
    assert outcome.status == 0, outcome
    found = {line["query"]: line["results"] for line in map(json.loads, outcome.out.splitlines())}
    assert list(found) == ["a.png", "a red picture", "red", "c.png", "copy.jpg"], "in the order of the command line"
    names = {query: [Path(result["image"]).name for result in results] for query, results in found.items()}
    copies = {
        query: [Path(result["image"]).name for result in results if result.get("near_duplicate")]
        for query, results in found.items()
    }
    assert copies == {"a.png": ["copy.jpg"], "a red picture": [], "red": ["b.png"], "c.png": [], "copy.jpg": ["a.png"]}
    assert {query: len(line) for query, line in names.items()} == {
        "a.png": 3, "a red picture": 2, "red": 3, "c.png": 2, "copy.jpg": 3
    }  # fmt: skip
    for query, line in names.items():
        assert line[: len(copies[query])] == copies[query], "copies come first"
        assert query not in line, "a photo is not like itself"
        others = [result["cosine"] for result in found[query][len(copies[query]) :]]
        assert others == sorted(others, reverse=True)
    assert "likeness" not in found["a red picture"][0]


@pytest.mark.slow
def test_a_photo_is_searched_in_a_split_and_drawn(models, data, tmp_path):
    photo = tmp_path / "photo.jpg"
    with Image.open(data[0] / "pictures" / "10.png") as image:
        image.save(photo, quality=95)
    options = ["--index", tmp_path / "index", "--pictures", tmp_path / "drawn"]
    outcome = script("retrieve", "--model", models[0], "--split", "test", photo, *options)
    assert outcome.status == 0, outcome
    lines = outcome.out.splitlines()
    assert lines[0] == str(photo)
    assert lines[1].endswith(f"{data[0] / 'pictures' / '10.png'}  (near-duplicate)")
    assert lines[2].endswith(f"{data[0] / 'pictures' / '11.png'}")
    assert (tmp_path / "drawn" / "photo.png").exists()


@pytest.mark.slow
def test_photos_that_cannot_be_read_are_named_and_the_others_are_searched(models, tmp_path, monkeypatch):
    folder = scenes(tmp_path / "scenes")
    monkeypatch.chdir(folder)
    (folder / "grey").write_text("text")
    search = ["retrieve", "--model", models[0], "--images", folder, "--json"]
    outcome = script(*search, "bad.jpg", "grey", "a.png", "--picture", "nowhere.jpg")
    assert outcome.status == 1
    assert [json.loads(line)["query"] for line in outcome.out.splitlines() if "error" not in json.loads(line)] == [
        "a.png"
    ]
    for name in ("bad.jpg", "grey", "nowhere.jpg"):
        assert f"error: {name}: " in outcome.err
    assert outcome.err.count("a query that is the name of a file is a picture") == 1, "of grey alone"
    outcome = script(*search[:-1], "--index", tmp_path / "index", "--picture", "nowhere.jpg")
    assert (outcome.status, outcome.out) == (1, "")
    assert not (tmp_path / "index").exists(), "no index for nothing"
    refused(*search, "red.jpg", mentions=r"query 'red\.jpg': there is no such file, and .*; mend the name")


def test_photos_find_captions(models, photos, tmp_path):
    aligned, _ = models
    (tmp_path / "captions.txt").write_text("a red picture\n\nthis one is grey\na red picture\n...\ngreen\n")
    search = ["retrieve", "--model", aligned, "--captions", tmp_path / "captions.txt", photos]
    outcome = script(*search, "--best", "9", "--json", "--pictures", tmp_path / "drawn")
    assert outcome.status == 1, "one of the photos cannot be read"
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [Path(line["query"]).name for line in lines if "error" in line] == ["bad.jpg"]
    found = [line for line in lines if "results" in line]
    assert [Path(line["query"]).name for line in found] == ["a.png", "b.png", "c.png", "d.png"]
    for line in found:
        assert {result["caption"] for result in line["results"]} == {"a red picture", "this one is grey", "green"}
        cosines = [result["cosine"] for result in line["results"]]
        assert cosines == sorted(cosines, reverse=True)
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.png", "b.png", "c.png", "d.png"]
    outcome = script("retrieve", "--model", aligned, "--captions", "train", photos / "a.png", "--best", "20")
    assert outcome.status == 0
    assert len(outcome.out.splitlines()) == 1 + 8  # the eight different captions of the training split
    outcome = script("retrieve", "--model", aligned, "--captions", "dev", photos / "a.png", "--best", "20")
    assert len(outcome.out.splitlines()) == 1 + 4


@pytest.mark.slow
def test_a_captioner_puts_the_first_candidates_in_order(models, photos, tmp_path):
    aligned, captioned = models
    search = ["retrieve", "--model", aligned, "--images", photos, "this is red", "--best", "4", "--json"]
    plain = json.loads(script(*search).out)["results"]
    judged = ["--rerank", captioned, "--candidates", "3", "--cosine-weight"]
    ranked = json.loads(script(*search, *judged, "0").out)["results"]
    assert ranked[3]["image"] == plain[3]["image"]
    assert "log_prob" not in ranked[3]
    log_p = [result["log_prob"] for result in ranked[:3]]
    assert log_p == sorted(log_p, reverse=True)
    assert {result["image"] for result in ranked[:3]} == {result["image"] for result in plain[:3]}
    # A cosine that counts for everything gives the towers' order back.
    heavy = json.loads(script(*search, *judged, "1000000").out)["results"]
    assert [result["image"] for result in heavy] == [result["image"] for result in plain]
    (tmp_path / "captions.txt").write_text("a red picture\nthis one is grey\ngreen\n")
    search = ["retrieve", "--model", aligned, "--captions", tmp_path / "captions.txt", "--rerank", captioned, "--json"]
    found = json.loads(script(*search, photos / "a.png").out)["results"]
    assert all(result["log_prob"] < 0 for result in found)
    refused(*search, photos / "a.png", "--rerank-by", "gain", mentions="--rerank-by: gain .* 1 are too few")


# Refusals -------------------------------------------------------------------------------------------------------------


def test_retrieve_names_what_is_wrong(models, photos, tmp_path):
    aligned, captioned = models
    model = ["retrieve", "--model", aligned]
    images = [*model, "--images", photos]
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("text")
    refused(*model, "--images", tmp_path / "empty", "red", mentions="--images: .*empty: holds no pictures")
    refused(*model, "--images", tmp_path / "nowhere", "red", mentions="nowhere: there is no such folder")
    refused(*model, "--images", tmp_path / "bad", "red", mentions="bad: not one of its 1 pictures could be read")
    refused(*images, "  ", mentions="query '  ': has no words")
    refused(*images, "zebra crossing", mentions="query 'zebra crossing': the model knows none of these words")
    assert "unknown words: zebra" in script(*images, "a red zebra").err
    refused(*model, "red", mentions="query: .*; give --images FOLDER, --index FOLDER, --split NAME or --captions")
    refused(*model, "--split", "dev", "red", "--exclude", "a", mentions="--exclude: is read only with a folder")
    refused(*model, "--captions", tmp_path / "blank.txt", photos, mentions="blank.txt: holds no captions")
    refused(*model, "--captions", tmp_path / "no.txt", photos, mentions=r"no\.txt: cannot be read as captions")
    refused(*model, "--captions", tmp_path / "blank.txt", mentions="--captions: name the photos")
    refused(
        *images, "red", "--candidates", "3", mentions="--candidates: is read only with --rerank CAPTIONER; add that"
    )
    refused(*images, "red", "--cosine-weight", "0", mentions="--cosine-weight: is read only with --rerank")
    refused(*images, "red", "--rerank", captioned, "--candidates", "0", mentions="--candidates: must be at least 1")
    for query in ([photos / "a.png"], ["--picture", photos / "a.png"]):
        judged = [*query, "--rerank", captioned]
        refused(*images, *judged, mentions=r"--rerank: a captioner judges words, and .*a\.png is a picture; leave out")
        refused(*model, *query, mentions="query: .*; give --images FOLDER, --index FOLDER, --split NAME or --captions")
    refused(*images, "--picture", photos / "*.gif", mentions=r"\*\.gif: no file has such a name")
    refused(*images, "red", "--split", "dev", mentions="--split: --images searches a folder of your own")
    refused(*images, "red", "--output", tmp_path, mentions="--output: is for the scores of a split")
    refused(*images, "--best", "3", mentions="--best: is for the results of a query")
    refused(*model, "--index-type", "exact", mentions="--index-type: is for the results of a query")
    searched = ["--captions", tmp_path / "blank.txt", photos, "--index-type", "exact"]
    refused(*model, *searched, mentions="--index-type: with --captions, captions are searched")
    refused(*model, "--json", mentions="--json: is for the results of a query")
    refused(
        *model,
        "--split",
        "test",
        "--rerank",
        captioned,
        "--choose",
        mentions="--choose: works on dev only; leave out --split",
    )
    refused(*model, "--split", "tset", mentions="split: .*'tset'; it has train")
    refused(*model, "--joint-size", "32", mentions="joint_size: the model was trained with 16")
    refused("retrieve", "--model", captioned, mentions="of kind captioner, and one of kind aligner is wanted")
    refused(*model, "--rerank", aligned, mentions="of kind aligner, and one of kind captioner is wanted")
    refused("retrieve", "--model", tmp_path / "nowhere", mentions="nowhere: there is no such aligner")
    refused("evaluate", "--model", aligned, mentions="of kind aligner, and one of kind captioner is wanted")
    refused("test", photos / "a.png", "--model", aligned, mentions="of kind aligner")
    (tmp_path / "file").write_text("")
    refused(*images, "red", "--length-penalty", "0.5", mentions="length_penalty: stage=align does not use it")
    refused(*images, "red", "--index", tmp_path / "file", mentions="file: the index cannot be written")
    refused(*images, "red", "--pictures", tmp_path / "file", mentions="--pictures: .*file: cannot be written")
    refused(*model, "--output", tmp_path / "file", mentions="file/.*: cannot be written")


# In processes of their own --------------------------------------------------------------------------------------------


@pytest.mark.weekly
@pytest.mark.parametrize("backend", ["jax", "torch"])  # the tests above run on TensorFlow
def test_each_backend_aligns_and_retrieves(data, tmp_path, backend):
    pytest.importorskip(backend)
    places = [*data[1], "--feature-dir", tmp_path / "features"]
    run = ["--run-dir", tmp_path, "--name", "run", "--backend", backend, "--epochs", "1"]
    child = process("train", "--stage", "align", *places, *TINY_ALIGNER, "--encoder", data[0] / "encoder.keras", *run)
    _, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    model = ["--model", tmp_path / "run", "--backend", backend]
    child = process("retrieve", *model, "--images", data[0] / "pictures", "red")
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    assert len(out.splitlines()) == 6
