"""The report: whole in one file, safe from what captions hold, bounded in size, and right in what it shows."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioning.data.records import ImageRecord
from captioning.reports import cards as cards_module
from captioning.reports.page import report
from captioning.reports.rows import AttentionStatistics, ScoreRow
from captioning.reports.scoring import score
from captioning.storage.runs import Run
from config import Config

NASTY = '"><img src=x onerror=alert(1)><script>alert(2)</script> & </title>'
CONFIG = Config(decoder="merge", dropout=0.25, dev_beam_size=4)
SIZES = {"regions": 1, "feature_size": 2048, "vocabulary_size": 2549}


class Page(HTMLParser):
    """All tags with their attributes, and all text by the nearest tag around it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags:
            self.texts.append((self.tags[-1][0], data))

    def under(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag and text.strip()]


@pytest.fixture
def records(tmp_path) -> list[ImageRecord]:
    made = []
    for i in range(12):
        path = tmp_path / f"{i}.jpg"
        Image.new("RGB", (320, 200), (20 * i, 0, 0)).save(path)
        made.append(ImageRecord(i, path.name, path, (f"reference {i} of these", f"other {i} words"), "dev"))
    return made


def page(
    records,
    folder: Path,
    captions: list[str] | None = None,
    captioner: str = "run-1",
    attention: AttentionStatistics | None = None,
    **changes: Any,
) -> str:
    """The report of two decodings.

    The first always says the same. The second says the first references, with a wrong word from the seventh on.
    ``changes`` are those of the scores.
    """
    right = captions or [f"reference {i} of {'these' if i < 6 else 'those'}" for i in range(len(records))]
    rows, predictions = [], []
    for decoding, found in (("greedy", ["a dog"] * len(records)), ("beam 3", right)):
        scores, cider = score(found, records, "coco", CONFIG)
        rows.append(
            ScoreRow(
                captioner=captioner,
                split="dev",
                protocol="coco",
                decoding=decoding,
                scores=replace(scores, **changes),
                attention=attention,
                environment={"command": "evaluate.py --x", "packages": {"keras": "3.15"}},
            )
        )
        predictions.append((found, cider))
    return report(rows, predictions, records, CONFIG, SIZES, Run(folder))


def cards(text: str) -> list[str]:
    return re.findall(r"<article.*?</article>", text, flags=re.DOTALL)


def test_every_image_stands_with_its_captions_scores_and_references(records, tmp_path):
    text = page(records, tmp_path)
    everything = cards(text.split('id="all"')[1])
    assert len(everything) == 12
    (card,) = (card for card in everything if ">7.jpg<" in card)
    assert "a dog" in card
    assert "reference 7 of those" in card
    assert all(f"<li>{reference}</li>" in card for reference in records[7].captions)
    shown = [float(score) for score in re.findall(r"<b>([\d.]+)</b>", card)]
    _, expected = score(
        [f"reference {i} of {'these' if i < 6 else 'those'}" for i in range(12)], records, "coco", CONFIG
    )
    assert shown == [0, pytest.approx(expected[7], abs=0.06)]
    assert f'data-cider="0.00 {expected[7]:.2f}"' in card


def test_best_median_and_worst_come_first(records, tmp_path):
    captions = [" ".join(["reference", str(i), "of", "these"][: 1 + i // 3]) for i in range(12)]
    text = page(records, tmp_path, captions).split('id="all"')[0]
    names = {
        title: re.findall(r">(\d+)\.jpg<", part)
        for title, part in (part.split("</h3>", 1) for part in text.split("<h3>")[1:4])
    }
    _, cider = score(captions, records, "coco", CONFIG)
    ranked = [str(i) for i in np.argsort(-cider, kind="stable")]
    assert names == {"Best": ranked[:4], "Median": ranked[4:8], "Worst": ranked[:-5:-1]}


def test_text_of_strangers_stays_text(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    records = [ImageRecord(i, f"{NASTY}{i}", path, (NASTY,), "dev") for i in range(3)]
    text = page(records, tmp_path, [NASTY] * 3, captioner=NASTY)
    found = Page(text)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 1
    assert tags.count("img") == 6  # three cards and three examples
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert NASTY in "".join(found.under("dd"))
    assert NASTY in "".join(found.under("li"))


def test_the_page_needs_nothing_from_outside(records, tmp_path):
    text = page(records, tmp_path)
    found = Page(text)
    addresses = [value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    # Browsers hold it to that: nothing is fetched, and no script runs but the page's own.
    (policy,) = (attributes["content"] for _, attributes in found.tags if "http-equiv" in attributes)
    script = re.search(r"<script>(.*?)</script>", text, flags=re.DOTALL)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_of_many_images_some_are_shown_from_the_best_to_the_worst(records, tmp_path, monkeypatch):
    monkeypatch.setattr(cards_module, "MAX_IMAGES", 5)
    captions = [" ".join(["reference", str(i), "of", "these"][: 1 + i // 3]) for i in range(12)]
    text = page(records, tmp_path, captions)
    assert "5 of 12 images" in text
    _, cider = score(captions, records, "coco", CONFIG)
    ranked = np.argsort(-cider, kind="stable")
    found = re.findall(r"<h4>(\d+)\.jpg<", text.split('id="all"')[1])
    assert len(found) == 5
    assert (int(found[0]), int(found[-1])) == (ranked[0], ranked[-1])


def test_a_picture_that_has_gone_leaves_a_frame(records, tmp_path):
    records[0].path.unlink()
    text = page(records, tmp_path)
    assert text.count("picture not readable") == 2  # among the best, and among all
    assert text.count("<img ") == 22


def test_scores_settings_and_diagnostics(records, tmp_path):
    attention = AttentionStatistics(entropy=3.21, maximum_entropy=5.61, image_share=0.73)
    about = {"command": "train.py --y", "seed": 7, "git_commit": "abc123"}
    resumed = {"after_epochs": 2, "command": "train.py --z", "started": "today", "git_commit": "def456"}
    (tmp_path / "about.json").write_text(json.dumps({**about, "resumed": [resumed]}))
    text = page(records, tmp_path, attention=attention, meteor=20.13)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", text)]
    (beam,) = (row for row in rows if row[:2] == ["beam", "3"])
    assert "20.13" in beam
    assert beam.count("to") == 3  # BLEU-4, ROUGE-L and CIDEr have intervals
    assert ["dropout", "0.25", "0.3"] in rows
    assert not [row for row in rows if row[0] == "embedding_size"]  # as by default
    assert ["command", "train.py", "--y"] in rows
    assert ["git_commit", "abc123"] in rows
    assert "after epoch 2: train.py --z (today, commit def456)" in text
    assert ["packages", "keras", "3.15"] in rows
    assert ["distinct", "captions", "8.3%", "100.0%"] in rows
    assert "entropy is 3.21 bits per word" in text
    assert "73% of the attention goes to the image" in text


def test_the_pictures_come_right_after_the_scores(records, tmp_path):
    text = page(records, tmp_path)
    sections = ["Scores", "Pictures", "Diagnostics", "Architecture", "Settings"]
    assert re.findall(r'<section id="(\w+)">', text) == sections
    assert re.findall(r'<a href="#(\w+)">', text) == sections


def test_curves_of_a_run(records, tmp_path):
    Run(tmp_path).write_state(epochs=3, best_epoch=2, best_score=1.0)
    (tmp_path / "config.json").write_text(Config(dev_beam_size=5).to_json())
    lines = [{"epoch": e, "nll": 4 - e, "val_nll": 4.5 - e, "bleu4": 10.0 * e, "seconds": 60.0} for e in (1, 2, 3)]
    lines[2]["val_nll"] = float("nan")
    Run(tmp_path).write_history(lines)
    text = page(records, tmp_path)
    told = re.findall(r"<title>(epoch [^<]+)</title>", text)
    assert told == [
        *("epoch 1: 3", "epoch 2: 2", "epoch 3: 1"),
        *("epoch 1: 3.5", "epoch 2: 2.5"),
        *("epoch 1: 10", "epoch 2: 20", "epoch 3: 30"),
    ]
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)" r="3">', text)]
    assert heights[0] < heights[1] < heights[2]  # downwards
    assert heights[5] > heights[6] > heights[7]
    assert text.count("best epoch: 2") == 2
    assert "3 epochs in 3.0 minutes; best: 2." in text
    assert "Dev captions (beam 5), coco protocol" in text  # as they were decoded then


def test_a_captioner_without_its_run_has_no_curves(records, tmp_path):
    text = page(records, tmp_path)
    assert 'id="Training"' not in text
    assert 'id="Architecture"' in text
