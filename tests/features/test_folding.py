"""Folding: the same features from fewer layers, and nothing folded that would change them."""

import keras
import numpy as np
import pytest
from keras import layers

from captioning.features.encoder import build_encoder
from captioning.features.folding import FoldedEncoder, fold, fold_to_learn
from config import Config


def scatter(model: keras.Model) -> keras.Model:
    """Give every weight a value that has an effect: no gamma is one, and no mean is zero."""
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


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite2",
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("efficientnetb0", marks=pytest.mark.slow),
    ],
)
def test_no_batch_norm_is_left_in_known_encoders(name):
    encoder = build_encoder(Config(encoder=name, encoder_weights="none", image_size=32, feature_grid=1))
    random = np.random.default_rng(0)
    for weight in encoder.weights:
        if weight.path.endswith(("moving_mean", "beta")):
            weight.assign(random.normal(0, 0.1, weight.shape))
        elif weight.path.endswith(("moving_variance", "gamma")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    assert norms(encoder)
    # Called as they are. Tracing them for predict would take seconds.
    expected = keras.ops.convert_to_numpy(encoder(255 * pixels(32)))
    for folded in (fold(encoder)[0], fold_to_learn(encoder)):
        assert not norms(folded)
        found = keras.ops.convert_to_numpy(folded(255 * pixels(32)))
        np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())


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


def convolutions() -> keras.Model:
    """Three convolutions, each with all that can differ in one, and batch norms; then layers that have none behind them."""
    images = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, use_bias=False)(images))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(layers.ReLU()(x))
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.Conv2D(8, 3, groups=2, dilation_rate=2, padding="same")(x)
    x = layers.BatchNormalization(center=False, epsilon=0.1)(x)
    x = layers.Conv2D(4, 1, activation="relu")(layers.Rescaling(0.01)(x))
    x = layers.SeparableConv2D(4, 3)(x)
    return scatter(keras.Model(images, layers.Dense(4)(x)))


class InInference(keras.Model):
    """Trains a model whose statistics are fixed."""

    def __init__(self, model: keras.Model):
        super().__init__()
        self.model = model

    def call(self, images):
        return self.model(images, training=False)


@pytest.mark.backends
def test_what_is_folded_to_learn_learns_as_it_would_without():
    before, plain, folded = convolutions(), convolutions(), convolutions()
    for model, learner in ((plain, plain), (folded, fold_to_learn(folded))):
        trained = InInference(learner)
        trained.compile(optimizer=keras.optimizers.SGD(1e-4), loss="mse")
        trained.train_on_batch(pixels(), np.zeros((2, *model.output_shape[1:])))
        assert len(trained.trainable_variables) == len(model.trainable_variables)
    for old, mine, expected in zip(before.weights, folded.weights, plain.weights, strict=True):
        steps = [keras.ops.convert_to_numpy(weight - old) for weight in (mine, expected)]
        assert np.any(steps[1]) != ("moving" in old.path)
        np.testing.assert_allclose(*steps, rtol=0.01, atol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_is_folded_to_learn_computes_in_the_precision_of_training(precision):
    model = convolutions()
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        folded = fold_to_learn(model)
        found = keras.ops.convert_to_numpy(keras.ops.cast(folded(pixels()), "float32"))
        assert {layer.output.dtype for layer in folded.layers if not isinstance(layer, layers.InputLayer)} == {
            precision
        }
    finally:
        keras.config.set_dtype_policy("float32")
    expected = model.predict(pixels(), verbose=0)
    assert 0 < abs(found / expected - 1).max() < 0.02
    assert {weight.dtype for weight in folded.weights} == {"float32"}


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
