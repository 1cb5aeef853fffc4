"""The curves of ``evaluate.py --corrupt``: each measure against the severity, one curve for each kind. No Keras."""

import math
from collections.abc import Mapping
from pathlib import Path

from captioning.base.errors import UserError
from captioning.pictures.corrupting import KINDS
from captioning.reports.charts import Chart, make_chart
from captioning.reports.curves import Curve, Panel, draw_panels
from captioning.reports.rows import ScoreRow
from captioning.robustness.results import CLEAN, MEASURES, Key, Measured, measured

AXIS = "severity"
_TITLES = {
    "chair_s": "CHAIRs: captions with an object that is not there",
    "confidence": "Mean confidence",
    "auroc": "AUROC of the confidence",
    "ece": "ECE of the confidence",
}
_COLOURS = dict(zip(KINDS, ("tab:blue", "tab:orange", "tab:gray", "tab:green", "tab:purple", "tab:red"), strict=True))
_NOTHING = (math.nan, (math.nan, math.nan))


def severity_panels(rows: Mapping[Key, ScoreRow]) -> tuple[list[float], list[Panel]]:
    """The severities, from 0, and a panel for each measure that is known.

    ``rows``: the row of each severity of one data set. Each kind is a curve that begins at the clean pictures. It has
    NaN where a severity was not asked for.
    """
    severities = sorted({severity for _, severity in rows})
    found = {key: measured(row) for key, row in rows.items()}
    panels = []
    for name, (title, unit) in MEASURES.items():
        if name != "right" and any(name in figures for figures in found.values()):
            curves = [_curve(kind, name, severities, found) for kind in KINDS if any(kind == key[0] for key in rows)]
            panels.append(Panel(_TITLES.get(name, title), unit, curves))
    return severities, panels


def _curve(kind: str, name: str, severities: list[float], found: Mapping[Key, Mapping[str, Measured]]) -> Curve:
    """The curve of one measure for one kind."""
    figures = [
        found.get((kind, severity) if severity else (CLEAN, 0), {}).get(name, _NOTHING) for severity in severities
    ]
    intervals = [interval or (value, value) for value, interval in figures]
    return Curve(kind, [value for value, _ in figures], _COLOURS[kind], "o-", intervals)


def draw_severities(rows: Mapping[Key, ScoreRow], path: Path) -> list[Path]:
    """Draw the curves as PNG and SVG files, whose paths without ending are ``path``. Raises UserError."""
    from matplotlib import rc_context

    severities, panels = severity_panels(rows)
    figure, _ = draw_panels(panels, severities, f"{AXIS} (0: pictures as they are)", columns=3)
    paths = [path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg")]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[0], dpi=110)
        with rc_context({"svg.hashsalt": "robustness", "svg.fonttype": "none"}):  # the same file every time
            figure.savefig(paths[1], metadata={"Date": None})
    except OSError as error:
        raise UserError(
            f"{error.filename or path}: cannot be written ({error.strerror}); choose another place"
        ) from None
    return paths


def severity_charts(rows: Mapping[Key, ScoreRow]) -> list[Chart]:
    """The curves for the report."""
    severities, panels = severity_panels(rows)
    return [chart for panel in panels if (chart := make_chart(panel, severities, axis=AXIS))]
