"""The engine, with a captioner that writes down what it is asked: batches, places, errors, and strangers' pictures."""

import io
import struct
import threading
import zlib
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from captioning.base.errors import UserError
from captioning.pictures.loading import UnreadableImage, load_image
from captioning.serving import engine as engine_module
from captioning.serving.engine import (
    BATCHES,
    MAX_BEAM,
    Busy,
    Decoding,
    Engine,
    Model,
    TooLarge,
    WrongType,
    read_upload,
)
from captioning.serving.worker import Closed
from captioning.words.vocabulary import Vocabulary
from config import Config

CONFIG = Config(image_size=32, beam_size=3, length_penalty=0.7)


class FakeCaptioner:
    """Says the first grey value of each picture. ``gate`` holds it up; ``calls`` are its batch sizes and beams."""

    def __init__(self):
        self.regions = 4
        self.vocabulary = Vocabulary(["a"])
        self.calls: list[tuple[int, Config]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def encode(self, pixels):
        self.entered.set()
        assert self.gate.wait(30)
        if self.error:
            raise self.error
        return pixels[:, 0, 0, :1].astype("float32")

    def caption(self, features, config):
        self.calls.append((len(features), config))
        return [
            [
                SimpleNamespace(text=f"grey {int(row[0])} {k}", log_prob=-1.0 - k, score=-0.5 - k)
                for k in range(config.beam_size)
            ]
            for row in features
        ]

    def attend(self, features, captions):
        # Columns: the picture, the caption's place in its beam, and nothing in particular.
        return [
            np.stack([[row[0], int(text.split()[-1]), word, 0] for word in range(len(text.split()) + 1)])
            for row, text in zip(features, captions, strict=True)
        ]


def grey(value: int) -> np.ndarray:
    return np.full((32, 32, 3), value, np.uint8)


def models(*captioners, attends=True) -> list[Model]:
    return [Model(f"m{i}", CONFIG, attends, lambda made=made: made) for i, made in enumerate(captioners)]


@pytest.fixture
def fake() -> FakeCaptioner:
    return FakeCaptioner()


@pytest.fixture
def engine(fake):
    with Engine(models(fake)) as started:
        yield started
        fake.gate.set()


def held_up(engine, fake, decoding: Decoding | None = None) -> Future:
    """Keep the worker busy with a picture of its own until the gate opens."""
    fake.gate.clear()
    fake.entered.clear()
    first = engine.submit(engine.default, grey(255), decoding or engine.default.decoding())
    assert fake.entered.wait(30)
    return first


def test_pictures_that_come_together_are_captioned_together_each_with_its_own(engine, fake):
    held_up(engine, fake)
    futures = [engine.submit(engine.default, grey(i), Decoding(3, 0.7)) for i in range(20)]
    fake.gate.set()
    for i, future in enumerate(futures):
        result = future.result(30)
        assert [c.text for c in result.captions] == [f"grey {i} {k}" for k in range(3)]
        assert result.greedy.text == f"grey {i} 0"
        assert result.attention == []
    # One alone, then sixteen, then four; of each batch first the greedy captions.
    assert [(size, config.beam_size) for size, config in fake.calls] == [
        (1, 1),
        (1, 3),
        (16, 1),
        (16, 3),
        (4, 1),
        (4, 3),
    ]


def test_batches_are_filled_up_to_a_few_sizes(engine, fake):
    for count in (3, 5, 11):
        held_up(engine, fake)
        futures = [engine.submit(engine.default, grey(i), Decoding(1, 0.7)) for i in range(count)]
        fake.gate.set()
        assert [future.result(30).greedy.text for future in futures] == [f"grey {i} 0" for i in range(count)]
    # Greedy search does not search twice.
    assert [size for size, config in fake.calls if config.beam_size == 1][1::2] == [4, 8, 16]
    assert len(fake.calls) == 3 * 2 + 3


def test_a_single_picture_waits_for_others_for_a_moment(fake):
    with Engine(models(fake), window=10) as engine:
        futures = [engine.submit(engine.default, grey(i), Decoding(1, 1.0)) for i in range(BATCHES[-1])]
        wait_for(futures, 5)
        assert all(future.done() for future in futures)  # a full batch does not wait on
    assert [size for size, _ in fake.calls] == [BATCHES[-1]]


def test_other_decodings_and_other_models_have_batches_of_their_own(fake):
    other = FakeCaptioner()
    with Engine(models(fake, other)) as engine:
        first, second = engine.models.values()
        held_up(engine, fake)
        fake.calls.clear()
        asked = [
            (first, Decoding(2, 0.0)),
            (first, Decoding(2, 1.0)),
            (second, Decoding(2, 0.0)),
            (first, Decoding(2, 0.0)),
        ]
        futures = [engine.submit(model, grey(i), decoding) for i, (model, decoding) in enumerate(asked)]
        fake.gate.set()
        assert [future.result(30).captions[0].text for future in futures] == [f"grey {i} 0" for i in range(4)]
    beams = [(size, config.length_penalty) for size, config in fake.calls if config.beam_size == 2]
    assert beams == [(2, 0.0), (1, 1.0)]
    assert [(size, config.beam_size) for size, config in other.calls] == [(1, 1), (1, 2)]
    assert fake.calls[-1][1].min_length == CONFIG.min_length


def test_attention_of_those_who_asked(engine, fake):
    held_up(engine, fake)
    futures = [engine.submit(engine.default, grey(i), Decoding(2, 0.7), attention=i != 1) for i in range(3)]
    fake.gate.set()
    for i, future in enumerate(futures):
        result = future.result(30)
        looks = [result.greedy_attention, *result.attention]
        if i == 1:
            assert looks == [None]
            continue
        assert [look.side for look in looks] == [2, 2, 2]
        for k, look in zip((0, 0, 1), looks, strict=True):
            assert look.weights.shape == (3, 4)  # of each word, not of the end
            assert (look.weights[:, 0] == i).all()
            assert (look.weights[:, 1] == k).all()
            assert look.sentinel is None


def test_attention_that_cannot_be_laid_over_a_picture_and_a_sentinel(engine, fake):
    fake.regions = 3
    assert engine.submit(engine.default, grey(1), Decoding(1, 1.0), True).result(30).attention == []
    fake.regions = 1
    fake.attend = lambda features, captions: [np.array([[0.7, 0.3]] * 4)] * len(captions)
    (look,) = engine.submit(engine.default, grey(1), Decoding(1, 1.0), True).result(30).attention
    np.testing.assert_allclose(look.sentinel, [0.3] * 3)
    assert look.weights.shape == (3, 1)


def test_decoders_without_attention_are_never_asked_for_it(fake):
    with Engine(models(fake, attends=False)) as engine:
        assert engine.submit(engine.default, grey(1), Decoding(1, 1.0), True).result(30).greedy_attention is None


def test_when_all_places_are_taken_the_answer_is_busy(fake):
    with Engine(models(fake), places=2) as engine:
        with engine.place(), engine.place():
            with pytest.raises(Busy) as busy, engine.place():
                pass
            assert busy.value.retry_after >= 1
        with pytest.raises(ValueError, match="gone"), engine.place():
            raise ValueError("gone")
        with engine.place(), engine.place():
            pass


def test_an_error_reaches_its_callers_and_the_next_picture_is_captioned(engine, fake):
    fake.error = MemoryError("too much")
    with pytest.raises(MemoryError):
        engine.submit(engine.default, grey(1), Decoding(3, 0.7)).result(30)
    fake.error = None
    assert engine.submit(engine.default, grey(7), Decoding(3, 0.7)).result(30).greedy.text == "grey 7 0"


def test_who_has_gone_is_not_captioned(engine, fake):
    held_up(engine, fake)
    futures = [engine.submit(engine.default, grey(i), Decoding(1, 0.7)) for i in range(2)]
    assert futures[0].cancel()
    fake.gate.set()
    assert futures[1].result(30).greedy.text == "grey 1 0"
    assert fake.calls[-1][0] == 1


def test_the_last_captioners_used_stay_in_memory():
    loads = []

    def load(name):
        loads.append(name)
        return FakeCaptioner()

    made = [Model(name, CONFIG, False, lambda name=name: load(name)) for name in "abc"]
    with Engine(made) as engine:
        for name in "abacbca":
            engine.submit(engine.models[name], grey(0), Decoding(1, 1.0)).result(30)
            assert len(engine._captioners) <= engine_module.KEPT
    assert "".join(loads) == "abcba"


def test_a_captioner_that_cannot_be_loaded_is_said_at_the_start():
    def load():
        raise UserError("a.zip: damaged")

    with Engine([Model("a", CONFIG, False, load)]) as engine, pytest.raises(UserError, match=r"a\.zip: damaged"):
        engine.warm_up()


def test_warm_up_goes_through_every_size_of_batch(engine, fake):
    engine.warm_up()
    assert [(size, config.beam_size) for size, config in fake.calls] == [(n, k) for n in BATCHES for k in (1, 3)]


def test_stopping_finishes_the_batch_at_hand_and_refuses_the_rest(fake):
    with Engine(models(fake)) as engine:
        first = held_up(engine, fake)
        second = engine.submit(engine.default, grey(2), Decoding(1, 1.0))
        threading.Timer(0.1, fake.gate.set).start()
    assert first.result(0).greedy.text == "grey 255 0"
    with pytest.raises(Closed):
        second.result(0)
    with pytest.raises(Closed):
        engine.submit(engine.default, grey(2), Decoding(1, 1.0))


def test_decodings_are_checked_by_the_rules_of_the_settings():
    (model,) = models(None)
    assert model.decoding() == (3, 0.7)
    assert model.decoding(beam_size=5, length_penalty=0) == (5, 0)
    for wrong in (
        {"beam_size": 0},
        {"beam_size": MAX_BEAM + 1},
        {"length_penalty": -1},
        {"length_penalty": float("nan")},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            model.decoding(**wrong)
    wide = Model("wide", CONFIG.with_overrides({"beam_size": 50}), False, lambda: None)
    assert wide.decoding().beam_size == MAX_BEAM


# Pictures of strangers ------------------------------------------------------------------------------------------------


def packed(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def bomb(side: int) -> io.BytesIO:
    """A PNG whose header promises ``side`` x ``side`` pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return io.BytesIO(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    )


def test_pictures_are_read_as_in_training():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (50, 80, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    for file in (packed(picture), packed(picture, "JPEG", exif=turned), packed(picture.convert("P"), "GIF")):
        np.testing.assert_array_equal(read_upload(file, "a", 32), load_image(io.BytesIO(file.getvalue()), 32))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7100, 13_000, 60_000])
def test_too_many_pixels_are_refused_before_they_are_decoded(side, monkeypatch):
    monkeypatch.setattr(engine_module, "load_image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(TooLarge, match=r"^a\.png: more than (50|178) megapixels; send a smaller copy"):
        read_upload(bomb(side), "a.png", 32)


def test_what_is_no_picture_or_of_another_format():
    for data in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"text", b""):
        with pytest.raises(WrongType, match=r"^b\.jpg: not a picture in a format that this server reads; send JPEG"):
            read_upload(io.BytesIO(data), "b.jpg", 32)
    with pytest.raises(WrongType):  # which Pillow would read
        read_upload(packed(Image.new("RGB", (8, 8)), "PPM"), "b.ppm", 32)


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [
        ("WEBP", (300, 200), "its format needs 0 MiB for so many pixels"),
        ("PNG", (100_001, 1), "a side of 100,001 pixels"),
    ],
)
def test_long_and_costly_pictures_are_refused_too(kind, size, reason, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_MEMORY", 500_000)
    with pytest.raises(TooLarge, match=rf"^a: {reason}.*; send a smaller copy"):
        read_upload(packed(Image.new("RGB", size), kind), "a", 32)


def test_damaged_pictures_are_named():
    file = packed(Image.effect_noise((200, 200), 50), "JPEG")
    with pytest.raises(UnreadableImage, match=r"^c\.jpg: cannot be read as a picture: .*truncated"):
        read_upload(io.BytesIO(file.getvalue()[:2000]), "c.jpg", 32)
