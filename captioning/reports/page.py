"""The report of an evaluation: one HTML file with scores, curves and captioned pictures, which needs no network.

evaluate.py --report writes it. Captions and file names are strangers' input: all text is escaped, and the page's own
policy forbids every script but the one below and every address. Pictures are JPEG thumbnails of at most 160 x 160
pixels inside the file, about 7 kB of it for a photo; of more than 1,000 images 1,000 are shown, evenly spaced by CIDEr.
"""

import base64
import hashlib
import html
import io
import json
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from captioning.data.records import ImageRecord
from captioning.pictures.loading import UnreadableImage
from captioning.reports.diagram import architecture
from captioning.reports.figures import read_picture
from captioning.reports.tables import blocked
from captioning.storage.runs import Run
from config import Config, search_name

MAX_IMAGES = 1000
THUMBNAIL = 160  # pixels of the longer side
EXAMPLES = 6  # best, median and worst images that are shown before all others

DIAGNOSTICS = {
    "mean_length": ("words per caption", "{:.1f}"),
    "vocabulary": ("different words used", "{:,}"),
    "distinct": ("distinct captions", "{:.1%}"),
    "novel": ("novel: not among the training captions", "{:.1%}"),
    "most_common": ("share of the commonest caption", "{:.1%}"),
    "dangling": ("dangling: ending in a function word", "{:.1%}"),
    "repeats": ("a word twice in a row", "{:.1%}"),
    "repeated_bigrams": ("two words that occur again", "{:.1%}"),
    "repeated_trigrams": ("three words that occur again", "{:.1%}"),
    "shuffled_cider_d": ("CIDEr when each image gets its neighbour's caption", "{:.1f}"),
    "decoding_seconds": ("seconds to caption all, with compilation", "{:.1f}"),
}


def report(
    rows: Sequence[dict[str, Any]],
    predictions: Sequence[tuple[Sequence[str], np.ndarray]],
    records: Sequence[ImageRecord],
    config: Config,
    sizes: dict[str, int],
    run: Run,
) -> str:
    """The page. ``rows`` are evaluate.py's scores, one per decoding, ``predictions`` the captions and CIDEr of each.

    ``sizes`` are the decoder's: regions, feature_size and vocabulary_size. A ``run`` without a history has no curves.
    """
    last = rows[-1]
    title = f"{last['captioner']}: captions of {last['captions']:,} {last['split']} images"
    policy = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    sections = {
        "Scores": _scores(rows) + _by_length(rows),
        "Diagnostics": _diagnostics(rows),
        "Training": _training(run),
        "Architecture": '<div class="wide" tabindex="0">'
        + architecture(config, sizes["regions"], sizes["feature_size"], sizes["vocabulary_size"])
        + "</div>",
        "Settings": _settings(rows, config, run),
        "Images": _images(rows, predictions, records, config.workers),
    }
    sections = {name: text for name, text in sections.items() if text}
    links = "".join(f'<a href="#{name}">{name}</a>' for name in sections)
    body = "".join(f'<section id="{name}"><h2>{name}</h2>{text}</section>' for name, text in sections.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{policy}'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{_text(title)}</title><style>{_STYLE}</style></head>
<body><header><h1>{_text(title)}</h1>
<p>{_text(config.dataset)}, decoder {_text(config.decoder)}, {_text(Path(config.encoder).name)};
 {_text(", ".join(row["decoding"] for row in rows))}; {time.strftime("%Y-%m-%d %H:%M")}</p><nav>{links}</nav></header>
<main>{body}</main><script>{_SCRIPT}</script></body></html>
"""


def _text(value: Any) -> str:
    return html.escape(str(value))


def _table(caption: str, head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table that scrolls by itself where the screen is narrow. The cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    top = f"<thead><tr>{top}</tr></thead>" if top else ""
    body = ""
    for first, *others in lines:
        body += f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
    return f'<div class="wide" tabindex="0"><table><caption>{caption}</caption>{top}<tbody>{body}</tbody></table></div>'


def _scores(rows: Sequence[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], name: str, value: float) -> str:
        low, high = row["intervals"].get(name, (None, None))
        return f"<b>{value:.2f}</b>" + (f" <small>{low:.1f} to {high:.1f}</small>" if low is not None else "")

    extra = {name: title for name, title in (("meteor", "METEOR"), ("spice", "SPICE")) if name in rows[0]}
    lines = [
        [
            _text(row["decoding"]),
            *(cell(row, f"bleu{n}", value) for n, value in enumerate(row["bleu"], 1)),
            cell(row, "rouge_l", row["rouge_l"]),
            *(cell(row, name, row[name]) for name in extra),
            cell(row, "cider_d", row["cider_d"]),
        ]
        for row in rows
    ]
    head = ["decoding", *(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-L", *extra.values(), "CIDEr"]
    return _table("Scores, with 95% bootstrap intervals over the images. CIDEr is CIDEr-D, as in papers.", head, lines)


def _by_length(rows: Sequence[dict[str, Any]]) -> str:
    most = max(group["score"] for row in rows for group in row["cider_d_by_reference_length"]) or 1
    lines = []
    for groups in zip(*(row["cider_d_by_reference_length"] for row in rows), strict=True):
        bars = (
            f'<meter max="{most:.2f}" value="{group["score"]:.2f}"></meter> {group["score"]:.1f}' for group in groups
        )
        lines.append([f"{groups[0]['reference_length']:.1f}", f"{groups[0]['images']:,}", *bars])
    head = ["words per reference", "images", *(_text(row["decoding"]) for row in rows)]
    return _table("CIDEr by length of the references, in groups of equally many images.", head, lines)


def _diagnostics(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        [title, *(form.format(row[name]) + blocked(row, name) for row in rows)]
        for name, (title, form) in DIAGNOSTICS.items()
        if name in rows[0]
    ]
    for name in rows[0].get("demo", {}):
        lines.append([f"demo: {_text(name.replace('_', ' '))}", *(f"{row['demo'][name]:.1%}" for row in rows)])
    text = _table("What a bad model cannot hide.", ["measure", *(_text(row["decoding"]) for row in rows)], lines)
    for row in rows:
        if looks := row.get("attention"):
            text += (
                f"<p>Attention ({_text(row['decoding'])}): entropy {looks['entropy']:.2f} bits per word on average; looking "
                f"everywhere alike would be {looks['maximum_entropy']:.2f}, at one region 0."
            )
            if "image_share" in looks:
                text += f" {looks['image_share']:.0%} of the attention goes to the image, the rest to the sentinel."
            text += "</p>"
    return text


# Training and settings ------------------------------------------------------------------------------------------------


def _training(run: Run) -> str:
    lines = run.history()
    if not lines:
        return ""
    best = run.state()["best_epoch"]
    charts = {
        "Negative log-likelihood, nats per word": {"nll": "training, with dropout", "val_nll": "dev"},
        f"Dev captions, {search_name(run.config().dev_search())}": {"bleu4": "BLEU-4", "cider": "CIDEr-D"},
    }
    if "reward" in lines[0]:
        charts["Drawn training captions"] = {"reward": "CIDEr-D"}
    drawn = ""
    for title, names in charts.items():
        curves = {label: [line[name] for line in lines] for name, label in names.items() if name in lines[0]}
        drawn += _chart(title, [int(line["epoch"]) for line in lines], curves, best)
    seconds = sum(line["seconds"] for line in lines)
    return f'<div class="charts">{drawn}</div><p>{len(lines)} epochs in {seconds / 60:,.1f} minutes; best: {best}.</p>'


def _chart(title: str, epochs: list[int], curves: dict[str, list[float]], best: int) -> str:
    """Curves over epochs as SVG, 480 x 280; each point tells its value. The best epoch is marked."""
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    if not values:
        return ""
    rough = (max(values) - min(values)) / 4 or 1
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    ticks = np.arange(math.floor(min(values) / step), math.ceil(max(values) / step) + 1) * step

    def x(epoch: float) -> str:
        return f"{45 + 420 * (epoch - epochs[0]) / max(1, epochs[-1] - epochs[0]):.1f}"

    def y(value: float) -> str:
        return f"{245 - 195 * (value - ticks[0]) / max(ticks[-1] - ticks[0], 1e-9):.1f}"

    text = f'<svg class="chart" viewBox="0 0 480 280" role="img" aria-label="{_text(title)}">'
    text += f'<text x="8" y="16" class="name">{_text(title)}</text>'
    for tick in ticks:
        text += f'<path d="M45 {y(tick)}H465"/><text x="40" y="{y(tick)}" dy="4" class="end">{tick:g}</text>'
    for epoch in epochs[:: -(-len(epochs) // 10)]:
        text += f'<text x="{x(epoch)}" y="262" class="middle">{epoch}</text>'
    text += '<text x="255" y="278" class="middle">epoch</text>'
    if best in epochs:
        text += f'<path class="best" d="M{x(best)} 245V50"><title>best epoch: {best}</title></path>'
    for number, (label, curve) in enumerate(curves.items()):
        points = [(epoch, value) for epoch, value in zip(epochs, curve, strict=True) if math.isfinite(value)]
        line = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in points)
        text += f'<g class="curve{number}"><polyline points="{line}"/>'
        text += f'<circle cx="{51 + 200 * number}" cy="32" r="4"/><text x="{60 + 200 * number}" y="36">{label}</text>'
        for epoch, value in points:
            text += f'<circle cx="{x(epoch)}" cy="{y(value)}" r="3"><title>epoch {epoch}: {value:.4g}</title></circle>'
        text += "</g>"
    return text + "</svg>"


def _settings(rows: Sequence[dict[str, Any]], config: Config, run: Run) -> str:
    defaults = Config().model_dump()
    changed = [
        [_text(name), _text(value), _text(defaults[name])]
        for name, value in config.model_dump().items()
        if value != defaults[name]
    ]
    text = _table("Settings that are not the defaults.", ["setting", "here", "default"], changed)
    for title, about in (("Training", _about(run)), ("Evaluation", rows[-1]["environment"])):
        if about:
            lines = [[_text(name), _text(_plain(value))] for name, value in about.items()]
            text += _table(f"{title}: command, seed, commit, machine and versions.", [], lines)
    return text


def _about(run: Run) -> dict[str, Any]:
    try:
        about = dict(json.loads((run.folder / "about.json").read_text(encoding="utf-8")))
        if "resumed" in about:
            about["resumed"] = [
                f"after epoch {each['after_epochs']}: {each['command']} ({each['started']}, commit {each['git_commit']})"
                for each in about["resumed"]
            ]
        return about
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _plain(value: Any) -> Any:
    """Lists and objects as plain words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value


# Images ---------------------------------------------------------------------------------------------------------------


def _images(
    rows: Sequence[dict[str, Any]],
    predictions: Sequence[tuple[Sequence[str], np.ndarray]],
    records: Sequence[ImageRecord],
    workers: int,
) -> str:
    """Best, median and worst images by the last decoding, then all with a filter."""
    names = [_text(row["decoding"]) for row in rows]
    order = np.argsort(-predictions[-1][1], kind="stable")
    if len(order) > MAX_IMAGES:
        order = order[np.linspace(0, len(order) - 1, MAX_IMAGES).round().astype(int)]
    with ThreadPoolExecutor(workers) as pool:
        pictures = list(pool.map(lambda index: _thumbnail(records[index].path), order))
    cards = []
    for index, picture in zip(order, pictures, strict=True):
        record = records[index]
        found = [(captions[index], float(ciders[index])) for captions, ciders in predictions]
        lines = "".join(
            f'<dt>{name} <b>{cider:.1f}</b></dt><dd class="p">{_text(caption)}</dd>'
            for name, (caption, cider) in zip(names, found, strict=True)
        )
        references = "".join(f"<li>{_text(reference)}</li>" for reference in record.captions)
        cards.append(
            f'<article data-cider="{" ".join(f"{cider:.2f}" for _, cider in found)}">{picture}'
            f'<h4>{_text(record.file_name)}</h4><dl>{lines}</dl><ul class="r">{references}</ul></article>'
        )
    count = min(EXAMPLES, -(-len(cards) // 3))
    middle = (len(cards) - count) // 2
    groups = {"Best": cards[:count], "Median": cards[middle : middle + count], "Worst": cards[-count:][::-1]}
    text = (
        f"<p>By the CIDEr of {names[-1]}, which stands beside each caption. Below the captions: what people wrote.</p>"
    )
    for title, group in groups.items():
        text += f'<h3>{title}</h3><div class="cards">{"".join(group)}</div>'
    options = "".join(f'<option value="{i}">{names[i]}</option>' for i in reversed(range(len(names))))
    shown = f"{len(cards):,} of {len(records):,} images" if len(cards) < len(records) else f"All {len(cards):,} images"
    return (
        text
        + f"""<h3>{shown}</h3>
<noscript><p>The filter needs JavaScript; all images follow.</p></noscript>
<form>
<label>Words <input name="words" type="search" placeholder="beginnings do: snowb"></label>
<label>in <select name="where"><option value="p r">captions or references</option><option value="p">captions</option>
<option value="r">references</option></select></label>
<label>CIDEr from <input name="low" type="number" step="any"></label>
<label>to <input name="high" type="number" step="any"></label>
<label>of <select name="decoding">{options}</select></label>
<label>order <select name="order"><option value="1">worst first</option><option value="-1">best first</option></select></label>
<output name="count" role="status"></output>
</form>
<div class="cards" id="all">{"".join(cards)}</div>
<button type="button" id="more" hidden>Show more</button>"""
    )


def _thumbnail(path: Path) -> str:
    """An HTML image that holds the picture's small JPEG; an empty frame where it cannot be read any more."""
    try:
        picture = read_picture(path, THUMBNAIL)
    except UnreadableImage:
        return '<div class="gone">picture not readable</div>'
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=60, optimize=True)
    source = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="" loading="lazy" width="{picture.width}" height="{picture.height}" src="data:image/jpeg;base64,{source}">'


_STYLE = """
:root { --paper: #fff; --ink: #1b222c; --soft: #5b6675; --line: #d5dbe3; --panel: #f5f7fa; --c0: #2f6db5; --c1: #c4621a }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161b; --ink: #e6eaef; --soft: #9aa7b8; --line: #333d49; --panel: #1b2027; --c0: #6fa8e8; --c1: #f0a05a }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere } h2 { margin: 2.5rem 0 .5rem } h3 { margin: 1.5rem 0 .5rem }
h4 { margin: 0; font: .8rem monospace; color: var(--soft); overflow-wrap: anywhere }
header p, small, caption, figcaption { color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem } a { color: var(--c0) }
:focus-visible { outline: 3px solid var(--c1); outline-offset: 2px }
.wide { overflow-x: auto; margin: .5rem 0 1.5rem } .wide > svg { min-width: 50rem; width: 100%; display: block }
table { border-collapse: collapse; min-width: 20rem } caption { text-align: left; padding-bottom: .3rem }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; overflow-wrap: anywhere }
th { font-weight: normal } tbody th { overflow-wrap: normal } thead th { color: var(--soft); font-size: .85rem } small { white-space: nowrap }
meter { width: 6rem }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)) }
.chart { width: 100%; background: var(--panel); border-radius: 8px; font: 12px system-ui, sans-serif }
.chart text { fill: var(--ink) } .chart .name { font-weight: bold } .end { text-anchor: end } .middle { text-anchor: middle }
.chart path { stroke: var(--line); fill: none } .chart .best { stroke: var(--soft); stroke-dasharray: 3 3 }
.chart polyline { fill: none; stroke-width: 2 }
.curve0 polyline { stroke: var(--c0) } .curve0 circle { fill: var(--c0) }
.curve1 polyline { stroke: var(--c1) } .curve1 circle { fill: var(--c1) }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)) }
article { background: var(--panel); border-radius: 8px; padding: .7rem; content-visibility: auto; contain-intrinsic-size: auto 15rem }
article[hidden] { display: none }
article img, .gone { float: left; margin: 0 .7rem .4rem 0; border-radius: 4px; max-width: 45%; height: auto }
.gone { width: 160px; border: 1px dashed var(--soft); color: var(--soft); padding: .5rem; font-size: .8rem }
dl { margin: 0; overflow: hidden } dt { color: var(--soft); font-size: .85rem } dt b { color: var(--ink) } dd { margin: 0 0 .3rem }
.r { clear: both; margin: 0; padding: .3rem 0 0 1.1rem; border-top: 1px solid var(--line); font-size: .9rem; color: var(--soft) }
form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: center; margin: .5rem 0 1rem }
input, select, button { font: inherit; padding: .35rem .5rem; max-width: 100% } input[type=number] { width: 6rem }
#more { margin: 1rem auto; display: block } #more[hidden] { display: none }
""".strip()

_SCRIPT = """
const list = document.getElementById("all"), more = document.getElementById("more"), form = document.forms[0];
const textOf = (card, part) => " " + [...card.querySelectorAll("." + part)].map((e) => e.textContent).join(" ").toLowerCase();
const cards = [...list.children].map((card) => ({
  card, scores: card.dataset.cider.split(" ").map(Number), p: textOf(card, "p"), r: textOf(card, "r"),
}));
const STEP = 24;
let limit = STEP;

function show() {
  const { decoding, where, order, low, high } = form, by = +decoding.value, parts = where.value.split(" ");
  const from = low.value === "" ? -Infinity : +low.value, to = high.value === "" ? Infinity : +high.value;
  const words = form.words.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const found = cards.filter(({ scores, ...text }) => scores[by] >= from && scores[by] <= to
    && words.every((word) => parts.some((part) => text[part].includes(" " + word))));
  found.sort((a, b) => (a.scores[by] - b.scores[by]) * +order.value);
  cards.forEach(({ card }) => { card.hidden = true; });
  found.slice(0, limit).forEach(({ card }) => { card.hidden = false; list.append(card); });
  form.count.value = `${found.length} of ${cards.length} match`;
  more.hidden = found.length <= limit;
}
form.addEventListener("input", () => { limit = STEP; show(); });
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", () => { limit += STEP; show(); });
show();
""".strip()
