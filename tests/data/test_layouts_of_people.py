"""Data sets as people have them: Kaggle's Flickr8k, Hugging Face's ImageFolder, texts beside pictures, JSON like COCO's."""

import json

import pytest
from layouts import captions_file, flickr8k_files, karpathy_image, names, pack, warning, write_files

from captioning.base.errors import UserError
from captioning.data import datasets
from config import Config


def load(folder, dataset, **settings):
    return datasets.load(Config(dataset=dataset, data_dir=str(folder), **settings).data_sets()[0])


def splits(dataset) -> dict[str, str]:
    return {record.file_name: record.split for record in dataset.records}


def captions(dataset) -> dict[str, tuple[str, ...]]:
    return {record.file_name: record.captions for record in dataset.records}


# Kaggle --------------------------------------------------------------------------------------------------------------

LETTERS = "abcdef"
KAGGLE = {f"Images/{name}.jpg": name for name in LETTERS} | {
    "captions.txt": "image,caption\n"
    + "".join(f"{name}.jpg,{name} runs .\n{name}.jpg,a {name} .\n" for name in LETTERS)
}


def test_flickr8k_of_kaggle(tmp_path):
    write_files(tmp_path, KAGGLE)
    dataset = load(tmp_path, "kaggle")
    assert captions(dataset)["a.jpg"] == ("a runs .", "a a .")
    assert sorted(splits(dataset).values()) == ["dev", "test", "train", "train", "train", "train"]
    assert warning(dataset, "no official splits are here")


@pytest.mark.parametrize("by", ["lists", "karpathy"])
def test_its_official_splits_are_read_where_they_are(tmp_path, by):
    write_files(tmp_path, KAGGLE)
    settings = {}
    if by == "lists":
        write_files(tmp_path, {name: text for name, text in flickr8k_files().items() if "Images.txt" in name})
    else:
        listed = [
            karpathy_image(f"{name}.jpg", split)
            for name, split in zip("abcde", ["train"] * 3 + ["val", "test"], strict=True)
        ]
        (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": listed}))
        settings["captions_file"] = str(tmp_path / "dataset_flickr8k.json")
    dataset = load(tmp_path, "kaggle", **settings)
    assert splits(dataset) == dict(
        zip([f"{name}.jpg" for name in LETTERS], ["train"] * 3 + ["dev", "test", ""], strict=True)
    )


def test_its_archive_and_commas_without_quotes(tmp_path):
    text = KAGGLE["captions.txt"].replace("a runs .", "a runs, barks, and sits .").replace("b runs .", '"b, ""runs"""')
    pack(tmp_path / "archive.zip", KAGGLE | {"captions.txt": text})
    dataset = load(tmp_path, "kaggle")
    assert captions(dataset)["a.jpg"][0] == "a runs, barks, and sits ."
    assert captions(dataset)["b.jpg"][0] == 'b, "runs"'
    assert warning(dataset, "without quotes (mended)").endswith("1, e.g. a.jpg")
    write_files(tmp_path / "plain", KAGGLE)
    for published in ("flickr8k", "flickr30k"):
        with pytest.raises(UserError, match=r"captions\.txt is there: read this folder with --dataset kaggle"):
            load(tmp_path / "plain", published)
    with pytest.raises(
        UserError, match=r"not complete in .*captions\.txt, Images/\*\.jpg not found.*--dataset flickr8k"
    ):
        load(tmp_path / "empty", "kaggle")


# Hugging Face --------------------------------------------------------------------------------------------------------


def test_metadata_beside_the_images(tmp_path):
    images = {f"{name}.png": "" for name in LETTERS}
    write_files(
        tmp_path,
        images
        | {"metadata.jsonl": "\n".join(json.dumps({"file_name": name, "text": f"it is {name}"}) for name in images)},
    )
    dataset = load(tmp_path, "imagefolder", dev_fraction=0.2)
    assert captions(dataset)["a.png"] == ("it is a.png",)
    assert sorted(splits(dataset).values()).count("train") == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("caption", "a dog"),
        ("prompt", "a dog"),
        ("captions", ["a dog"]),
        ("description", "a dog"),
        ("caption_0", "a dog"),
    ],
)
def test_the_caption_has_many_names(tmp_path, field, value):
    write_files(
        tmp_path, {"a.png": "", "metadata.jsonl": json.dumps({"file_name": "a.png", "split": "train", field: value})}
    )
    assert captions(load(tmp_path, "imagefolder")) == {"a.png": ("a dog",)}


def test_folders_are_splits_and_tables_have_numbered_captions(tmp_path):
    files = {}
    for split in ("train", "validation", "test"):
        files |= {f"data/{split}/0.png": split, f"data/{split}/x/1.png": split}
        files[f"data/{split}/metadata.csv"] = "file_name,caption_1,caption_0\n0.png,b,a\nx/1.png,d,c\n"
    write_files(tmp_path, files)
    dataset = load(tmp_path, "imagefolder")
    assert captions(dataset)["data/test/0.png"] == ("a", "b")
    assert splits(dataset)["data/validation/x/1.png"] == "dev"
    assert len(dataset.records) == 6


def test_no_metadata_is_explained(tmp_path):
    write_files(tmp_path, {"a.png": ""})
    with pytest.raises(UserError, match=r"no metadata\.jsonl or metadata\.csv in .*docs/data\.md"):
        load(tmp_path, "imagefolder")
    write_files(tmp_path, {"data/train-00000-of-00001.parquet": ""})
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet holds images and captions in one"):
        load(tmp_path, "imagefolder")


# Texts beside pictures -----------------------------------------------------------------------------------------------


def test_a_text_beside_each_picture(tmp_path):
    files = {"train/a.jpg": "", "train/a.txt": "a dog\n\nit runs\n", "train/b.png": "", "train/b.caption": "a cat"}
    files |= {"val/c.jpg": "", "val/c.jpg.txt": "\ufeffa bird", "val/d.jpg": "", "readme.txt": "cite us"}
    write_files(tmp_path, files)
    dataset = load(tmp_path, "sidecars")
    assert captions(dataset) == {
        "train/a.jpg": ("a dog", "it runs"),
        "train/b.png": ("a cat",),
        "val/c.jpg": ("a bird",),
    }
    assert splits(dataset)["val/c.jpg"] == "dev"
    assert warning(dataset, "text files without an image").endswith("1, e.g. readme.txt")
    assert warning(dataset, "without captions").endswith("1, e.g. val/d.jpg")


def test_pictures_without_texts_are_explained(tmp_path):
    write_files(tmp_path, {"a.jpg": "", "b.jpg": ""})
    with pytest.raises(UserError, match=r"none of the 2 images in .* has a text beside it, such as a\.txt for a\.jpg"):
        load(tmp_path, "sidecars")
    with pytest.raises(UserError, match="there are no images in"):
        load(tmp_path / "nowhere", "sidecars")


# JSON like COCO's ----------------------------------------------------------------------------------------------------


def cocostyle(tmp_path, content, images=(), name="mine.json", **settings):
    write_files(tmp_path, {f"photos/{image}": "" for image in images})
    files = content if name == "" else {name: content}
    write_files(tmp_path / "json", {file: json.dumps(text) for file, text in files.items()})
    where = tmp_path / "json" / name
    return load(tmp_path / "photos", "cocostyle", captions_file=str(where), **settings)


def test_a_file_of_any_name_over_any_folder(tmp_path):
    images = [f"deep/{i:012d}.jpg" for i in (3, 5, 7, 9)]
    dataset = cocostyle(tmp_path, captions_file(3, 5, 7, 9), images)
    assert [record.image_id for record in dataset.records] == [3, 5, 7, 9], "ids are those of the file"
    assert captions(dataset)["000000000003.jpg"] == ("caption 0 of 3", "caption 1 of 3")
    assert sorted(splits(dataset).values()) == ["dev", "test", "train", "train"]


def test_ids_may_be_texts_and_images_may_tell_their_split(tmp_path):
    content = captions_file(3, 5)
    for image in content["images"]:
        image |= {"id": f"id-{image['id']}", "split": "restval" if image["id"] == 3 else "val"}
    for annotation in content["annotations"]:
        annotation["image_id"] = f"id-{annotation['image_id']}"
    dataset = cocostyle(tmp_path, content, ["000000000003.jpg", "000000000005.jpg"])
    assert splits(dataset) == {"000000000003.jpg": "train", "000000000005.jpg": "dev"}
    assert [record.image_id for record in dataset.records] == [0, 1]


def test_textcaps(tmp_path):
    entries = [
        {"image_id": name, "caption_str": f"{k} of {name}", "set_name": split, "image_classes": []}
        for name, split in (("0a", "train"), ("0b", "val"))
        for k in range(2)
    ]
    dataset = cocostyle(tmp_path, {"dataset_type": "train", "data": entries}, ["0a.jpg", "0b.jpg"])
    assert captions(dataset) == {"0a.jpg": ("0 of 0a", "1 of 0a"), "0b.jpg": ("0 of 0b", "1 of 0b")}
    assert splits(dataset) == {"0a.jpg": "train", "0b.jpg": "dev"}


def test_a_folder_of_files_is_a_split_for_each(tmp_path):
    """As VizWiz has it; its test.json has no captions."""
    files = {"train.json": captions_file(1), "captions_val2020.json": captions_file(2), "test.json": captions_file(3)}
    del files["test.json"]["annotations"]
    dataset = cocostyle(tmp_path, files, [f"{i:012d}.jpg" for i in (1, 2, 3)], name="")
    assert splits(dataset) == {"000000000001.jpg": "train", "000000000002.jpg": "dev"}
    assert warning(dataset, "listed without captions").endswith("000000000003.jpg")
    write_files(tmp_path / "json", {"more.json": "{}"})
    with pytest.raises(UserError, match=r"more\.json: its name does not tell a split"):
        cocostyle(tmp_path, files, name="")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"mine\.json: expected JSON in COCO's style"),
        ([1], r"mine\.json: expected JSON in COCO's style"),
        ({"images": [{"id": 1.5, "file_name": "a.jpg"}]}, r"images\[0\]\.id"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "2 images share 1 ids"),
        ({"images": [{"id": 1, "file_name": "a", "split": "trian"}]}, "split must be train.*'trian'"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]}, "a is listed twice"),
    ],
)
def test_other_json_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        cocostyle(tmp_path, content, ["a"])


def test_each_layout_says_what_it_lacks():
    with pytest.raises(UserError, match="captions_file: dataset=cocostyle needs it"):
        Config().with_overrides({"dataset": "cocostyle"})
    with pytest.raises(UserError, match="captions_file: it is read only with"):
        Config().with_overrides({"dataset": "sidecars", "captions_file": "a.csv"})


def test_people_have_several_kinds_at_once(tmp_path):
    write_files(tmp_path / "a", KAGGLE)
    write_files(tmp_path / "b", {"train/a.jpg": "", "train/a.txt": "a dog"})
    places = (str(tmp_path / "a"), str(tmp_path / "b"))
    config = Config(dataset=("kaggle", "sidecars"), data_dir=places)
    assert [names(datasets.load(each).records)[0] for each in config.data_sets()] == ["a.jpg", "train/a.jpg"]
