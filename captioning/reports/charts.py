"""Curves over epochs, or along another axis, as the coordinates of an SVG chart, which the page's template draws.

No Keras.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from captioning.reports.curves import Panel

WIDTH, HEIGHT = 480, 290  # of the chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 45, 465, 60, 250  # of the area that holds the curves


@dataclass(frozen=True)
class Mark:
    """A place on an axis, or a point of a curve."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Line:
    """A curve, and where its name stands."""

    name: Mark
    points: list[Mark]
    bars: list[tuple[float, float, float]]  # for each interval: x, and both y


@dataclass(frozen=True)
class Chart:
    """A panel of curves, in the coordinates of the SVG."""

    title: str
    values: list[Mark]  # the ticks of the vertical axis
    axis: str  # what the horizontal axis shows
    places: list[Mark]  # its ticks
    best: Mark | None  # the best epoch
    lines: list[Line]


def make_chart(panel: Panel, places: Sequence[float], best: int = 0, axis: str = "epoch") -> Chart | None:
    """The chart of a panel, or None if it has no finite value.

    The values of each curve stand at ``places``, such as the numbers of epochs, on the horizontal axis, which is called
    ``axis``. ``best``: the best epoch, 0 if there is none.
    """
    values = [value for curve in panel.curves for value in (*curve.values, *chain(*curve.intervals))]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    ticks = _ticks(min(finite), max(finite))

    def x(place: float) -> float:
        return LEFT + (RIGHT - LEFT) * (place - places[0]) / max(1, places[-1] - places[0])

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - ticks[0]) / max(ticks[-1] - ticks[0], 1e-9)

    lines = []
    for number, curve in enumerate(panel.curves):
        points = [
            Mark(x(place), y(value), f"{axis} {place:g}: {value:.4g}")
            for place, value in zip(places, curve.values, strict=True)
            if math.isfinite(value)
        ]
        bars = [
            (x(place), y(low), y(high))
            for place, (low, high) in zip(places, curve.intervals, strict=False)
            if math.isfinite(low) and low < high
        ]
        # Two names share a line, or three if there are many names.
        side_by_side = 2 if len(panel.curves) < 5 else 3
        x_of_name = LEFT + 6 + (170 if side_by_side == 2 else 140) * (number % side_by_side)
        lines.append(Line(Mark(x_of_name, 32 + 16 * (number // side_by_side), curve.label), points, bars))
    return Chart(
        title=f"{panel.title}, {panel.unit}" if panel.unit else panel.title,
        values=[Mark(LEFT, y(tick), f"{tick:g}") for tick in ticks],
        axis=axis,
        places=[Mark(x(place), BOTTOM, f"{place:g}") for place in places[:: -(-len(places) // 10)]],
        best=Mark(x(best), BOTTOM, f"best epoch: {best}") if best and best in places else None,
        lines=lines,
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round values from at most ``low`` to at least ``high``, usually four to six."""
    rough = (high - low) / 4 or 1
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return (np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step).tolist()
