"""Draw the picture that ``caption check`` captions: a stop sign in front of grass and sky.

python tools/draw_sign.py
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.script import run_script
from captioning.installed.check import PICTURE

SIZE = (320, 240)  # pixels
Colour = tuple[int, int, int]  # RGB, 0-255


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    width, height = SIZE
    picture = shade(width, height, (120, 170, 230), (210, 225, 240))  # the sky
    picture.paste(shade(width, 54, (90, 130, 70), (60, 90, 50)), (0, height - 54))  # the grass
    pen = ImageDraw.Draw(picture)
    middle = (width // 2, 88)
    pen.rectangle((middle[0] - 5, 120, middle[0] + 5, 228), fill=(120, 120, 120))  # the pole
    pen.polygon(octagon(middle, 68), fill=(255, 255, 255))
    pen.polygon(octagon(middle, 63), fill=(200, 20, 30))
    pen.text(middle, "STOP", fill=(255, 255, 255), anchor="mm", font=ImageFont.load_default(44))
    picture.filter(ImageFilter.GaussianBlur(0.6)).save(PICTURE, quality=75)
    print(PICTURE)
    return 0


def shade(width: int, height: int, top: Colour, bottom: Colour) -> Image.Image:
    """A surface whose colour changes from ``top`` to ``bottom``."""
    part = np.linspace(0, 1, height)[:, None, None]  # (H, 1, 1)
    rows = np.array(top) * (1 - part) + np.array(bottom) * part  # (H, 1, 3)
    return Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype("uint8"))


def octagon(middle: tuple[int, int], radius: float) -> list[tuple[float, float]]:
    """The corners of an octagon that lies on one side."""
    angles = [math.pi * (1 / 8 + corner / 4) for corner in range(8)]
    return [(middle[0] + radius * math.cos(angle), middle[1] + radius * math.sin(angle)) for angle in angles]


if __name__ == "__main__":
    run_script(main)
