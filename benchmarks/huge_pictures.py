"""Peak memory of reading huge pictures, against what the rule in captioning/pictures/opening.py allows for them.

    python benchmarks/huge_pictures.py

Makes one picture of each kind, as large as may be read or nearly so. Reads each at 224 pixels in a process of its own.

The bar: no picture takes more than 128 MiB above the rule, by which pictures are refused. The documentation allows 400
MiB.
"""

import argparse
import json
import struct
import tempfile
import time
import zlib
from pathlib import Path

from common import make_parser, measure_apart, peak_memory, print_table, reset_peak_memory, verdict, write_results
from PIL import Image

from captioning.base.script import run_script

BAR = 128 << 20
SIZE = 224
# Suffix, width and height, Pillow's mode, options for saving.
PICTURES = {
    "PNG with transparency": (".png", (13_300, 13_300), "RGBA", {}),
    "PNG, grey": (".png", (13_300, 13_300), "L", {}),
    "JPEG": (".jpg", (30_000, 7_000), "RGB", {}),
    "JPEG, progressive": (".jpg", (12_000, 9_000), "RGB", {"progressive": True}),
    "WebP": (".webp", (8_000, 7_500), "RGB", {"method": 0}),
    "JPEG 2000": (".jp2", (6_500, 6_500), "RGB", {}),
    "TIFF of one strip": (".tif", (9_000, 9_000), "RGB", {"compression": "tiff_lzw", "tiffinfo": {278: 9_000}}),
    "AVIF": (".avif", (8_000, 6_000), "RGB", {"speed": 10}),
}


def make_picture(path: Path, size: tuple[int, int], mode: str, options: dict) -> None:
    """Write a picture of one colour.

    A PNG is written row by row, since it may be larger than Pillow's memory for it.
    """
    if path.suffix != ".png":
        Image.new(mode, size, (120, 60, 20)).save(path, **options)
        return

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packing = zlib.compressobj(1)
    row = b"\0" + b"\x7f" * (size[0] * len(mode))
    pixels = b"".join([*(packing.compress(row) for _ in range(size[1])), packing.flush()])
    header = struct.pack(">IIBBBBB", *size, 8, {"L": 0, "RGBA": 6}[mode], 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def measure(path: Path) -> dict[str, float]:
    """The memory that the rule allows and that reading took at most, in bytes, and the seconds."""
    from captioning.pictures.loading import load_image, measure

    allowed, _ = measure(path, SIZE)
    reset_peak_memory()
    before = peak_memory()
    began = time.perf_counter()
    load_image(path, SIZE)
    return {"allowed": allowed, "peak": peak_memory() - before, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--measure", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, (width, height), mode, options) in PICTURES.items():
            size = (width // 40, height // 40) if args.quick else (width, height)
            path = Path(folder, f"picture{suffix}")
            make_picture(path, size, mode, options)
            found[name] = {"megapixels": size[0] * size[1] / 1e6, **measure_apart(__file__, path)}
            path.unlink()
    print_table(
        ["picture", "megapixels", "MiB by the rule", "MiB at most", "seconds"],
        [
            [
                name,
                f"{row['megapixels']:.0f}",
                *(f"{row[key] / 2**20:,.0f}" for key in ("allowed", "peak")),
                f"{row['seconds']:.2f}",
            ]
            for name, row in found.items()
        ],
    )
    worst = max(row["peak"] - row["allowed"] for row in found.values())
    print(f"at most {worst / 2**20:,.0f} MiB above the rule; {verdict(args, worst <= BAR)}")
    write_results(args, "huge_pictures", {"pictures": found, "bytes_above_the_rule": worst, "bar_bytes": BAR})


if __name__ == "__main__":
    run_script(main)
