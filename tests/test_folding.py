"""Folding: the same features from fewer layers, and nothing folded that would change them."""

import keras
import numpy as np
import pytest
from keras import layers

from config import Config
from encoders import build_encoder
from folding import FoldedEncoder, fold


def scatter(model: keras.Model) -> keras.Model:
    """Weights of which none is neutral: no gamma is one, no mean zero."""
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.2, 1, weight.shape).astype("float32") for weight in model.weights])
    return model


def pixels(size: int = 16) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1, (2, size, size, 3)).astype("float32")


def norms(model: keras.Model) -> set[str]:
    inside = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    own = {layer.name for layer in model.layers if isinstance(layer, layers.BatchNormalization)}
    return own.union(*map(norms, inside))


def mixed_model() -> keras.Model:
    """All kinds of batch norm; those whose names begin with "kept" cannot be folded."""
    images = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="kept_first")(images)
    x = layers.BatchNormalization(name="plain")(layers.Conv2D(8, 3, use_bias=False)(x))
    x = layers.BatchNormalization(name="with_bias", epsilon=0.1)(layers.Conv2D(8, 3, groups=2, padding="same")(x))
    x = layers.BatchNormalization(name="depthwise")(layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.ReLU()(x)))
    x = layers.BatchNormalization(name="neither", scale=False, center=False)(layers.Conv2D(8, 1)(x))
    x = layers.BatchNormalization(name="kept_activated")(layers.Conv2D(8, 1, activation="relu")(x))
    seen_twice = layers.Conv2D(8, 1)(x)
    x = layers.Add()([layers.BatchNormalization(name="kept_seen_twice")(seen_twice), seen_twice])
    seen_before = layers.Conv2D(8, 1)(x)
    x = layers.Add()([layers.BatchNormalization(name="kept_before")(seen_before), layers.ReLU()(seen_before * 2)])
    x = layers.BatchNormalization(name="kept_sum")(x)
    shared = layers.Conv2D(8, 1)
    x = layers.Add()([layers.BatchNormalization(name="kept_shared")(shared(x)), shared(x * 2)])
    shared_norm = layers.BatchNormalization(name="kept_shared_norm")
    x = layers.Add()([shared_norm(layers.Conv2D(8, 1)(x)), shared_norm(layers.Conv2D(8, 1)(x))])
    x = layers.BatchNormalization(name="kept_rows", axis=1)(layers.Conv2D(12, 1)(x))  # as many rows as channels
    x = layers.BatchNormalization(name="kept_half")(layers.Conv2D(8, 1, dtype="mixed_bfloat16")(x))
    inner = keras.Sequential([layers.Conv2D(8, 1), layers.BatchNormalization(name="sequential"), layers.ReLU()])
    end = layers.Conv2D(8, 1)(layers.Normalization(mean=0.3, variance=2.0)(inner(x)))
    return keras.Model(images, [layers.BatchNormalization(name="kept_output")(end), end])


def test_the_same_outputs_from_fewer_layers():
    model = scatter(mixed_model())
    for _ in range(2):  # the first leaves the model as it was
        folded, _ = fold(model)
        assert norms(folded) == {name for name in norms(model) if name.startswith("kept")}
        for mine, theirs in zip(folded.predict(pixels(), verbose=0), model.predict(pixels(), verbose=0), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3)


def test_layers_that_two_models_share_stay():
    images = keras.Input((16, 16, 3))
    seen = layers.Conv2D(4, 3)(images)
    both = keras.Model(images, layers.BatchNormalization(name="kept")(seen)), keras.Model(images, seen)
    model = scatter(keras.Model(images, [part(images) for part in both]))
    folded, _ = fold(model)
    assert norms(folded) == {"kept"}
    for mine, theirs in zip(folded.predict(pixels(), verbose=0), model.predict(pixels(), verbose=0), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v2", "resnet50", "efficientnetb0"])
def test_no_batch_norm_is_left_in_known_encoders(name):
    encoder = build_encoder(Config(encoder=name, encoder_weights="none", image_size=32, feature_grid=1))
    random = np.random.default_rng(0)
    for weight in encoder.weights:
        if weight.path.endswith(("moving_mean", "beta")):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif weight.path.endswith(("moving_variance", "gamma")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    folded, _ = fold(encoder)
    assert norms(encoder)
    assert not norms(folded)
    expected = encoder.predict(255 * pixels(32), verbose=0)
    np.testing.assert_allclose(folded.predict(255 * pixels(32), verbose=0), expected, atol=1e-4 * abs(expected).max())


def test_a_saved_encoder_that_knows_its_pixels_is_folded(tmp_path):
    scale = layers.Normalization()
    scale.adapt(255 * pixels(32))
    model = keras.Sequential([keras.Input((32, 32, 3)), scale, layers.Conv2D(4, 3), layers.BatchNormalization()])
    model.save(tmp_path / "own.keras")
    encoder = build_encoder(Config(encoder=str(tmp_path / "own.keras"), image_size=32, feature_grid=0))
    folded, _ = fold(encoder)
    assert not norms(folded)
    expected = encoder.predict(255 * pixels(32), verbose=0)
    np.testing.assert_allclose(folded.predict(255 * pixels(32), verbose=0), expected, atol=1e-5)


def test_training_in_reduced_precision_does_not_reach_the_encoder():
    images = keras.Input((16, 16, 3))
    model = scatter(keras.Model(images, layers.BatchNormalization()(layers.Conv2D(4, 3)(images))))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = FoldedEncoder(model)(pixels())
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(found, model.predict(pixels(), verbose=0), rtol=1e-4)


def test_later_weights_are_seen_once_that_is_asked_for():
    images = keras.Input((16, 16, 3))
    model = scatter(keras.Model(images, layers.BatchNormalization()(layers.Conv2D(4, 3)(images))))
    encode = FoldedEncoder(model)
    before = encode(pixels())
    for weight in model.weights:
        weight.assign(weight * 2)
    np.testing.assert_array_equal(encode(pixels()), before)
    encode.renew()
    np.testing.assert_allclose(encode(pixels()), model.predict(pixels(), verbose=0), rtol=1e-4)
