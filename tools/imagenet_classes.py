"""How well a captioner knows the classes of ImageNet: how often it sees them, and how often it says them.

    git clone --depth 1 https://github.com/EliSchwartz/imagenet-sample-images samples    # 1,000 pictures, 107 MB
    python tools/imagenet_classes.py samples --output classes.json

``samples`` holds pictures whose names start with the number of their class in WordNet, such as n02129165_lion.JPEG. All
1,000 classes must be there. The pictures above are of ImageNet's training set, so that figures are higher than those of
new pictures. The difference between two captioners, or between two settings of one, is what counts.

The captioner must have an encoder whose classifier is in weights/, such as efficientnet_lite2. Printed are, and written
with --output:

* seen: how often the classifier finds the class of the picture, as the first and among the first five. It reads the
  features of the captioner's encoder, and those of the encoder as ImageNet made it.
* said: how many captions say the class of the picture. Pictures of classes without a word in captioning/concepts/ do
  not count. Captioners made without --imagenet-classes can be measured too.
"""

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.script import run_script

if TYPE_CHECKING:
    from model import Captioner

_BATCH = 50


def find_pictures(folder: Path) -> tuple[list[Path], np.ndarray]:
    """The pictures in ``folder`` and the class of each, int ``(N,)``. Raises UserError if classes are missing."""
    from captioning.concepts.class_words import COUNT

    pictures = sorted(path for path in folder.glob("n[0-9]*") if path.is_file())
    numbers = [path.name.split("_")[0].split(".")[0] for path in pictures]
    order = {number: place for place, number in enumerate(sorted({*numbers}))}
    if len(order) != COUNT:
        raise UserError(
            f"{folder}: has pictures of {len(order)} classes, and ImageNet has {COUNT}; name a folder whose pictures are "
            "called n01440764_tench.JPEG and so on"
        )
    return pictures, np.array([order[number] for number in numbers])


def shares_seen(logits: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """How often the right class is the first, and among the first five: ``logits (N, C)``, ``classes`` int ``(N,)``."""
    rank = (logits > logits[np.arange(len(classes)), classes][:, None]).sum(axis=1)
    return {"top-1": float((rank == 0).mean()), "top-5": float((rank < 5).mean())}


def measure(captioner: "Captioner", pictures: list[Path], classes: np.ndarray) -> dict[str, Any]:
    """The figures of this tool, each from 0 to 1. Raises UserError: the encoder has no classifier."""
    import keras

    from captioning.base.progress import track
    from captioning.concepts.class_words import class_words
    from captioning.concepts.classes import Classifier, load_classifier
    from captioning.features.encoder import build_encoder
    from captioning.pictures.loading import load_image

    config = captioner.config
    encoders = {"encoder of the captioner": captioner.encoder, "encoder of ImageNet": build_encoder(config)}
    classifier = Classifier([], int(captioner.encoder.output_shape[-1]))
    load_classifier(classifier, config.encoder)
    logits: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    captions: list[str] = []
    batches = [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]
    for batch in track(batches, "captioned", "batches"):
        pixels = np.stack([load_image(path, config.image_size) for path in batch]).astype("float32")
        for name, encoder in encoders.items():
            features = keras.ops.convert_to_numpy(encoder(pixels, training=False))  # (B, R, D)
            logits[name].append(keras.ops.convert_to_numpy(classifier.logits(features.mean(axis=1))))
            if encoder is captioner.encoder:
                captions += [found[0].text for found in captioner.caption(features)]
    names, plurals, _ = class_words()
    words = {number: {name, plurals.get(name, name)} for name, numbers in names.items() for number in numbers}
    named = [place for place, number in enumerate(classes) if number in words]
    said = [bool(words[classes[place]] & {*captions[place].split()}) for place in named]
    return {
        "pictures": len(pictures),
        "seen": {name: shares_seen(np.concatenate(parts), classes) for name, parts in logits.items()},
        "pictures of classes with a word": len(named),
        "said": float(np.mean(said)),
        "captions": {path.name: caption for path, caption in zip(pictures, captions, strict=True)},
    }


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="folder of pictures, one or more of each class")
    parser.add_argument("--model", type=Path, default=Path("pretrained/pocket.zip"), help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    pictures, classes = find_pictures(args.samples)

    from captioning.base.files import write
    from captioning.base.trained import fingerprint
    from model import Captioner

    figures = measure(Captioner.load(args.model), pictures, classes)
    for encoder, shares in figures["seen"].items():
        print(f"seen by the {encoder}: top-1 {shares['top-1']:.1%}, top-5 {shares['top-5']:.1%}")
    print(f"said: {figures['said']:.1%} of {figures['pictures of classes with a word']} pictures")
    if args.output:
        about = {"model": fingerprint(args.model), "command": " ".join(sys.argv), **figures}
        write(args.output, json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
