"""The script without a model: captions from elsewhere are scored and compared, and conflicts are refused."""

import json
import sys
from pathlib import Path

import pytest
from layouts import VAL, coco_files, write_files
from three_images import RECORDS, RIGHT

import evaluate
from captioning.base.errors import UserError
from captioning.metrics import java


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


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


@pytest.fixture
def bare(tmp_path, monkeypatch, capsys):
    """``bare(*arguments)`` calls ``evaluate.main`` where there are no pictures; returns its stdout and stderr."""

    def call(*arguments) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        evaluate.main()
        return tuple(capsys.readouterr())

    return call


def test_captions_are_scored_against_references_without_pictures(tmp_path, run, bare):
    """With the scores that a data set of these captions gives."""
    found = predictions(tmp_path / "mine.json", RIGHT)
    expected = run("--predictions", found)
    album = tmp_path / "mine.jsonl"
    lines = [{"image": r.file_name, "captions": [{"caption": t}]} for r, t in zip(RECORDS, RIGHT, strict=True)]
    album.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8-sig")
    references = ["--references", tmp_path / "captions.jsonl", "--split", "test"]
    shown, told = bare(*references, "--predictions", album, "--output", tmp_path / "out")
    assert shown == expected
    assert (tmp_path / "out" / "scores-test-coco.md").read_text() == shown
    ids = [{"image_id": f"{record.image_id}", "caption": text} for record, text in zip(RECORDS, RIGHT, strict=True)]
    album.write_text("".join(json.dumps(line) + "\n" for line in ids))
    shown, told = bare(*references, "--predictions", album, "--output", tmp_path / "out")
    assert shown == expected
    assert "note: names of images that differ from those of the data set in their ending (matched): 3" in told
    (tmp_path / "few.csv").write_text("image,caption\n3.jpg,one brown dog runs far\n7.jpg,two cats sleep in bed\n")
    (tmp_path / "two.csv").write_text("image,caption\n7.jpg,two cats sleep in bed\n3.jpg,one brown dog runs far\n")
    shown, _ = bare("--references", tmp_path / "few.csv", "--predictions", tmp_path / "two.csv")
    assert cells(shown.splitlines()[2])[:5] == ["two", "all", "2", "coco", "as given"]
    two = tmp_path / "two.csv"
    shown, _ = bare("--references", tmp_path / "few.csv", "--compare", two, two)
    assert "all, 2 images" in shown
    with pytest.raises(UserError, match="its images are not those of the references: 1 missing, 2 not among them"):
        bare("--references", tmp_path / "few.csv", "--predictions", predictions(tmp_path / "mine.json", RIGHT))
    with pytest.raises(UserError, match="--data-dir: --references takes the place of a data set"):
        bare("--references", tmp_path / "few.csv", "--predictions", two, "--data-dir", tmp_path)
    with pytest.raises(UserError, match="--dataset: --references takes the place of a data set"):
        bare("--references", tmp_path / "few.csv", "--predictions", two, "--dataset", "folder")
    with pytest.raises(UserError, match="--references: is for captions in files"):
        bare("--references", tmp_path / "few.csv", "--model", tmp_path)


def test_captions_in_chinese_are_scored_by_characters_or_words_of_unicode(tmp_path, bare):
    references, found = tmp_path / "references.csv", tmp_path / "found.csv"
    references.write_text(
        "image,caption\n1.jpg,一只红色的狗在草地上跑。\n2.jpg,两只黑色的猫，在床上睡觉\n", encoding="utf-8"
    )
    found.write_text("image,caption\n1.jpg,一只红色的狗在草地上\n2.jpg,两只黑猫在床上睡觉\n", encoding="utf-8")
    files = ["--references", references, "--predictions", found]
    shown, told = bare(*files)
    assert "note: words: 50% of the captions have sentences without spaces" in told
    assert cells(shown.splitlines()[2])[5] == "0.00", "each sentence is a word"
    shown, told = bare(*files, "--words", "unicode")
    # All 19 characters are right, and the references have 22: exp(1 - 22 / 19).
    assert cells(shown.splitlines()[2])[3:6] == ["coco-unicode", "as given", "85.39"]
    assert "note: words" not in told
    assert json.loads((tmp_path / "scores-all-coco-unicode.json").read_text())[0]["tokenizer"] == "unicode"
    assert (tmp_path / "scores-all-coco.json").is_file(), "scores of two splittings stand beside each other"
    shown, _ = bare("--references", references, "--compare", found, found, "--words", "characters")
    assert "all, 2 images, protocol coco-characters" in shown


def test_java_tools_are_refused_for_other_splittings(tmp_path, run, monkeypatch):
    monkeypatch.setattr(java, "require", lambda tool: None)
    with pytest.raises(UserError, match="--java: these programs are made for English, and words is unicode"):
        run("--predictions", tmp_path / "a", "--java", "meteor", "--words", "unicode")


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
        ("b0.json", r"names 2 files and .* 1; give equally many"),
        ("?1.json", "no file on both"),
    ):
        with pytest.raises(UserError, match=f"--compare: .*{complaint}"):
            run("--compare", tmp_path / "a?.json", tmp_path / second)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "run", "--compare", "a", "b"], "give one of"),
        (["--compare", "a", "b", "--output", "there"], "--compare: .*writes nothing"),
        (["--compare", "a", "b", "--protocol", "seed"], "--protocol: seed has only BLEU"),
        (
            ["--predictions", "a", "--java", "meter"],
            "--java: there is no 'meter'; choose from meteor, spice, tokenizer",
        ),
        (["--predictions", "a", "--words", "wordpieces"], "words: .*'treebank', 'unicode' or 'characters'"),
        (
            ["--predictions", "a", "--words", "unicode", "--protocol", "seed"],
            "--protocol: seed splits captions at spaces",
        ),
        (["--compare", "a", "absent.json"], "no file is named 'a'"),
        (["--predictions", "a", "--report"], "--report: .*give --model"),
        (["--model", "run", "--report", "--protocol", "seed"], "--report: shows the coco scores"),
        (["--model", "run", "--variety", "1"], "--variety: 1 captions of an image cannot differ"),
        (["--predictions", "a", "--corrupt", "blur"], "--corrupt: .* needs a captioner, not captions in a file"),
        (["--compare", "a", "b", "--corrupt", "blur"], "--corrupt: .*give --model RUN"),
        (["--model", "run", "--corrupt", "fog"], "--corrupt: there is no kind 'fog'"),
        (["--model", "run", "--corrupt", "blur:9"], "--corrupt: blur:9: give a severity from 1 to 5"),
        (["--model", "run", "--corrupt", "blur", "--beam-sizes", "1,3"], "--beam-sizes: --corrupt takes one beam size"),
        (["--model", "run", "--corrupt", "blur", "--variety", "3"], "--variety: does not go together with --corrupt"),
        (["--model", "run", "--corrupt", "blur", "--protocol", "seed"], "--corrupt: uses the coco protocol"),
        (["--model", "run", "--corrupt", "blur", "--images", "0"], "--images: 0 is no number of images"),
        (["--model", "run", "--images", "9"], "--images: is for --corrupt"),
        (["--predictions", "a", "--variety", "5"], "--variety: measures several captions of a captioner"),
    ],
)
def test_what_cannot_be_done_is_refused(run, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        run(*arguments)


def test_a_missing_java_tool_is_named_before_any_work(run, monkeypatch):
    monkeypatch.setattr(java, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"meteor: .*pip install -e \"\.\[metrics\]\""):
        run("--predictions", "absent.json", "--java", "meteor")
