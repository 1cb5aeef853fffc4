"""How alike pictures and changed copies of them are, which is behind the bound of near-duplicates in retrieve.py.

    python tools/near_duplicates.py --data-dir data/flickr8k --output results/near_duplicates.json
    python tools/near_duplicates.py --dataset flickr8k folder --data-dir data/flickr8k data/everyday/images \\
        --captions-file data/everyday/everyday.jsonl --output results/near_duplicates.json

All pairs of the pictures of dev are compared (``captioning/pictures/likeness.py``). The pairs that are most alike are
printed, so that somebody can look whether they are different pictures. Every eighth picture is changed in several ways
and compared with itself. The table has the lowest likeness of the copies, and the share of copies at the bound or
above.
"""

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.files import write
from captioning.base.progress import track
from captioning.base.script import run_script
from captioning.command_line.options import make_parser
from captioning.command_line.resolving import resolve
from captioning.pictures.likeness import BOUND, grey, likeness, outlines, thumbnail
from captioning.pictures.loading import load_image
from captioning.reports.tables import markdown
from preprocessing import load_dataset

EVERY = 8
SIDE = 320  # pixels of the copies before they are changed


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=20)
    return Image.open(file).convert("RGB")


def cropped(share: float, place: float) -> Callable[[Image.Image], Image.Image]:
    """Cuts out ``share`` of both sides: at the corner for a ``place`` of 0, in the middle for one of 0.5."""

    def cut(image: Image.Image) -> Image.Image:
        left, top = (round((1 - share) * place * side) for side in image.size)
        return image.crop((left, top, left + round(share * image.width), top + round(share * image.height)))

    return cut


def with_strip(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).rectangle((0, round(0.9 * image.height), image.width, image.height), fill="black")
    return image


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "a quarter of the size": lambda image: image.resize((image.width // 4, image.height // 4)),
    "JPEG of quality 20": compressed,
    "brightness 60%": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "brightness 140%": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "contrast 60%": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "without colours": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "blurred by 4 pixels": lambda image: image.filter(ImageFilter.GaussianBlur(4)),
    "95% of the sides, corner": cropped(0.95, 0),
    "90% of the sides, middle": cropped(0.9, 0.5),
    "80% of the sides, middle": cropped(0.8, 0.5),
    "a white frame of 5%": lambda image: ImageOps.expand(image, round(0.05 * image.width), fill="white"),
    "a black strip over 10%": with_strip,
    "mirrored": ImageOps.mirror,
}


def pairs(found: np.ndarray, names: Sequence[str], count: int = 12) -> list[dict[str, Any]]:
    """The pairs of pictures that are most alike. ``found``: the outlines of each picture."""
    best = np.full((len(found), len(found)), -1, dtype=np.float32)
    for crop in range(found.shape[1]):
        best = np.maximum(best, found[:, 0] @ found[:, crop].T)
    best = np.maximum(best, best.T)
    one, other = np.triu_indices(len(found), 1)
    order = np.argsort(-best[one, other])[:count]
    return [
        {"images": [names[one[i]], names[other[i]]], "likeness": round(float(best[one[i], other[i]]), 4)} for i in order
    ]


def copies(paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    """For each kind of copy the lowest likeness with its original, and the share at the bound or above."""
    found: dict[str, list[float]] = {name: [] for name in COPIES}
    for path in track(paths, "copies"):
        image = Image.fromarray(load_image(path, SIDE))
        original = outlines(thumbnail(path))
        for name, change in COPIES.items():
            copy = grey(np.asarray(change(image).resize((64, 64), Image.Resampling.BICUBIC)))
            found[name].append(likeness(original, outlines(copy)))
    return {
        name: {"lowest": round(min(values), 4), "found": round(float(np.mean(np.asarray(values) >= BOUND)), 4)}
        for name, values in found.items()
    }


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--output", metavar="FILE", help="also write the figures as JSON")
    args = parser.parse_args()
    records = load_dataset(resolve(args)).split("dev")
    found = np.stack([outlines(thumbnail(record.path)) for record in track(records, "outlines")])
    alike = pairs(found, [record.file_name for record in records])
    changed = copies([record.path for record in records[::EVERY]])
    for pair in alike:
        print(f"{pair['likeness']:.3f}  {'  '.join(pair['images'])}")
    rows = [
        {"copy": name, "lowest likeness": f"{values['lowest']:.2f}", f"{BOUND} or above": f"{values['found']:.1%}"}
        for name, values in changed.items()
    ]
    print("\n" + markdown(rows), end="")
    if args.output:
        command = " ".join(["python tools/near_duplicates.py", *sys.argv[1:]])
        about: dict[str, Any] = {
            "command": command,
            "bound": BOUND,
            "pictures": len(records),
            "pairs": len(records) * (len(records) - 1) // 2,
        }
        about |= {"most_alike": alike, "copies_of": len(records[::EVERY]), "copies": changed}
        write(Path(args.output), json.dumps(about, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_script(main)
