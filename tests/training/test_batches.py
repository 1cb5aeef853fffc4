"""Batches: every caption once an epoch, the same ones for the same seed and epoch, and little padding."""

from collections import Counter

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from captioning.features.batches import FeatureBatches
from captioning.features.joined_store import JoinedStore
from captioning.features.store import View
from captioning.training.batches import CaptionBatches, PairBatches
from captioning.training.image_batches import GroupedBatches, ImageBatches, PixelBatches, ReferenceBatches
from captioning.words.vocabulary import END, PAD, START, Vocabulary
from config import Config

WORDS = Vocabulary([f"w{i}" for i in range(500)])


def captions_of(count: int, seed: int = 0, images: int = 40) -> list[tuple[str, str]]:
    """Pairs (file name, caption), each caption of other words, with lengths like those of Flickr8k (2 to 30 words)."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.round(rng.gamma(9.0, 1.2, count)), 2, 30).astype(int)
    return [
        (f"{i % images:03}.jpg", " ".join(f"w{word}" for word in rng.integers(0, 500, length)))
        for i, length in enumerate(lengths)
    ]


@pytest.fixture
def store(make_store):
    return make_store([f"{i:03}.jpg" for i in range(40)])


def make(store, captions, shuffle=True, **settings) -> CaptionBatches:
    return CaptionBatches(store, captions, WORDS, Config(**{"batch_size": 16, **settings}), shuffle)


def arrays(batch) -> list[np.ndarray]:
    (features, inputs), targets = batch
    return [np.asarray(part) for part in (features, inputs, targets)]


def read(batches: CaptionBatches) -> list[list[np.ndarray]]:
    return [arrays(batches[i]) for i in range(len(batches))]


def rows(epoch: list[list[np.ndarray]]) -> list[tuple]:
    """Each row of an epoch as (features, words), in the order they come."""
    return [
        (features[i].tobytes(), tuple(targets[i][targets[i] != PAD].tolist()))
        for features, _, targets in epoch
        for i in range(len(targets))
    ]


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 1000])
def test_every_caption_once_an_epoch_with_its_own_features(store, count, shuffle):
    captions = captions_of(count)
    batches = make(store, captions, shuffle)
    wanted = sorted(
        (store.read(np.array([store.rows[name]]))[0].tobytes(), tuple(WORDS.encode(text, 30)[1:].tolist()))
        for name, text in captions
    )
    for epoch in range(2):
        batches.start_epoch(epoch)
        assert sorted(rows(read(batches))) == wanted
        assert max(len(batch[1]) for batch in read(batches)) <= 16


def test_targets_are_the_inputs_shifted_by_one_and_padding_comes_last(store):
    for features, inputs, targets in read(make(store, captions_of(200))):
        assert features.shape == (len(inputs), 2, 3)
        assert inputs.dtype == targets.dtype == np.int32
        assert (inputs[:, 0] == START).all()
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        for row in targets:
            (words,) = np.nonzero(row != PAD)
            assert row[words[-1]] == END
            assert words.tolist() == list(range(len(words)))  # no padding before or between words
        assert not (targets == START).any()
        assert (targets[inputs == END] == PAD).all()  # after the end there is nothing to learn


def test_a_caption_that_is_cut_has_no_end(store):
    batches = make(store, [("000.jpg", "w1 w2 w3 w4 w5")], max_caption_length=4)
    _, inputs, targets = read(batches)[0]
    assert inputs.tolist() == [[START, *WORDS.encode("w1 w2 w3", 9)[1:-1]]]
    assert targets.tolist() == [WORDS.encode("w1 w2 w3 w4", 9)[1:-1].tolist()]


@pytest.mark.parametrize("words", [255, 65_535, 70_000])
def test_the_last_word_of_a_large_vocabulary_is_kept(store, words):
    vocabulary = Vocabulary([f"w{i}" for i in range(words)])
    batches = CaptionBatches(store, [("000.jpg", f"w0 w{words - 1}")], vocabulary, Config())
    assert read(batches)[0][2].tolist() == [[4, words + 3, END]]


def test_order_depends_on_seed_and_epoch_alone(store):
    captions = captions_of(300)

    def epoch(number, before=(), **settings):
        batches = make(store, captions, **settings)
        for other in before:
            batches.start_epoch(other)
        batches.start_epoch(number)
        return read(batches)

    assert same(epoch(1), epoch(1))
    assert same(epoch(1), epoch(1, before=(0, 5, 3)))  # a resumed run meets the batches of an undisturbed one
    assert same(epoch(0), read(make(store, captions)))
    assert not same(epoch(0), epoch(1))
    assert not same(epoch(0), epoch(0, seed=1))
    np.random.seed(3)
    assert same(epoch(1), epoch(1, workers=4))


def test_captions_meet_other_captions_in_other_epochs(store):
    batches = make(store, captions_of(300))
    together = []
    for epoch in (0, 1):
        batches.start_epoch(epoch)
        together.append({frozenset(batch.tolist()) for batch in batches.batches})
    assert len(together[0] & together[1]) <= 1


def test_without_shuffling_every_epoch_is_the_same(store):
    batches = make(store, captions_of(100), shuffle=False)
    first = read(batches)
    batches.start_epoch(1)
    assert same(read(batches), first)


def test_little_padding(store):
    batches = make(store, captions_of(8000), batch_size=64)
    assert batches.padding < (0.15 if keras.backend.backend() == "jax" else 0.05)
    targets = np.concatenate([targets.ravel() for _, _, targets in read(batches)])
    assert batches.padding == pytest.approx((targets == PAD).mean())


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_first_batch_is_the_widest_and_the_second_has_another_width(store, shuffle):
    batches = make(store, captions_of(300), shuffle)
    for epoch in range(5):
        batches.start_epoch(epoch)
        widths = [inputs.shape[1] for _, inputs, _ in read(batches)]
        assert len(set(widths)) > 1
        assert widths[0] == max(widths) > widths[1] == min(widths)
        if keras.backend.backend() == "jax":
            assert len(set(widths)) <= 8  # each is compiled anew


def test_images_that_the_store_lacks_are_left_out(store):
    captions = [("000.jpg", "w1"), ("lost.jpg", "w2"), ("001.jpg", "w3")]
    assert len(rows(read(make(store, captions)))) == 2


class OtherStore:
    """Another look at one image, which here is a number."""

    def __init__(self, number: float):
        self.number = number
        self.rows = {"002.jpg": 7}  # another row than in the store itself

    def read(self, rows):
        assert set(rows) == {7}
        return np.full((len(rows), 2, 3), self.number)


@pytest.mark.parametrize("crops", [False, True])
def test_all_looks_at_an_image_equally_often_but_no_mirrored_one_with_left_or_right(store, crops):
    views = [View(OtherStore(-1), True)]
    if crops:
        views += [View(OtherStore(-2), False), View(OtherStore(-3), True)]
    plain = store.read(np.array([store.rows["002.jpg"]]))[0]
    captions = [("002.jpg", "w1 w2")] * 400 + [("002.jpg", "w3 left"), ("002.jpg", "w3 Right-hand .")] * 50
    batches = CaptionBatches(store, captions, WORDS, Config(batch_size=16), views=views)
    drawn = []
    for epoch in (0, 1):
        batches.start_epoch(epoch)
        free, sided = [], []
        for features, _, targets in read(batches):
            for picture, words in zip(features, targets, strict=True):
                look = 0 if np.array_equal(picture, plain) else picture[0, 0]
                assert look == 0 or (picture == look).all()
                (sided if words[0] == WORDS.encode("w3", 9)[1] else free).append(look)
        for chosen, looks in ((free, [0, -1, -2, -3] if crops else [0, -1]), (sided, [0, -2] if crops else [0])):
            found, times = np.unique(chosen, return_counts=True)
            assert found.tolist() == sorted(looks)
            assert np.abs(times / len(chosen) - 1 / len(looks)).max() < 0.15
        drawn.append(batches.look.copy())
    assert (drawn[0] != drawn[1]).any()
    batches.start_epoch(0)
    np.testing.assert_array_equal(batches.look, drawn[0])


def test_an_image_looks_the_same_for_all_its_captions_in_a_batch(store):
    views = [View(OtherStore(-1), True), View(OtherStore(-2), False)]
    views[0].store.rows["003.jpg"] = views[1].store.rows["003.jpg"] = 7
    captions = [("002.jpg", f"w{i}") for i in range(5)] + [("003.jpg", "w6"), ("003.jpg", "w7 left")]
    batches = ImageBatches(store, captions, WORDS, Config(batch_size=2), views=views)
    looks = {name: set() for name in ("002.jpg", "003.jpg")}
    for epoch in range(30):
        batches.start_epoch(epoch)
        features, _, _, rows = batches[0]
        assert [len(set(batches.look[batches.rows == row].tolist())) for row in rows] == [1, 1]
        for name, found in looks.items():
            found.add(features[rows.tolist().index(store.rows[name])].tobytes())
    assert {name: len(found) for name, found in looks.items()} == {"002.jpg": 3, "003.jpg": 2}


def test_reference_batches_hold_one_caption_of_each_image_another_in_other_epochs(store):
    captions = captions_of(60, images=12)
    batches = ReferenceBatches(store, captions, WORDS, Config(batch_size=5, seed=3))
    epochs = []
    for epoch in (0, 1, 0):
        batches.start_epoch(epoch)
        drawn = {}
        for features, tokens, image, rows in (batches[i] for i in range(len(batches))):
            assert len(features) == len(tokens) == len(rows)
            assert sorted(image.tolist()) == list(range(len(rows)))
            drawn |= {int(rows[place]): tokens[i].tolist() for i, place in enumerate(image)}
        assert batches.words == sum(sum(token != PAD for token in row) - 1 for row in drawn.values())
        epochs.append({row: [token for token in tokens if token != PAD] for row, tokens in drawn.items()})
    assert epochs[0] == epochs[2] != epochs[1]
    references = {}
    for name, caption in captions:
        references.setdefault(store.rows[name], []).append(WORDS.encode(caption, 30).tolist())
    for epoch in epochs:
        assert epoch.keys() == references.keys()
        assert all(tokens in references[row] for row, tokens in epoch.items())


def test_grouped_batches_hold_whole_images_and_about_as_many_captions_as_asked_for(store):
    captions = captions_of(120)  # three of each of 40 images
    batches = GroupedBatches(store, captions, WORDS, Config(batch_size=16))
    met, sizes = [], []
    for (features, inputs), targets in (batches[i] for i in range(len(batches))):
        np.testing.assert_array_equal(inputs[..., 1:], np.where(inputs[..., 1:] == PAD, PAD, targets[..., :-1]))
        assert inputs.shape == targets.shape
        assert inputs.shape[:2] == (len(features), 3)
        assert len(features) <= 5
        for picture, of_image in zip(features, targets, strict=True):
            met += [
                (picture.tobytes(), tuple(token for token in tokens if token != PAD)) for tokens in of_image.tolist()
            ]
        lengths = (targets != PAD).sum(axis=-1)
        np.testing.assert_array_equal(lengths, -np.sort(-lengths, axis=-1))  # as the loop over the words pads least
        sizes.append(sorted(map(tuple, lengths[:, :2].tolist())))
    wanted = [
        (store.read(np.array([store.rows[name]]))[0].tobytes(), tuple(WORDS.encode(caption, 30)[1:].tolist()))
        for name, caption in captions
    ]
    assert sorted(met) == sorted(wanted)
    in_order = sorted(size for batch in sizes for size in batch)
    assert [size for batch in sorted(sizes) for size in batch] == in_order, "images of similar captions stand together"
    assert len(set(in_order)) > len({longest for longest, _ in in_order})
    widths = [batches[i][1].shape[2] for i in range(len(batches))]
    assert widths[0] == max(widths)
    assert widths[1] == min(widths)


@pytest.mark.parametrize(
    ("counts", "each"),
    [([5] * 39 + [7], 5), ([1] * 36 + [5] * 4, 1), ([5] * 30 + [4] * 10, 5), ([1] * 40, 1)],
    ids=str,
)
def test_grouped_batches_have_as_many_captions_of_an_image_as_suits_the_data(store, counts, each):
    lengths = np.random.default_rng(0).integers(1, 20, sum(counts)).tolist()
    captions = [
        (f"{image:03}.jpg", " ".join(["w1"] * lengths.pop()))
        for image, count in enumerate(counts)
        for _ in range(count)
    ]
    batches = GroupedBatches(store, captions, WORDS, Config(batch_size=16))
    found = Counter()
    for (features, _), targets in (batches[i] for i in range(len(batches))):
        assert targets.shape[:2] == (len(features), each)
        for picture, of_image in zip(features, targets, strict=True):
            assert (of_image[0] != PAD).any(), "each image has a caption at least"
            found[picture.tobytes()] += int((of_image[:, 0] != PAD).sum())
    assert sorted(found.values()) == sorted(counts)
    assert batches.captions == sum(counts)


def test_pixel_batches_vary_pictures_by_seed_and_epoch(store, tmp_path):
    paths, captions = {}, []
    for i in range(6):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[:, :16], pixels[..., 2] = (255, 0, 0), 40 * i  # red on the left, blue tells the picture
        name = f"{i:03}.jpg"
        paths[name] = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(paths[name])
        captions += [(name, f"w{i} w9"), (name, f"w{i} left" if i == 0 else f"w{i} w8 w7")]

    def epoch(number, **settings):
        tuning = {"stage": "finetune", "init": "a run", "colour_jitter": 0.02}
        config = Config(**tuning | {"batch_size": 4, "image_size": 32, "mirror": True, "seed": 3} | settings)
        batches = PixelBatches(store, paths, captions, WORDS, config, image_size=32)
        batches.start_epoch(number)
        found = {}
        for i in range(len(batches)):
            (pictures, inputs, image), targets = batches[i]
            assert pictures.dtype == np.uint8
            np.testing.assert_array_equal(
                inputs[:, 1:][targets[:, :-1] != PAD], targets[:, :-1][targets[:, :-1] != PAD]
            )
            for row, words in zip(image, targets, strict=True):
                number = words[0] - WORDS.encode("w0", 9)[1]
                assert abs(np.median(pictures[row, ..., 2]) - 40 * number) < (90 if config.erase else 25), (
                    "words and picture belong together"
                )
                found.setdefault(number, []).append(pictures[row])
        assert {number: len(rows) for number, rows in found.items()} == dict.fromkeys(range(6), 2)
        return [found[number][0] for number in range(6)]

    first = epoch(0)
    assert all(np.array_equal(one, again) for one, again in zip(first, epoch(0), strict=True))
    assert not any(np.array_equal(one, other) for one, other in zip(first, epoch(1), strict=True))
    red_left = [[picture[:, 0, 0].mean() > picture[:, -1, 0].mean() for picture in epoch(i)] for i in range(8)]
    assert all(row[0] for row in red_left), "its caption says left"
    assert 10 < sum(sum(row[1:]) for row in red_left) < 30
    assert all(picture[:, 0, 0].mean() > picture[:, -1, 0].mean() for picture in epoch(0, mirror=False))
    erased = [(one != other).any(axis=2) for one, other in zip(first, epoch(0, erase=1.0), strict=True)]
    assert all(0 < each.mean() < 0.45 for each in erased), "a part of each picture, whose crop and colours stay"


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_pixel_batches_are_of_one_shape_on_jax_which_compiles_each(store, tmp_path, monkeypatch, backend):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    captions = [(f"{i:03}.jpg", "w1 " * (1 + 2 * i)) for i in range(6)]
    paths = {name: tmp_path / "picture.png" for name, _ in captions}
    Image.new("RGB", (32, 32)).save(tmp_path / "picture.png")
    config = Config(stage="finetune", init="a run", batch_size=2, image_size=32)
    batches = PixelBatches(store, paths, captions, WORDS, config, image_size=32)
    shapes = {
        tuple(part.shape for part in (*inputs, targets)) for inputs, targets in map(batches.__getitem__, range(3))
    }
    assert len(shapes) == (1 if backend == "jax" else 3)


class Listener(keras.Model):
    """Notes the batches that reach ``fit``'s training step."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.dense.build((None, 2, 3))
        self.built = True  # as CaptionTrainer is: Keras builds other models from a batch that it reads ahead
        self.epochs: list[list] = []

    def call(self, inputs):
        features, _ = inputs
        return self.dense(ops.cast(features, "float32"))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.epochs[-1].append([ops.convert_to_numpy(part) for part in (*x, y)])
        return ops.mean(y_pred)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_batches_that_reach_fit_are_those_of_the_epoch(store, workers):
    """Keras reads batches ahead, in threads; none of one epoch may slip into the next, and their order is ours."""
    captions = captions_of(400)
    batches = make(store, captions, workers=workers)
    model = Listener()

    def on_epoch_begin(epoch, logs):
        batches.start_epoch(epoch)
        model.epochs.append([])

    model.compile(optimizer="sgd", run_eagerly=True)
    starts = keras.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin)
    model.fit(batches, shuffle=False, initial_epoch=2, epochs=5, callbacks=[starts], verbose=0)
    assert len(model.epochs) == 3
    for number, arrived in enumerate(model.epochs, start=2):
        alone = make(store, captions)
        alone.start_epoch(number)
        assert same(arrived, read(alone)), f"epoch {number}"


@pytest.mark.parametrize(("count", "size", "batches", "rows"), [(7, 3, 3, 3), (6, 3, 2, 3), (2, 3, 1, 2), (1, 1, 1, 1)])
def test_feature_batches_are_of_one_size_in_order(store, count, size, batches, rows):
    names = [f"{i:03}.jpg" for i in reversed(range(count))]
    found = FeatureBatches(store, names, size)
    assert len(found) == batches
    read = [found[i][0] for i in range(len(found))]
    assert {len(batch) for batch in read} == {rows}
    wanted = store.read(np.array([store.rows[name] for name in names]))
    np.testing.assert_array_equal(np.concatenate(read)[:count], wanted)
    np.testing.assert_array_equal(np.concatenate(read)[count:], np.repeat(wanted[-1:], batches * rows - count, axis=0))


# Weights of several data sets


@pytest.fixture
def both(make_store):
    """Two data sets of 20 and 10 images with the same file names, and their captions: two of each image."""
    stores = {"one": make_store([f"{i:03}.jpg" for i in range(20)], folder="one")}
    stores["two"] = make_store([f"{i:03}.jpg" for i in range(10)], folder="two")
    captions = [(f"{name}/{file}", f"w{i}") for i, (name, file) in enumerate(
        (name, file) for name, store in stores.items() for file in store.rows for _ in (0, 1)
    )]  # fmt: skip
    return JoinedStore(stores), captions


def seen(batches: CaptionBatches, epoch: int) -> Counter:
    """How often each caption comes in an epoch: captions are numbered as they were given."""
    batches.start_epoch(epoch)
    # A caption has three tokens.
    return Counter(int(batches.offsets[place]) // 3 for batch in batches.batches for place in batch)


@pytest.mark.parametrize("kind", [CaptionBatches, PairBatches, ReferenceBatches, GroupedBatches])
def test_captions_come_as_often_as_their_data_set_weighs(both, kind):
    store, captions = both
    batches = kind(store, captions, WORDS, Config(batch_size=4), weights=[0.5, 2.25])
    by_image = kind in (ReferenceBatches, GroupedBatches)
    single = kind is ReferenceBatches  # one caption of each image and copy
    total, epochs = Counter(), 40
    for epoch in range(epochs):
        found = seen(batches, epoch)
        of_one = sum(times for caption, times in found.items() if caption < 40)
        of_two = sum(times for caption, times in found.items() if caption >= 40)
        # Half of 20 images or 40 captions; a quarter of 10 or 20: as many in each epoch.
        assert (of_one, of_two) == ((10, 22) if single else (20, 44) if by_image else (20, 45))
        assert batches.captions == of_one + of_two
        total += found
    assert set(total) == set(range(60)), "each epoch draws anew"
    shares = [total[i] / epochs * (2 if single else 1) for i in range(60)]
    assert 0.1 < min(shares[:40]) < max(shares[:40]) < 0.9
    assert 1.2 < min(shares[40:]) < max(shares[40:]) < 3.3


def test_what_an_epoch_draws_depends_on_seed_and_epoch_alone(both):
    store, captions = both

    def drawn(seed, *epochs):
        batches = CaptionBatches(store, captions, WORDS, Config(batch_size=4, seed=seed), weights=[0.5, 1])
        return [seen(batches, epoch) for epoch in epochs][-1]

    assert drawn(0, 3) == drawn(0, 0, 1, 2, 3)
    assert drawn(0, 3) != drawn(0, 2)
    assert drawn(0, 3) != drawn(1, 3)


@pytest.mark.parametrize("kind", [CaptionBatches, ReferenceBatches, GroupedBatches])
def test_weights_of_one_change_nothing(both, kind):
    store, captions = both
    weighed, plain = (kind(store, captions, WORDS, Config(batch_size=4), weights=w) for w in ([1, 1], []))
    for epoch in range(2):
        for batches in (weighed, plain):
            batches.start_epoch(epoch)
        assert [batch.tolist() for batch in weighed.batches] == [batch.tolist() for batch in plain.batches]
        np.testing.assert_array_equal(weighed.look, plain.look)


def test_order_without_weights_is_that_of_earlier_releases(store):
    """A run that an earlier release began goes on with the same batches."""
    batches = make(store, [(f"{i:03}.jpg", "w1 w2"[: 2 + 3 * (i % 2)]) for i in range(6)], batch_size=4)
    rng = np.random.default_rng((0, 0))
    order = rng.permutation(6)
    order = order[np.argsort(batches.lengths[order], kind="stable")]
    expected = [order[:4], order[4:]]
    rng.shuffle(expected)
    assert sorted(batch.tolist() for batch in batches.batches) == sorted(batch.tolist() for batch in expected)


def test_features_are_those_of_the_data_set(both):
    store, captions = both
    batches = CaptionBatches(store, captions, WORDS, Config(batch_size=7), weights=[1, 2])
    assert list(store.rows)[18:22] == ["one/018.jpg", "one/019.jpg", "two/000.jpg", "two/001.jpg"]
    for (features, _), targets in (batches[i] for i in range(len(batches))):
        for found, target in zip(features, targets, strict=True):
            caption = int(target[0]) - WORDS.encode("w0", 9)[1]
            wanted = store.read(np.array([store.rows[captions[caption][0]]]))[0]
            np.testing.assert_array_equal(found, wanted)


def test_copies_of_an_image_in_one_batch_are_images_of_their_own(both, monkeypatch):
    store, captions = both
    batches = ReferenceBatches(store, captions, WORDS, Config(batch_size=100), weights=[1, 3])
    features, tokens, image_of, rows = batches[0]
    assert len(features) == len(tokens) == len(rows) == 50
    assert sorted(image_of.tolist()) == list(range(50))
    assert Counter(rows.tolist()) == {row: 1 if row < 20 else 3 for row in range(30)}
    paths = {name: name for name in store.rows}
    config = Config(batch_size=100, stage="finetune", init="run", image_size=32)
    pixels = PixelBatches(store, paths, captions, WORDS, config, 32, [1, 2])
    drawn = []

    def note(path, size, crop, jitter, rng, erase):
        drawn.append((path, rng.random()))
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr("captioning.training.image_batches.load_varied", note)
    pixels[0]
    assert len(drawn) == len(set(drawn)) == 40
    assert Counter(path for path, _ in drawn)["two/003.jpg"] == 2


def test_joined_stores_read_across_their_borders(both):
    store, _ = both
    assert (store.size, len(store.rows), store.starts) == (30, 30, (0, 20))
    assert store.rows["two/003.jpg"] == 23
    assert store.part_of(np.array([0, 19, 20, 29])).tolist() == [0, 0, 1, 1]
    assert "003.jpg" not in store.rows
    assert "three/003.jpg" not in store.rows
    features = store.read(np.array([23, 3, 23, 19, 20]))
    np.testing.assert_array_equal(features[0], features[2])
    for row, found in zip((23, 3, 23, 19, 20), features, strict=True):
        np.testing.assert_array_equal(found, store.read(np.array([row]))[0])
    assert features.shape == (5, 2, 3)
