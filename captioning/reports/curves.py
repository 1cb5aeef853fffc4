"""The curves of a run: losses and scores on dev over the epochs."""

from matplotlib.figure import Figure

from captioning.storage.runs import Run
from config import search_name

# The two panels of curves.png: title, unit, and of columns of history.csv the label, style and colour.
_CURVES: dict[str, tuple[tuple[str, str, dict[str, tuple[str, str, str]]], ...]] = {
    "captioner": (
        (
            "Negative log-likelihood",
            "nats per word",
            {"nll": ("training (with dropout)", "o-", "tab:blue"), "val_nll": ("dev", "o-", "tab:orange")},
        ),
        (
            "Dev captions ({search}), coco protocol",
            "",
            {
                "bleu4": ("BLEU-4", "o-", "tab:green"),
                "cider": ("CIDEr-D", "o-", "tab:red"),
                "reward": ("CIDEr-D, drawn training captions", "o-", "tab:gray"),
            },
        ),
    ),
    "aligner": (
        (
            "Loss",
            "",
            {"loss": ("training (with dropout)", "o-", "tab:blue"), "val_loss": ("dev", "o-", "tab:orange")},
        ),
        (
            "Retrieval on dev",
            "recall, %",
            {
                f"{side}_r{cut}": (f"{side.replace('_', ' ')}, R@{cut}", style, colour)
                for side, colour in (("image_to_text", "tab:green"), ("text_to_image", "tab:red"))
                for cut, style in ((10, "o:"), (5, "o--"), (1, "o-"))
            },
        ),
    ),
}


def draw_curves(run: Run) -> None:
    """Draw ``history.csv`` of ``run`` as ``curves.png``: the loss on the left, scores on dev on the right."""
    lines = run.history()
    epochs = [line["epoch"] for line in lines]
    search = search_name(run.config().dev_search())
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    panels = _CURVES["aligner" if "recall" in lines[0] else "captioner"]
    for axes, (title, unit, curves) in zip((losses, scores), panels, strict=True):
        for name, (label, style, colour) in curves.items():
            if name in lines[0]:
                axes.plot(epochs, [line[name] for line in lines], style, color=colour, label=label)
        axes.set(xlabel="epoch", ylabel=unit, title=title.format(search=search))
        axes.legend()
    best = run.state()["best_epoch"]
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if best:
            axes.axvline(best, color="gray", linestyle=":", linewidth=1)
    figure.savefig(run.folder / "curves.png", dpi=110)
