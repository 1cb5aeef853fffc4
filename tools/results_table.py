"""The table of captioners in docs/results.md and the figure beside it, from the files of scores in results/.

    python tools/results_table.py

It rewrites the table and ``docs/results.svg``, nothing else. A test checks that both, and the README's shorter table,
agree with the files.
"""

import hashlib
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.files import write
from captioning.base.script import run_script
from captioning.reports.rows import ScoreRow, read_rows
from captioning.reports.tables import markdown, score_cells
from tools.marked_pages import filled

ROOT = Path(__file__).resolve().parent.parent
PAGE, FIGURE = ROOT / "docs" / "results.md", ROOT / "docs" / "results.svg"
BEGIN, END = "<!-- tools/results_table.py writes this table -->\n", "<!-- the table ends -->\n"

# The name of each captioner in the table, and its folder in results/.
CAPTIONERS = {
    "merge": "flickr8k-merge",
    "inject": "flickr8k-inject",
    "adaptive, dropout 0.5": "flickr8k-adaptive",
    "adaptive": "flickr8k-adaptive-light",
    "transformer, dropout 0.5": "flickr8k-transformer",
    "transformer": "flickr8k-transformer-light",
    "attention": "flickr8k-attention",
    "attention, self-critical": "flickr8k-attention-scst",
    "attention, four crops": "flickr8k-attention-crops",
    "attention, four crops (seed 1)": "flickr8k-attention-crops-1",
    "attention, four crops (seed 2)": "flickr8k-attention-crops-2",
    "attention, four crops, four looks": "flickr8k-attention-crops/four-views",
    "attention, four crops, four looks (seed 1)": "flickr8k-attention-crops-1/four-views",
    "attention, four crops, four looks (seed 2)": "flickr8k-attention-crops-2/four-views",
    "attention, four crops, self-critical": "flickr8k-attention-crops-scst",
    "attention, fine-tuned": "flickr8k-attention-tuned",
    "attention, fine-tuned (seed 1)": "flickr8k-attention-tuned-1",
    "attention, fine-tuned (seed 2)": "flickr8k-attention-tuned-2",
    "attention, fine-tuned, four looks": "flickr8k-attention-tuned/four-views",
    "attention, fine-tuned, four looks (seed 1)": "flickr8k-attention-tuned-1/four-views",
    "attention, fine-tuned, four looks (seed 2)": "flickr8k-attention-tuned-2/four-views",
    "attention, fine-tuned, self-critical (seed 1)": "flickr8k-attention-tuned-1-scst",
    "fine-tuned, self-critical (seed 1), four looks": "flickr8k-attention-tuned-1-scst/four-views",
    "EfficientNet-Lite0, self-critical": "lite0-frozen",
    "EfficientNet-Lite0, six crops, self-critical": "lite0-crops",
    "EfficientNet-Lite0, fine-tuned": "lite0-finetuned",
    "EfficientNet-Lite0, fine-tuned, self-critical": "lite0",
    "EfficientNet-Lite0, fine-tuned, self-critical, four looks": "lite0/four-views",
    "with COCO: pocket, fine-tuned, self-critical, visual concepts": "flickr8k-transfer",
    "ensemble of two": "ensemble-of-two",
    "ensemble of four": "ensemble",
    "ensemble of four with fine-tuned ones": "ensemble-tuned",
    "ensemble with fine-tuned ones, four looks": "ensemble-tuned/four-views",
}
LEFT_OUT = {"captioner", "split", "images", "protocol", "novel"}
INTERVALS = {"CIDEr": "CIDEr (95% interval)"}


def scores(folder: str) -> list[ScoreRow]:
    """The scores on test of the captioner whose files are in ``folder`` of results/, one row for each decoding."""
    files = [ROOT / "results" / folder / "scores-test-coco.json"]
    files += (ROOT / "results" / folder / "consensus").glob("scores-test-coco.json")
    return [row for path in files for row in read_rows(path)]


def table() -> str:
    """The Markdown table, a row for each captioner and decoding."""
    rows = [(name, score_cells(row)) for name, folder in CAPTIONERS.items() for row in scores(folder)]
    return markdown(
        [
            {"captioner": name}
            | {INTERVALS.get(title, title): cell for title, cell in row.items() if title not in LEFT_OUT}
            for name, row in rows
        ]
    )


def digest() -> str:
    """The digest of the table. It stands in the figure, so that a test can tell an old figure."""
    return hashlib.sha256(table().encode()).hexdigest()


def draw(path: Path) -> None:
    """Draw the CIDEr of each captioner with its 95% interval as SVG. Each decoding has a colour of its own."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "captions"  # equal scores give equal files
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(CAPTIONERS) + 1), layout="constrained")
    shades = {"greedy": "#9ecae1", "beam 3": "#4292c6", "beam 5": "#084594", "beam 20, consensus": "#d94801"}
    for place, folder in enumerate(CAPTIONERS.values()):
        for row in scores(folder):
            shift, shade = 0.2 * (list(shades).index(row.decoding) - 1.5), shades[row.decoding]
            axes.plot(row.coco.intervals.cider_d, [place + shift] * 2, color=shade, linewidth=1.5)
            axes.plot(row.coco.cider_d, place + shift, "o", color=shade, markersize=4)
    for name, shade in shades.items():
        axes.plot([], [], "o-", color=shade, markersize=4, linewidth=1.5, label=name)
    axes.set_yticks(range(len(CAPTIONERS)), list(CAPTIONERS))
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("CIDEr on Flickr8k's test images, with 95% intervals over the images")
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None, "Description": digest()})


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    write(PAGE, filled(PAGE, PAGE.read_text(encoding="utf-8"), (BEGIN, END), [table()]))
    draw(FIGURE)


if __name__ == "__main__":
    run_script(main)
