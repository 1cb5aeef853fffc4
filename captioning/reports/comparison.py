"""Whether the scores of two captioners differ by more than chance. No Keras."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.data.records import ImageRecord
from captioning.metrics.significance import Difference, compare, image_statistics
from captioning.reports.tables import TITLES, markdown
from captioning.words.splitting import TREEBANK, Splitting


def find_sides(patterns: Sequence[str]) -> list[list[Path]]:
    """The files of each side A and B of ``--compare``, one for each seed.

    A pattern is the name of a file, or names several files, such as runs/mine-*/FILE. Raises UserError if a side has no
    file, if the sides have different numbers of files, or if a file is on both sides.
    """
    sides = [[Path(name)] if Path(name).is_file() else [*map(Path, sorted(glob(name)))] for name in patterns]
    for pattern, side in zip(patterns, sides, strict=True):
        if not side:
            raise UserError(
                f"--compare: no file is named {pattern!r}; give a file, or a quoted pattern that names several"
            )
    if len(sides[0]) != len(sides[1]) or (len(sides[0]) > 1 and set(sides[0]) & set(sides[1])):
        raise UserError(
            f"--compare: {patterns[0]!r} names {len(sides[0])} files and {patterns[1]!r} {len(sides[1])}; give equally "
            "many seeds on both sides, and no file on both"
        )
    return sides


def comparison_table(
    first: Sequence[Sequence[str]],
    second: Sequence[Sequence[str]],
    records: Sequence[ImageRecord],
    splitting: Splitting = TREEBANK,
) -> str:
    """How the captions of B differ from those of A, as a Markdown table.

    ``first`` holds the captions of ``records`` from each seed of A, and ``second`` those from each seed of B.
    ``splitting``: how captions and references are split into words.
    """
    references = [[*map(splitting.split, record.captions)] for record in records]
    a, b = (
        np.stack([image_statistics([*map(splitting.split, captions)], references) for captions in side])
        for side in (first, second)
    )
    text = markdown([_cells(difference) for difference in compare(a, b)])
    if len(first) > 1:
        text += (
            f"\nMeans of {len(first)} seeds ± their standard deviation. Interval and p are about the images, with "
            "these seeds.\n"
        )
    return text


def _cells(found: Difference) -> dict[str, str]:
    a, b = f"{found.a:.2f}", f"{found.b:.2f}"
    if found.deviations:
        a, b = (f"{score} ± {deviation:.2f}" for score, deviation in zip((a, b), found.deviations, strict=True))
    low, high = found.interval
    return {
        "metric": TITLES[found.metric],
        "A": a,
        "B": b,
        "B - A": f"{found.difference:+.2f}",
        "95% interval": f"{low:+.2f} to {high:+.2f}",
        "p": f"{found.p:.4f}",
    }
