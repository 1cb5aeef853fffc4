"""EfficientNet-Lite0, whose weights come with this repository.

It has the stages of EfficientNet-B0 without squeeze-and-excitation (Tan & Le, 2019, https://arxiv.org/abs/1905.11946; Lite:
https://github.com/tensorflow/tpu, efficientnet/lite). tools/convert_efficientnet_lite0.py made the weights file.
"""

from collections.abc import Callable

import keras
from keras import layers

from captioning.features.weight_files import load_weights
from config import ROOT, EncoderSettings

WEIGHTS = ROOT / "weights" / "efficientnet_lite0.weights.h5"

# (blocks, kernel, stride, expansion, filters)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def build_backbone(settings: EncoderSettings, blank: bool) -> tuple[keras.Model, Callable | None]:
    """EfficientNet-Lite0, which scales pixels itself, with the weights that encoder_weights names. ``blank``: zeros."""
    source = "none" if blank else settings.encoder_weights
    # Random weights that would be replaced are not drawn: on JAX that takes ten seconds, a compilation for each shape.
    drawn = source == "none" and not blank
    backbone = efficientnet_lite0(settings.image_size, "glorot_uniform" if drawn else "zeros")
    if source != "none":
        load_weights(backbone, WEIGHTS if source == "imagenet" else source, settings.encoder)
    return backbone, None


def efficientnet_lite0(image_size: int, initializer: str = "glorot_uniform") -> keras.Model:
    """EfficientNet-Lite0 without its classifier: RGB 0-255 ``(B, S, S, 3)`` -> ``(B, S/32, S/32, 1280)``.

    ``initializer`` is Keras' name of what fills the kernels.
    """
    common = {"padding": "same", "use_bias": False}

    def conv(x, filters: int, kernel: int, stride: int, name: str, activate: bool = True):
        x = layers.Conv2D(filters, kernel, stride, kernel_initializer=initializer, name=name, **common)(x)
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x

    images = keras.Input((image_size, image_size, 3), dtype="float32")
    x = layers.Rescaling(1 / 128, -127 / 128, name="scale")(images)
    x = conv(x, 32, 3, 2, "stem")
    for stage, (blocks, kernel, stride, expansion, filters) in enumerate(_STAGES, 1):
        for block in range(blocks):
            name, shortcut = f"block{stage}_{block}", x
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, 1, 1, f"{name}_expand")
            x = layers.DepthwiseConv2D(
                kernel,
                stride if block == 0 else 1,
                depthwise_initializer=initializer,
                name=f"{name}_depthwise",
                **common,
            )(x)
            x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_depthwise_bn")(x)
            x = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(x)
            x = conv(x, filters, 1, 1, f"{name}_project", activate=False)
            if block > 0:
                x = layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.Model(images, conv(x, 1280, 1, 1, "head"), name="backbone")
