"""The architecture as a diagram: encoder, regions, decoder and words, with the sizes of a configuration.

    python -m captioning.reports.diagram docs/architecture.svg --preset flickr8k-attention

This writes an SVG file, which browsers open. evaluate.py --report shows the same diagram for a trained captioner.
"""

import html
from dataclasses import dataclass
from pathlib import Path

from captioning.base.errors import UserError
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve
from config import Config, DecoderSettings

_STYLE = """
.arch { --paper: #fbfbf8; --box: #e8edf4; --own: #fbe9d0; --line: #5b6675; --ink: #1b222c; font: 13px sans-serif }
@media (prefers-color-scheme: dark) {
  .arch { --paper: #1b2027; --box: #2d3744; --own: #4d3c22; --line: #9aa7b8; --ink: #edf0f4 }
}
.arch text { fill: var(--ink); text-anchor: middle } .arch .line0 { font-weight: bold; font-size: 14px }
.arch rect { stroke: var(--line) } .arch .note { font-size: 12px; font-style: italic }
.arch path { fill: none; stroke: var(--line); stroke-width: 1.8; marker-end: url(#arrowhead) }
""".strip()


@dataclass(frozen=True)
class Boxes:
    """The decoder's three boxes, each a list of lines, and the names of the arrows between them."""

    image: list[str]
    words: list[str]
    output: list[str]
    arrows: tuple[str, ...] = ("image-output", "words-output")


def decoder_boxes(settings: DecoderSettings, regions: int) -> Boxes:
    """The boxes of the decoder that ``settings`` name. A decoder without a drawing of its own gets general boxes."""
    size, hidden, attention = settings.embedding_size, settings.hidden_size, settings.attention_size
    image = ["Image vector", f"dense, ReLU: {size}", "once per image"]
    kinds = {"learned": "embedding", "bert-static": "BERT's vectors", "bert-prefix": "BERT so far", "file": "vectors"}
    words = f"{kinds.get(settings.embedding, settings.embedding)}: {size}"
    tied = settings.embedding == "learned" and not settings.untied_output
    readout = ["Readout", f"dense: {size}", "tied to embedding" if tied else "a table of its own"]
    match settings.decoder:
        case "merge":
            return Boxes(image, ["Words", words, f"LSTM: {hidden}"], ["Merge", f"dense, ReLU: {hidden}"])
        case "inject":
            read = ["Words", words, f"LSTM: {hidden}, dense: {size}"]
            return Boxes(image, read, [f"LSTM: {hidden}", "the image enters", "beside every word"])
        case "attention":
            look = ["Soft attention", f"dense: {hidden}, scores: {attention}", f"over {regions} regions, gated"]
            read = [f"LSTM: {hidden}", words, "the context enters too"]
            return Boxes(look, read, readout, ("words-image", "image-words", "image-output", "words-output"))
        case "adaptive":
            sizes = f"dense: {hidden}, scores: {attention}"
            look = ["Adaptive attention", sizes, f"{regions} regions or the sentinel"]
            read = [f"LSTM: {hidden}", words, "mean region enters too"]
            return Boxes(look, read, readout, ("features-words", "words-image", "image-output", "words-output"))
        case "transformer":
            layers, heads = f"{settings.layers} layers of {hidden}", f"{settings.heads} heads"
            look = ["Encoder", layers, f"self-attention, {heads}"]
            return Boxes(look, ["Decoder", words, f"{layers}, {heads}"], readout, ("image-words", "words-output"))
        case "updown":
            look = ["Attention", f"dense: {hidden}, scores: {attention}", f"over {regions} regions"]
            read = [f"Two LSTMs: {hidden}", words, "one looks, one speaks"]
            return Boxes(look, read, readout, ("features-words", "words-image", "image-words", "words-output"))
        case "aoa":
            look = [
                "Attention on attention",
                f"{settings.layers} refining layers of {hidden}",
                f"{settings.heads} heads",
            ]
            read = [f"LSTM: {hidden}", words, "the context enters too"]
            return Boxes(look, read, readout, ("features-words", "words-image", "image-words", "image-output"))
        case "m2":
            layers, heads = f"{settings.layers} layers of {hidden}", f"{settings.heads} heads"
            look = ["Encoder", f"{layers}, {heads}", f"{settings.memory_slots} memories each"]
            return Boxes(
                look, ["Meshed decoder", words, f"{layers}, {heads}"], readout, ("image-words", "words-output")
            )
        case _:
            look = ["Image", f"{regions} regions" if regions > 1 else "one vector"]
            return Boxes(look, ["Words", words], ["Output", f"hidden units: {hidden}"])


# The paths of the arrows. "words-image" is the query of the attention.
_ARROWS = {
    "image-output": "M645 107 H668 V152 H681",
    "words-output": "M645 238 H668 V193 H681",
    "image-words": "M500 142 V197",
    "words-image": "M600 202 V147",
    "features-words": "M360 207 V238 H450",
}


def architecture(config: Config, regions: int, feature_size: int, words: int | None = None) -> str:
    """The diagram as SVG text, for features ``(regions, feature_size)``.

    ``words``: the size of the vocabulary, or None if it is not known yet.
    """
    side = round(regions**0.5)
    grid = f"{side} x {side} regions" if side * side == regions else f"{regions} regions"
    boxes = decoder_boxes(config, regions)
    picture = ["Picture", f"{config.image_size} x {config.image_size} x 3"]
    encoder = ["Encoder", config.encoder_name.removesuffix(".keras")[:18]]
    if config.features:
        picture, encoder = ["Picture"], ["Detector", "features stored in", Path(config.features).name[:18]]
        grid = f"up to {regions} regions"
    drawn = [
        _box(15, 137, 105, picture),
        _box(145, 137, 130, encoder),
        _box(300, 137, 120, ["Features", grid if regions > 1 else "one vector", f"of {feature_size:,}"]),
        _box(455, 72, 190, boxes.image, "own"),
        _box(455, 203, 190, boxes.words, "own"),
        _box(686, 137, 150, boxes.output, "own"),
        _box(880, 137, 105, ["Next word", "softmax over", f"{words:,} words" if words else "the vocabulary"]),
    ]
    paths = ["M120 172 H140", "M275 172 H295", "M420 172 H437 V107 H450", "M836 172 H875", "M932 207 V308 H550 V278"]
    paths += [_ARROWS[name] for name in sorted(boxes.arrows)]
    return f"""<svg class="arch" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 330" role="img" aria-labelledby="arch">
<title id="arch">The {config.decoder} captioner: a picture becomes features once; the decoder adds word after word</title>
<style>{_STYLE}</style>
<defs><marker id="arrowhead" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse"
markerUnits="userSpaceOnUse"><path d="M0 0 L8 4 L0 8 z" style="fill: var(--line); stroke: none; marker: none"/></marker></defs>
<rect width="1000" height="330" rx="8" style="fill: var(--paper); stroke: none"/>
<rect x="440" y="34" width="410" height="254" rx="8" style="fill: none; stroke-dasharray: 4 4"/>
<text class="line0" x="645" y="56">Decoder: {config.decoder}</text>
{"".join(drawn)}{"".join(f'<path d="{path}"/>' for path in paths)}
<text class="note" x="740" y="303">the words so far</text>
<text class="note" x="277" y="128">once per image</text>
</svg>
"""


def _box(x: int, y: int, width: int, lines: list[str], kind: str = "box") -> str:
    """A box 70 pixels high with centred lines. The first line is its title."""
    first = y + 40 - 9 * (len(lines) - 1)
    text = "".join(
        f'<text class="line{i}" x="{x + width / 2:g}" y="{first + 18 * i}">{html.escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{width}" height="70" rx="6" style="fill: var(--{kind})"/>{text}\n'


def main() -> None:
    parser = make_parser(__doc__, several=False)
    parser.add_argument("output", metavar="FILE", help="the SVG file to write")
    args = parser.parse_args()
    config = resolve(args)
    if config.stage == "align":
        raise UserError("stage: align has two towers and no decoder to draw; take another preset")
    if config.features:
        raise UserError("features: their sizes are known after training; evaluate.py --report draws the captioner then")

    from captioning.features.encoder import build_encoder

    # Only the shapes matter, so no weights are loaded.
    random = config if config.encoder.endswith(".keras") else config.with_overrides({"encoder_weights": "none"})
    regions, feature_size = build_encoder(random).output_shape[1:]
    write(Path(args.output), architecture(config, regions, feature_size))


if __name__ == "__main__":
    run_script(main)
