"""Drawings of what a confidence is worth: a reliability diagram, and errors against coverage. No Keras."""

from typing import TYPE_CHECKING

import numpy as np

from captioning.metrics.calibration import reliability, risks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confidence_figure(confidence: np.ndarray, right: np.ndarray, title: str) -> "Figure":
    """Two panels about N captions, with ``confidence`` float ``(N,)`` from 0 to 1 and ``right`` bool ``(N,)``.

    The left panel shows groups of equally many captions: their share of right captions against their mean confidence.
    The right panel shows the share of wrong captions if only the surest are kept. It also shows the best possible order
    and a random order.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    figure.suptitle(title, parse_math=False)
    left, other = figure.subplots(1, 2)
    groups = reliability(confidence, right)
    left.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle=":", label="as it should be")
    sure, share = [group.confidence for group in groups], [group.right for group in groups]
    left.plot(sure, share, "o-", color="tab:blue", label=f"groups of about {groups[0].captions:,} captions")
    left.set(xlabel="mean confidence", ylabel="captions that are right", title="Can it be believed?")
    coverage = np.arange(1, len(right) + 1) / len(right)
    curves = {
        "surest first": (confidence, "tab:blue", "-"),
        "right ones first": (right.astype(float), "tab:green", "--"),
        "by chance": (None, "gray", ":"),
    }
    for label, (order, colour, style) in curves.items():
        heights = np.full(len(right), 1 - right.mean()) if order is None else risks(order, right)
        other.plot(coverage, heights, color=colour, linestyle=style, label=label)
    other.set(xlabel="captions that are kept", ylabel="wrong ones among them", title="Does it rank?")
    for axes in (left, other):
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    return figure
