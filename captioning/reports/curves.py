"""The curves of a run: losses and scores on dev over the epochs. No Keras."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from captioning.metrics.protocols import measure
from captioning.storage.runs import Run, by_data_set, column_of
from config import TOGETHER, search_name


@dataclass(frozen=True)
class Curve:
    """One column of history.csv, and how it is drawn."""

    label: str
    values: list[float]  # one for each epoch
    colour: str
    style: str = "o-"


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
            ("reward", "CIDEr-D, drawn training captions", "tab:gray", "o-"),
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
    from matplotlib.figure import Figure

    epochs = [line["epoch"] for line in run.history()]
    best = run.state()["best_epoch"]
    drawn = panels_of(run)
    figure = Figure(figsize=(5 * len(drawn), 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(drawn)), drawn, strict=True):
        for curve in panel.curves:
            axes.plot(epochs, curve.values, curve.style, color=curve.colour, label=curve.label)
        axes.set(xlabel="epoch", ylabel=panel.unit, title=panel.title)
        if panel.curves:
            axes.legend()
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if best:
            axes.axvline(best, color="gray", linestyle=":", linewidth=1)
    figure.savefig(run.folder / "curves.png", dpi=110)


# The colours of several data sets. If there are more data sets, the colours repeat.
_COLOURS = ("tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")
_TRAINING = "training (with dropout)"
