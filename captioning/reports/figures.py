"""Figures of a photo with its captions, of the photos found for a query, and of where the decoder looked. No Keras."""

import math
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from captioning.base.errors import UserError
from captioning.pictures.loading import open_picture
from captioning.pictures.opening import MAX_MEMORY
from captioning.reports.fonts import families, quiet_boxes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read_picture(source: str | Path | BinaryIO, side: int, memory: int = MAX_MEMORY) -> Image.Image:
    """The picture upright, in RGB, in its own proportions, and at most ``side`` pixels wide and high.

    ``source`` is a path or a binary file object. ``memory``: see ``open_picture``. Raises UnreadableImage.
    """
    picture = open_picture(source, side, memory=memory)
    picture.thumbnail((side, side))
    return picture


def _wrapped(text: str, columns: int) -> str:
    """``text`` in lines of at most so many columns. A character of East Asia takes two."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return textwrap.fill(text, round(columns * len(text) / (len(text) + wide)) if wide else columns)


def captioned(picture: Image.Image, captions: Sequence[str]) -> "Figure":
    """The picture with its captions below it."""
    from matplotlib.figure import Figure

    text = "\n".join(_wrapped(caption, 48) for caption in captions)
    width = 6.0
    height = width * picture.height / picture.width
    figure = Figure(figsize=(width, height + 0.28 * (text.count("\n") + 1) + 0.2))
    axes = figure.add_axes((0, 1 - height / figure.get_figheight(), 1, height / figure.get_figheight()))
    axes.imshow(picture, aspect="auto")
    axes.axis("off")
    figure.text(
        0.5, 0.08 / figure.get_figheight(), text, ha="center", va="bottom", fontsize=13, parse_math=False,
        fontfamily=families(text),
    )  # fmt: skip
    return figure


def ranked(query: str, pictures: Sequence[Image.Image], labels: Sequence[str]) -> "Figure":
    """The pictures found for a query, five in a row. The query is above them, and each label is below its picture."""
    from matplotlib.figure import Figure

    columns = min(5, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.4 * columns, 2.65 * rows + 0.25), layout="constrained")
    fonts = families(query, *labels)
    figure.suptitle(_wrapped(query, 24 * columns), fontsize=13, parse_math=False, fontfamily=fonts)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, picture, label in zip(panels, pictures, labels, strict=False):
        panel.imshow(picture)
        panel.text(
            0.5, -0.03, textwrap.shorten(label, 40, placeholder="..."), ha="center", va="top",
            transform=panel.transAxes, fontsize=9, parse_math=False, fontfamily=fonts,
        )  # fmt: skip
    return figure


def grid_side(regions: int) -> int:
    """Regions per side of a square grid. Raises UserError if ``regions`` is not a square number."""
    side = math.isqrt(regions)
    if side * side != regions:
        raise UserError(
            f"encoder: its {regions} regions are not a square grid, so the attention cannot be drawn; take another "
            "encoder"
        )
    return side


def attention_maps(picture: Image.Image, words: Sequence[str], weights: np.ndarray, side: int) -> "Figure":
    """The picture, then one panel for each word: the dimmed picture, with the attention in colour.

    ``weights``: float ``(T, side * side)``, one row for each of T ``words``. The columns go through the grid row by
    row. The grid covers the whole picture. One more column is the sentinel's. Then each panel says how much of the
    attention is left for the image. All panels share one colour scale, which ends at the largest weight.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    regions = side * side
    grids = weights[:, :regions].reshape(-1, side, side)
    # The brighter a colour, the more opaque it is. So without attention the dimmed picture shows as it is.
    colours = colormaps["inferno"](np.linspace(0.1, 1, 256))
    colours[:, 3] = 0.8 * np.linspace(0, 1, 256) ** 0.7
    rows = -(-(len(words) + 1) // 6)
    columns = -(-(len(words) + 1) // rows)
    cell = 2.0 * min(max(picture.height / picture.width, 0.3), 2.0)  # inches; very long pictures are shown smaller
    figure = Figure(figsize=(2.0 * columns, (cell + 0.5) * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    panels[0].imshow(picture)
    fonts = families(*words)
    dimmed = np.asarray(picture.convert("L")) * 0.5
    for panel, word, grid, row in zip(panels[1:], words, grids, weights, strict=False):
        panel.imshow(dimmed, cmap="gray", vmin=0, vmax=255)
        # Bilinear resizing adds no values above or below the weights. The middle of a region shows its own weight.
        smooth = Image.fromarray(grid.astype("float32")).resize(picture.size, Image.Resampling.BILINEAR)
        heat = panel.imshow(np.asarray(smooth), cmap=ListedColormap(colours), vmin=0, vmax=grids.max())
        panel.set_title(word, fontsize=13, parse_math=False, fontfamily=fonts)
        if weights.shape[1] > regions:
            panel.text(
                0.5, -0.03, f"looks at the image: {1 - row[-1]:.0%}", ha="center", va="top", transform=panel.transAxes
            )
    bar = figure.colorbar(heat, ax=panels.tolist(), location="bottom", aspect=60, fraction=0.05, pad=0.02)
    bar.ax.set_facecolor("0.25")
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1))
    bar.set_label(f"share of the attention on one of {regions} regions (evenly spread: {1 / regions:.1%})")
    return figure


def attention_boxes(
    picture: Image.Image, words: Sequence[str], weights: np.ndarray, boxes: np.ndarray, side: tuple[int, int]
) -> "Figure":
    """The picture with all boxes, then one panel for each word: the dimmed picture, bright where the word's boxes are.

    ``weights``: float ``(T, R)``, one row for each of T ``words``; one more column is the sentinel's. ``boxes``: float
    ``(R, 4)``, left, top, right and bottom in pixels of a picture of the size ``side`` (width, height). A panel
    outlines the three boxes with most of the attention, the first one in a thicker line. Its title has the share of the
    first.
    """
    from matplotlib.figure import Figure

    scale = np.array([picture.width / side[0], picture.height / side[1]] * 2)
    scaled = np.clip(boxes * scale, 0, [picture.width, picture.height] * 2)
    rows = -(-(len(words) + 1) // 5)
    columns = -(-(len(words) + 1) // rows)
    cell = 2.4 * min(max(picture.height / picture.width, 0.3), 2.0)  # inches; very long pictures are shown smaller
    figure = Figure(figsize=(2.4 * columns, (cell + 0.4) * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    fonts = families(*words)
    panels[0].imshow(picture)
    panels[0].set_title(f"{len(boxes)} regions", fontsize=11)
    for box in scaled:
        _outline(panels[0], box, "white", 0.8)
    pixels = np.asarray(picture.convert("RGB")).astype("float32") / 255
    for panel, word, looks in zip(panels[1:], words, weights[:, : len(boxes)], strict=False):
        light = _light(scaled, looks, pixels.shape[:2])
        panel.imshow(pixels * (0.3 + 0.7 * light[..., None]))
        best = np.argsort(-looks, kind="stable")[:3]
        for place, width in zip(best[::-1].tolist(), (0.8, 0.8, 2.2)[-len(best) :], strict=True):
            _outline(panel, scaled[place], "orange", width)
        panel.set_title(f"{word} {looks[best[0]]:.0%}", fontsize=11, parse_math=False, fontfamily=fonts)
    return figure


def _outline(panel: Any, box: np.ndarray, colour: str, width: float) -> None:
    """Draw a ``box`` into a panel: left, top, right and bottom in its pixels."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    panel.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=width))


def _light(boxes: np.ndarray, looks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How much attention the boxes over each pixel get, float ``shape`` from 0 to 1, where the most is 1."""
    light = np.zeros(shape, "float32")
    for (left, top, right, bottom), share in zip(boxes, looks, strict=True):
        light[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] += share
    return light / max(float(light.max()), 1e-12)


def save(figure: "Figure", folder: Path, source: str) -> Path:
    """Write the figure into ``folder`` and return its path. Raises OSError.

    Its name comes from the picture at ``source``, with a number if the name is taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = Path(source.split("?")[0]).stem or "picture"
    path = folder / f"{stem}.png"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.png"
    with quiet_boxes():
        figure.savefig(path, dpi=100)
    return path
