"""Predictions are matched to the split's images by id, scored, set against a shuffled control, and compared."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from layouts import VAL, coco_files, write_files

import evaluate
from captioning.base.errors import UserError
from captioning.data.records import ImageRecord
from captioning.metrics import scores as metrics
from config import Config


def record(image_id: int, *captions: str) -> ImageRecord:
    return ImageRecord(image_id, f"{image_id}.jpg", Path(f"{image_id}.jpg"), captions, "test")


RECORDS = [
    record(3, "one brown dog runs far"),
    record(7, "two cats sleep in bed"),
    record(9, "three birds sing at dawn"),
]


def write_predictions(tmp_path: Path, content) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def entries(**captions: str) -> list[dict]:
    return [{"image_id": int(name[1:]), "caption": caption} for name, caption in captions.items()]


def test_predictions_come_in_the_order_of_the_records(tmp_path):
    path = write_predictions(tmp_path, entries(_9="birds", _3="dog", _7="ein schöner Kater"))
    assert evaluate.read_predictions(path, RECORDS) == ["dog", "ein schöner Kater", "birds"]


def test_predictions_from_elsewhere_may_name_the_image_files(tmp_path):
    found = [{"image_id": f"{i}.jpg", "caption": text} for i, text in ((9, "birds"), (3, "dog"), (7, "cats"))]
    assert evaluate.read_predictions(write_predictions(tmp_path, found), RECORDS) == ["dog", "cats", "birds"]
    found[0]["image_id"] = 9
    with pytest.raises(UserError, match="1 missing, 1 not in the split"):
        evaluate.read_predictions(write_predictions(tmp_path, found), RECORDS)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (entries(_3="dog", _7="cats"), "1 missing, 0 not in the split"),
        (entries(_3="dog", _7="cats", _9="birds", _10="fish"), "0 missing, 1 not in the split"),
        (entries(_1="dog", _2="cats", _4="birds"), "3 missing, 3 not in the split"),
        ([{"image_id": name, "caption": "dog"} for name in ("3", "7", "9")], "3 missing, 3 not in the split"),
        ([*entries(_3="dog", _7="cats", _9="birds"), *entries(_7="no cats")], "image 7 occurs twice"),
        ([{"image_id": 3, "text": "dog"}], "expected a JSON list"),
        ([{"image_id": 3, "caption": None}], "expected a JSON list"),
        ([{"image_id": [3], "caption": "dog"}], "expected a JSON list"),
        ({"3": "dog"}, "expected a JSON list"),
        ([3, 7, 9], "expected a JSON list"),
        (7, "expected a JSON list"),
        ([], "not those of the test split: 3 missing, 0 not in the split; name the --split"),
        ("", "expected a JSON list"),
        ("[{", "expected a JSON list"),
    ],
)
def test_predictions_of_other_images_are_refused(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        evaluate.read_predictions(write_predictions(tmp_path, content), RECORDS)
    assert "predictions.json" in str(error.value)


def test_a_predictions_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        evaluate.read_predictions(tmp_path / "absent.json", RECORDS)
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"image_id": 3, "caption": "sch\xf6n"}]')
    with pytest.raises(UserError, match=r"latin\.json"):
        evaluate.read_predictions(path, RECORDS)


def score(captions: list[str], protocol: str = "coco", **options) -> dict:
    return evaluate.score(captions, RECORDS, protocol, Config(), **options)[0]


RIGHT = [record.captions[0] for record in RECORDS]


def test_score_and_its_shuffled_control():
    found, each = evaluate.score(RIGHT, RECORDS, "coco", Config())
    assert found["bleu"] == pytest.approx([100.0] * 4)
    assert found["rouge_l"] == pytest.approx(100)
    assert found["cider_d"] == pytest.approx(1000)  # ten times the cosine, times 100
    np.testing.assert_allclose(each, [1000] * 3)
    # Each image gets the caption of its neighbour: right words elsewhere count for nothing.
    assert found["shuffled_bleu"] == pytest.approx([0.0] * 4, abs=1e-9)
    assert found["shuffled_cider_d"] == 0
    assert {name: found[name] for name in metrics.statistics(RIGHT)} == metrics.statistics(RIGHT)


def test_scores_are_those_of_the_metrics():
    captions = ["one brown cat runs far", "two cats sleep", "A bird!"]
    references = [record.captions for record in RECORDS]
    found, each = evaluate.score(captions, RECORDS, "coco", Config())
    assert found["bleu"] == pytest.approx(metrics.bleu(captions, references))
    assert found["rouge_l"] == pytest.approx(metrics.rouge_l(captions, references)[0])
    np.testing.assert_allclose(each, metrics.cider_d(captions, references)[1])
    assert found["cider_d"] == pytest.approx(each.mean())
    assert found["intervals"].keys() == {"bleu4", "rouge_l", "cider_d"}
    assert sum(group["images"] for group in found["cider_d_by_reference_length"]) == 3


def test_novel_captions_are_told_where_there_are_training_captions():
    assert score(RIGHT, training=["One brown dog runs far ."])["novel"] == 2 / 3
    assert "novel" not in score(RIGHT)


def test_java_tools_score_the_same_words(monkeypatch):
    """The tokeniser splits captions and references for all metrics, METEOR too."""
    seen = []

    def meteor(found, wanted):
        seen.append((found, wanted))
        return 12.5, np.zeros(3)

    monkeypatch.setattr(evaluate.java, "tokenize", lambda texts: [text.upper().split() for text in texts])
    monkeypatch.setattr(evaluate.java, "meteor", meteor)
    found = score(["one brown dog", "two", "three"], tools=["meteor", "tokenizer"])
    assert found["meteor"] == 12.5
    assert found["tokenizer"] == "stanford"
    ((captions, references),) = seen
    assert captions == [["ONE", "BROWN", "DOG"], ["TWO"], ["THREE"]]
    assert references == [[record.captions[0].upper().split()] for record in RECORDS]
    assert found["bleu"][0] > 0


def test_a_captioner_that_does_not_look_loses_nothing_to_shuffling():
    found = score(["one brown dog runs far"] * 3)
    assert found["bleu"] == found["shuffled_bleu"]
    assert found["cider_d"] == found["shuffled_cider_d"]
    assert found["most_common"] == 1.0


def test_seed_protocol_is_bleu_of_its_own_kind_alone():
    references = [record.captions for record in RECORDS]
    found = score(RIGHT[::-1], "seed")
    assert found["bleu"] == metrics.bleu(RIGHT[::-1], references, "seed")
    assert found["bleu"] != metrics.bleu(RIGHT[::-1], references, "coco")
    assert not {"rouge_l", "cider_d", "intervals"} & found.keys()


def row(protocol: str = "coco", **changes) -> dict:
    about = {"captioner": "run-1", "split": "test", "protocol": protocol, "decoding": "beam 3"}
    return {**about, **score(RIGHT, protocol), **changes}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_is_markdown_with_a_row_for_each_search():
    other = {"bleu": [60.04, 50.0, 40.0, 30.567], "cider_d": 53.705, "novel": 0.875, "meteor": 20.126}
    intervals = {"cider_d": [50.449, 57.0]}
    text = evaluate.table([row(decoding="greedy", novel=1, meteor=9), row(**other, intervals=intervals)])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert dict(zip(cells(lines[0]), cells(lines[3]), strict=True)) == {
        "captioner": "run-1",
        "split": "test",
        "images": "3",
        "protocol": "coco",
        "decoding": "beam 3",
        "B1": "60.04",
        "B2": "50.00",
        "B3": "40.00",
        "B4": "30.57",
        "METEOR": "20.13",
        "ROUGE-L": "100.00",
        "CIDEr": "53.70 (50.4-57.0)",
        "shuffled CIDEr": "0.00",
        "distinct": "100%",
        "novel": "88%",
        "vocabulary": "15",
        "words": "5.0",
        "dangling": "0.0%",
    }


def test_what_gives_a_bad_captioner_away_is_below_the_table():
    looks = {"entropy": 2.5, "maximum_entropy": 5.614}
    groups = [{"score": 80.52, "reference_length": 8.3}, {"score": 40.0, "reference_length": 12.25}]
    bad = {"repeated_bigrams": 0.25, "repeats": 0.5, "most_common": 0.75, "cider_d_by_reference_length": groups}
    text = evaluate.table(
        [row(**bad, attention=looks), row(decoding="greedy", settings={"no_repeat_ngram": 3}), row("seed")]
    )
    first, second, third = text.splitlines()[-5::2]
    assert first == (
        "beam 3: commonest caption 75.0%; a word twice in a row 50.0%; repeated bigrams 25.0%; repeated trigrams 0.0%; "
        "CIDEr by length of the references 80.5 of 8.3 words, 40.0 of 12.2 words; attention's entropy 2.50 of 5.61 bits"
    )
    assert "repeated bigrams 0.0%; repeated trigrams 0.0% (blocked in decoding); CIDEr" in second
    assert third.endswith("repeated trigrams 0.0%")


def test_table_of_the_seed_protocol_has_bleu_only():
    header = cells(evaluate.table([row("seed")]).splitlines()[0])
    assert header[5:10] == ["B1", "B2", "B3", "B4", "shuffled B4"]
    assert not {"CIDEr", "ROUGE-L", "METEOR"} & set(header)


def test_table_adds_what_is_known_of_demo_scenes():
    demo = {"all_right": 0.5, "colour": 0.75}
    text = evaluate.table([row(demo=demo, shuffled_demo={"all_right": 0.125})])
    assert text.splitlines()[-1] == "beam 3: all right 50.0%, colour 75.0%; shuffled: all right 12.5%"


# Attention ------------------------------------------------------------------------------------------------------------


def looks(make_store, weights) -> dict:
    """The statistics of a decoder that looks by ``weights (5, columns)``, by image, for each word of its caption."""
    records = [record(i, "any") for i in range(5)]
    store = make_store([r.file_name for r in records], shape=(4, 1))
    features = store.read(np.arange(5))
    captions = [f"caption of {i}" for i in range(5)]

    def attend(batch, texts):
        found = []
        for one, text in zip(batch, texts, strict=True):
            np.testing.assert_array_equal(one, features[int(text[-1])])  # each caption meets its own image
            end = np.eye(len(weights[0]))[0]
            found.append(np.array([weights[int(text[-1])]] * 3 + [end]))
        return found

    captioner = SimpleNamespace(decoder=SimpleNamespace(sizes={"regions": 4}), attend=attend)
    return evaluate.attention_statistics(captioner, records, store, captions, Config(decode_batch_size=2))


def test_entropy_of_the_attention(make_store):
    one, two, all_four = [1, 0, 0, 0], [0.5, 0, 0.5, 0], [0.25] * 4
    assert looks(make_store, [one] * 5) == pytest.approx({"entropy": 0, "maximum_entropy": 2})
    found = looks(make_store, [one, two, all_four, all_four, two])
    assert found == pytest.approx({"entropy": (0 + 1 + 2 + 2 + 1) / 5, "maximum_entropy": 2})


def test_entropy_beside_a_sentinel_is_that_of_the_share_for_the_image(make_store):
    found = looks(make_store, [[0.3, 0.3, 0, 0, 0.4], *[[0.2, 0, 0.2, 0, 0.6]] * 4])
    assert found == pytest.approx({"entropy": 1, "maximum_entropy": 2, "image_share": (0.6 + 4 * 0.4) / 5})


# The script, without a model ------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """``run(*arguments)`` calls ``evaluate.main`` on a data set of three test and one training image; returns its stdout."""
    lines = [{"image": "0.jpg", "caption": "Three birds sing at dawn .", "split": "train"}]
    for record in RECORDS:
        lines.append({"image": record.file_name, "captions": record.captions, "split": "test"})
    for line in lines:
        (tmp_path / line["image"]).write_bytes(b"never opened")
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = ["--dataset", "folder", "--data-dir", tmp_path, "--captions-file", tmp_path / "captions.jsonl"]

    def call(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--split", "test", *map(str, [*data, *arguments])])
        evaluate.main()
        return capsys.readouterr().out

    return call


def predictions(path: Path, captions: list[str]) -> Path:
    found = [{"image_id": i, "caption": caption} for i, caption in enumerate(captions, 1)]
    path.write_text(json.dumps(found))
    return path


def test_predictions_for_coco_are_matched_by_its_ids(tmp_path, run):
    """Those of a captioner from elsewhere, as COCO's own evaluation takes them."""
    write_files(tmp_path, coco_files())
    found = [{"image_id": i, "caption": f"caption 0 of {i}"} for i in VAL[::-1]]
    path = tmp_path / "captions_val2017_mine_results.json"
    path.write_text(json.dumps(found))
    coco = ["--dataset", "coco", "--data-dir", tmp_path, "--captions-file", "none"]
    assert "| captions_val2017_mine_results | test | 3 | coco | as given | 100.00 |" in run(
        "--predictions", path, *coco
    )
    path.write_text(json.dumps(found[1:]))
    with pytest.raises(UserError, match="1 missing, 0 not in the split"):
        run("--predictions", path, *coco)


def test_predictions_from_elsewhere_get_all_scores(tmp_path, run):
    path = predictions(tmp_path / "mine.json", RIGHT)
    shown = run("--predictions", path)
    assert shown == (tmp_path / "scores-test-coco.md").read_text()
    (scores,) = json.loads((tmp_path / "scores-test-coco.json").read_text())
    assert scores["captioner"] == "mine"
    assert scores["cider_d"] == pytest.approx(1000)
    assert scores["novel"] == pytest.approx(2 / 3)


def test_comparison_of_two_files(tmp_path, run):
    first = predictions(tmp_path / "a.json", [*RIGHT[:2], "a cow"])
    second = predictions(tmp_path / "b.json", RIGHT)
    lines = run("--compare", first, second).splitlines()
    assert lines[:3] == [f"A: {first}", f"B: {second}", "test, 3 images"]
    table = [cells(line) for line in lines[4:]]
    assert table[0] == ["metric", "A", "B", "B - A", "95% interval", "p"]
    assert [line[0] for line in table[2:]] == ["BLEU-4", "ROUGE-L", "CIDEr"]
    assert table[4][1:4] == ["666.67", "1000.00", "+333.33"]
    assert table[4][4] == "+0.00 to +1000.00"
    assert float(table[4][5]) > 0.9  # of one caption that differs nothing follows
    assert not list(tmp_path.glob("scores*"))


def test_comparison_of_several_seeds(tmp_path, run):
    seeds = [RIGHT, [RIGHT[0], "a cow", "a cow"]]
    names = [predictions(tmp_path / f"a{number}.json", captions) for number, captions in enumerate(seeds)]
    others = [predictions(tmp_path / f"b{number}.json", RIGHT) for number in (0, 1)]
    lines = run("--compare", tmp_path / "a?.json", tmp_path / "b?.json").splitlines()
    assert lines[:2] == [f"A: {names[0]}, {names[1]}", f"B: {others[0]}, {others[1]}"]
    # 1000 and 333.33: each image counts with the mean of its two captions.
    table = next(cells(line) for line in lines if "CIDEr" in line)
    assert table[1:4] == ["666.67 ± 471.40", "1000.00 ± 0.00", "+333.33"]
    assert table[4] == "+0.00 to +500.00"
    assert lines[-1].startswith("Means of 2 seeds")
    for second, complaint in (
        ("c*.json", r"no file is named .*c\*\.json"),
        ("b0.json", r"names 2 files and .* 1; give as many"),
        ("?1.json", r"none on both"),
    ):
        with pytest.raises(UserError, match=f"--compare: .*{complaint}"):
            run("--compare", tmp_path / "a?.json", tmp_path / second)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "run", "--compare", "a", "b"], "give either"),
        (["--compare", "a", "b", "--output", "there"], "--compare: .*writes nothing"),
        (["--compare", "a", "b", "--protocol", "seed"], "--protocol: seed knows BLEU"),
        (
            ["--predictions", "a", "--java", "meter"],
            "--java: there is no 'meter'; choose from meteor, spice, tokenizer",
        ),
        (["--compare", "a", "absent.json"], "no file is named 'a'"),
        (["--predictions", "a", "--report"], "--report: .*give --model"),
        (["--model", "run", "--report", "--protocol", "seed"], "--report: shows the coco scores"),
    ],
)
def test_what_cannot_be_done_is_refused(run, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        run(*arguments)


def test_a_missing_java_tool_is_named_before_any_work(run, monkeypatch):
    monkeypatch.setattr(evaluate.java, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"meteor: .*pip install -r requirements-metrics\.txt"):
        run("--predictions", "absent.json", "--java", "meteor")
