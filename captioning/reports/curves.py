"""The curves of a run: losses and scores on dev over the epochs. No Keras."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from captioning.metrics.protocols import measure
from captioning.storage.runs import Run, by_data_set, column_of
from config import TOGETHER, search_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """Values, such as a column of history.csv, and how they are drawn."""

    label: str
    values: list[float]  # one for each epoch, or for each place on another axis; NaN where there is none
    colour: str
    style: str = "o-"
    intervals: Sequence[tuple[float, float]] = ()  # the 95% interval of each value, if they are known


@dataclass(frozen=True)
class Panel:
    """Curves that share a scale."""

    title: str
    unit: str
    curves: list[Curve]


def panels(history: Sequence[dict[str, float]], search: str, protocol: str = "coco") -> list[Panel]:
    """The loss, then the scores on dev, from the lines of history.csv.

    A captioner's history has a column "nll", and an aligner's has none. ``search`` names the decoding of the dev
    captions, and ``protocol`` what they are scored by. With several data sets another panel shows the main score of
    each.
    """
    data_sets = by_data_set(history[0])

    def curves(*found: tuple[str, str, str, str]) -> list[Curve]:
        return [
            Curve(label, [line[column] for line in history], colour, style)
            for column, label, colour, style in found
            if column in history[0]
        ]

    def each(score: str, colour: str) -> list[Curve]:
        """The mean of a score over the data sets, then the score of each."""
        own = zip(data_sets, cycle(_COLOURS), strict=False)
        return curves(
            (score, f"dev, {TOGETHER}" if data_sets else "dev", colour, "o-"),
            *((column_of(score, name), f"dev, {name}", own_colour, "o--") for name, own_colour in own),
        )

    if "nll" in history[0]:
        losses = [*curves(("nll", _TRAINING, "tab:blue", "o-")), *each("val_nll", "tab:orange")]
        scores = curves(
            ("bleu4", "BLEU-4", "tab:green", "o-"),
            ("cider", "CIDEr-D", "tab:red", "o-"),
            ("reward", "reward, drawn training captions", "tab:gray", "o-"),
        )
        captions = f"Dev captions{', ' + TOGETHER if data_sets else ''} ({search}), {protocol} protocol"
        found = [Panel("Negative log-likelihood", "nats per word", losses), Panel(captions, "", scores)]
        return [*found, Panel(f"CIDEr-D of dev captions ({search})", "", each("cider", "tab:red"))][
            : 3 if data_sets else 2
        ]
    losses = [*curves(("loss", _TRAINING, "tab:blue", "o-")), *each("val_loss", "tab:orange")]
    recalls = curves(
        ("image_to_text_r10", "image to text, R@10", "tab:green", "o:"),
        ("image_to_text_r5", "image to text, R@5", "tab:green", "o--"),
        ("image_to_text_r1", "image to text, R@1", "tab:green", "o-"),
        ("text_to_image_r10", "text to image, R@10", "tab:red", "o:"),
        ("text_to_image_r5", "text to image, R@5", "tab:red", "o--"),
        ("text_to_image_r1", "text to image, R@1", "tab:red", "o-"),
    )
    found = [
        Panel("Loss", "", losses),
        Panel(f"Retrieval on dev{', ' + TOGETHER if data_sets else ''}", "recall, %", recalls),
    ]
    return [*found, Panel("Sum of all recalls on dev", "", each("recall", "tab:red"))][: 3 if data_sets else 2]


def panels_of(run: Run) -> list[Panel]:
    """The panels of a run. There are none before its first epoch. Raises UserError if history.csv is damaged."""
    history = run.history()
    if not history:
        return []
    config = run.config()
    return panels(history, search_name(config.dev_search()), measure("coco", config.words))


def draw_curves(run: Run) -> None:
    """Draw history.csv of ``run`` as curves.png: the loss on the left, and the scores on dev to its right."""
    epochs = [line["epoch"] for line in run.history()]
    best = run.state()["best_epoch"]
    figure, drawn = draw_panels(panels_of(run), epochs, "epoch")
    for axes in drawn:
        if axes.get_lines():
            axes.legend()
        if best:
            axes.axvline(best, color="gray", linestyle=":", linewidth=1)
    figure.savefig(run.folder / "curves.png", dpi=110)


def draw_panels(
    panels: Sequence[Panel], places: Sequence[float], axis: str, columns: int | None = None
) -> tuple["Figure", list["Axes"]]:
    """A figure of these panels, and their axes. ``columns``: how many panels share a line; None: all.

    The values of each curve stand at ``places`` on the horizontal axis, which is called ``axis``. With ``columns`` all
    panels share one legend, and otherwise they have none yet.
    """
    from matplotlib.figure import Figure

    wide = min(columns or len(panels), len(panels))
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(5 * wide, 4 * high), layout="constrained")
    drawn = figure.subplots(high, wide, squeeze=False).ravel()
    for axes, panel in zip(drawn, panels, strict=False):
        for curve in panel.curves:
            there = [n for n, value in enumerate(curve.values) if math.isfinite(value)]
            x, y = [places[n] for n in there], [curve.values[n] for n in there]
            axes.plot(x, y, curve.style, color=curve.colour, label=curve.label)
            if curve.intervals:
                low, high_ends = zip(*(curve.intervals[n] for n in there), strict=True) if there else ((), ())
                axes.vlines(x, low, high_ends, color=curve.colour, alpha=0.35)
        axes.set(xlabel=axis, ylabel=panel.unit, title=panel.title)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in drawn[len(panels) :]:
        axes.axis("off")
    if columns:
        figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure, list(drawn[: len(panels)])


# The colours of several data sets. If there are more data sets, the colours repeat.
_COLOURS = ("tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")
_TRAINING = "training (with dropout)"
