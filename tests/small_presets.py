"""Tiny presets of KerasHub with random weights, in folders."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

SIZE = 32  # pixels per side
PATCH = 8
GRID = SIZE // PATCH
_VIT = {"patch_size": PATCH, "num_layers": 3, "num_heads": 2, "hidden_dim": 8, "image_shape": (SIZE, SIZE, 3)}
_TEXT = {
    "vocabulary_size": 9,
    "embedding_dim": 8,
    "hidden_dim": 8,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_dim": 8,
}
# For each class: its arguments, the tokens before those of the patches, and the class that scales pixels for it.
SMALL: dict[str, tuple[dict[str, Any], int, str]] = {
    "CLIPVisionEncoder": (_VIT | {"intermediate_dim": 16}, 1, ""),
    "CLIPBackbone": ({"projection_dim": 4}, 1, "CLIPImageConverter"),
    "MetaCLIP2VisionEncoder": (_VIT | {"intermediate_dim": 16}, 1, ""),
    "SigLIPVisionEncoder": (_VIT | {"intermediate_dim": 16}, 0, ""),
    "SigLIPBackbone": ({}, 0, "SigLIPImageConverter"),
    "DINOV2Backbone": (
        _VIT | {"intermediate_dim": 16, "num_register_tokens": 2, "position_embedding_shape": (48, 48, 3)},
        *(3, "DINOV2ImageConverter"),
    ),
    "DINOV3Backbone": (_VIT | {"intermediate_dim": 16, "num_register_tokens": 2}, 3, "DINOV3ImageConverter"),
    "ViTBackbone": (_VIT | {"mlp_dim": 16}, 1, "ViTImageConverter"),
    "DeiTBackbone": (_VIT | {"intermediate_dim": 16}, 2, "DeiTImageConverter"),
    "ResNetBackbone": (
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "block_type": "basic_block",
            "stackwise_num_filters": [64, 64],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
        },
        *(0, "ResNetImageConverter"),
    ),
    "EfficientNetBackbone": (
        {
            "stackwise_width_coefficients": [0.5] * 2,
            "stackwise_depth_coefficients": [1.0] * 2,
            "stackwise_kernel_sizes": [3, 3],
            "stackwise_num_repeats": [1, 1],
            "stackwise_input_filters": [16, 16],
            "stackwise_output_filters": [16, 24],
            "stackwise_expansion_ratios": [1, 4],
            "stackwise_strides": [1, 2],
            "stackwise_block_types": ["v1", "fused"],
            "stackwise_squeeze_and_excite_ratios": [0.25, 0],
            "stackwise_force_input_filters": [0, 0],
            "stackwise_nores_option": [False] * 2,
        },
        *(0, "EfficientNetImageConverter"),
    ),
    "DenseNetBackbone": (
        {"stackwise_num_repeats": [1, 1], "compression_ratio": 0.5, "growth_rate": 4},
        *(0, "DenseNetImageConverter"),
    ),
    "CSPNetBackbone": (
        {
            "stem_filters": 8,
            "stem_kernel_size": 3,
            "stem_strides": 2,
            "block_type": "dark_block",
            "stackwise_depth": [1, 1],
            "stackwise_strides": [1, 2],
            "stackwise_num_filters": [8, 16],
            "stage_type": "csp",
            "bottle_ratio": [0.5, 1.0],
            "block_ratio": [1.0, 0.5],
            "expand_ratio": [2.0, 1.0],
            "stem_padding": "same",
        },
        *(0, "CSPNetImageConverter"),
    ),
    "HGNetV2Backbone": (
        {
            "depths": [1, 1],
            "embedding_size": 8,
            "hidden_sizes": [16, 16],
            "stem_channels": [3, 8, 8],
            "hidden_act": "relu",
            "use_learnable_affine_block": False,
            "apply_downsample": [False, True],
            "stackwise_stage_filters": [[8, 8, 16, 1, 1, 3], [16, 8, 16, 1, 1, 3]],
            "use_lightweight_conv_block": [False, False],
        },
        *(0, "HGNetV2ImageConverter"),
    ),
    "MobileNetBackbone": (
        {
            "stackwise_expansion": [[8]],
            "stackwise_num_blocks": [1],
            "stackwise_num_filters": [[8]],
            "stackwise_kernel_size": [[3]],
            "stackwise_num_strides": [[2]],
            "stackwise_se_ratio": [[None]],
            "stackwise_activation": [["relu6"]],
            "stackwise_padding": [[1]],
            "output_num_filters": 16,
            "depthwise_filters": 8,
            "depthwise_stride": 1,
            "depthwise_residual": False,
            "last_layer_filter": 16,
        },
        *(0, "MobileNetImageConverter"),
    ),
    "XceptionBackbone": (
        {"stackwise_conv_filters": [[8, 8], [8, 16]], "stackwise_pooling": [True, False]},
        *(0, "XceptionImageConverter"),
    ),
    "VGGBackbone": (
        {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [4, 8]},
        *(0, "VGGImageConverter"),
    ),
}
# (x / 255 - mean) / deviation for each colour
SCALE, OFFSET = [0.0157, 0.0163, 0.0171], [-1.79, -1.75, -1.48]


def backbone(kind: str, seed: int = 0) -> keras.Model:
    """The backbone ``kind`` of KerasHub with random weights, biases and statistics of batch norms too."""
    import keras_hub

    arguments, _, _ = SMALL[kind]
    arguments = dict(arguments)
    if kind.endswith("LIPBackbone"):
        name = kind.removesuffix("Backbone")
        arguments["vision_encoder"] = backbone(f"{name}VisionEncoder", seed)
        intermediate = {"max_sequence_length": 6} if name == "CLIP" else {"max_sequence_length": 6, "projection_dim": 8}
        arguments["text_encoder"] = getattr(keras_hub.models, f"{name}TextEncoder")(**_TEXT | intermediate)
    model = getattr(keras_hub.models, kind)(**arguments)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.name == "position_ids":  # CLIP's are zeros until its weights are read
            weight.assign(ops.expand_dims(ops.arange(shape[1]), 0))
        elif weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, shape))
        else:
            weight.assign(rng.normal(0, 0.3, shape))
    return model


def save_preset(folder: Path, kind: str, converter: bool = True) -> tuple[str, keras.Model]:
    """The setting encoder for a preset of the class ``kind`` in ``folder``, and its backbone."""
    import keras_hub

    model = backbone(kind)
    if kind == "DINOV2Backbone":  # what loading will do
        model.embeddings.interpolated_position_embeddings.assign(_fitted(model))
    model.save_to_preset(str(folder))
    if converter:
        scaling = getattr(keras_hub.layers, SMALL[kind][2])
        scaling(image_size=(SIZE, SIZE), scale=SCALE, offset=OFFSET).save_to_preset(str(folder))
    return f"kerashub:{folder}", model


def _fitted(model: keras.Model):
    embeddings = model.embeddings
    return embeddings._interpolate_position_embeddings(
        embeddings.position_embeddings, PATCH, embeddings.position_embedding_shape, embeddings.image_shape
    )


def expected_grid(model: keras.Model, kind: str, pixels: np.ndarray) -> np.ndarray:
    """What KerasHub itself makes of pixels: the tokens of patches or the feature map, as rows ``(B, H * W, D)``."""
    x = ops.convert_to_tensor(pixels.astype("float32") * np.float32(SCALE) + np.float32(OFFSET))
    model = getattr(model, "vision_encoder", model)
    if kind.startswith("SigLIP"):
        model = keras.Model(model.inputs, model.post_layer_norm.output)
    found = model(keras.tree.map_structure(lambda _: x, model.input), training=False)
    cells = ops.convert_to_numpy(keras.tree.flatten(found)[-1])
    cells = cells.reshape(len(cells), -1, cells.shape[-1])
    return cells[:, SMALL[kind][1] :]
