"""The settings of several data sets: which value goes to which data set, what each is called, and what is refused."""

import json

import pytest

from captioning.base.errors import UserError
from captioning.base.settings import own_fields
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.reading import read_settings
from captioning.command_line.resolving import resolve, resolve_resumed, resolve_trained
from config import Config, DataSettings, MixtureSettings

BOTH = {"dataset": ["coco", "flickr8k"]}
FOLDERS = {
    "dataset": ["coco", "folder", "folder"],
    "data_dir": ["c", "photos", "drawings"],
    "captions_file": ["p.csv", "d.csv"],
    "data_weight": [1, 0.5, 2],
}


def settings(**values) -> Config:
    return Config().with_overrides(values)


def typed(*arguments: str, trained: bool = False):
    return make_parser("", trained).parse_args(arguments)


def test_a_run_has_the_settings_of_a_data_set():
    assert own_fields(MixtureSettings) == own_fields(DataSettings)


def test_each_data_set_gets_its_own_values():
    coco, photos, drawings = settings(**FOLDERS).data_sets()
    assert (coco.data_dir, coco.captions_file, coco.data_weight) == ("c", None, 1)
    assert (photos.dataset, photos.data_dir, photos.captions_file, photos.data_weight) == (
        "folder",
        "photos",
        "p.csv",
        0.5,
    )
    assert (drawings.data_dir, drawings.captions_file, drawings.data_weight) == ("drawings", "d.csv", 2)


def test_without_a_folder_each_has_its_own():
    assert [each.data_dir for each in settings(dataset="coco").data_sets()] == ["data/coco"]
    assert [each.data_dir for each in settings(**BOTH).data_sets()] == ["data/coco", "data/flickr8k"]


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({**BOTH, "data_dir": "d"}, r"data_dir: 1 given, and 2 of the data sets read it \(coco, flickr8k\); give one"),
        ({**BOTH, "data_dir": ["a", "b", "c"]}, "data_dir: 3 given, and 2"),
        ({**BOTH, "data_weight": [0.5]}, "data_weight: 1 given, and 2"),
        ({**FOLDERS, "captions_file": "c.csv"}, r"captions_file: 1 given, and 2 .* \(folder, folder\)"),
        ({**BOTH, "captions_file": "c.csv"}, "captions_file: it is read only with .*, and dataset is coco flickr8k"),
        ({**FOLDERS, "split_seed": 3}, "split_seed: 1 given, and 2"),
        ({"data_dir": ["a", "b"]}, "data_dir: 2 given, and 1"),
        (
            {**BOTH, "data_weight": [1, 0]},
            "data_weight: 0 is not above 0; to train without a data set, leave it out of",
        ),
        ({"data_weight": -1}, "data_weight: -1 is not above 0"),
        ({"data_weight": "nan"}, "data_weight: "),
        ({"data_weight": "inf"}, "data_weight: "),
        ({**FOLDERS, "dev_fraction": [0.1, 2]}, "dev_fraction: Input should be less than 1, got 2"),
        ({**FOLDERS, "dev_fraction": [0.1, 0.95]}, "dev_fraction: with test_fraction it leaves nothing"),
        ({"dataset": ["folder", "coco"]}, "captions_file: dataset=folder needs it"),
        ({"dataset": ["coco", "imagenet"]}, "dataset: Input should be .*, got 'imagenet'"),
        ({"dataset": []}, "dataset: names no data set"),
        ({"dataset": ["coco", "coco"], "data_weight": [1, 2]}, "dataset: coco is named twice; .* higher data_weight"),
        ({**BOTH, "download_urls": ["https://example.org/a.zip"]}, "download_urls: belong to one data set"),
    ],
)
def test_what_does_not_fit_is_refused(values, refusal):
    with pytest.raises(UserError, match=refusal):
        settings(**values)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({**BOTH}, ("coco", "flickr8k")),
        (FOLDERS, ("coco", "photos", "drawings")),
        ({"dataset": ["coco", "coco"], "data_dir": ["x/a", "x/b"]}, ("a", "b")),
        # One folder of images, or folders of one name: the captions files tell them apart.
        ({**FOLDERS, "data_dir": ["c", "x/images", "y/images"]}, ("coco", "p", "d")),
        ({**FOLDERS, "data_dir": ["c", "x/i", "y/i"], "captions_file": ["x/c.csv", "y/c.csv"]}, ("coco", "c", "c-2")),
        ({"dataset": ["coco", "folder"], "data_dir": ["c", "x/coco"], "captions_file": "c.csv"}, ("coco", "c")),
        ({"dataset": ["coco", "folder"], "data_dir": ["c", "my, own/"], "captions_file": "c.csv"}, ("coco", "my-own")),
        ({"dataset": ["coco", "folder"], "data_dir": ["c", "my/images"], "captions_file": "my.csv"}, ("coco", "my")),
        ({"dataset": ["coco", "folder"], "data_dir": ["c", "together"], "captions_file": "c.csv"}, ("coco", "c")),
    ],
)
def test_names_are_unique_and_fit_into_files(values, names):
    assert settings(**values).data_names() == names


def test_json_holds_one_value_as_before_and_several_as_a_list():
    one = json.loads(settings(dataset="coco", data_dir="d").to_json())
    assert (one["dataset"], one["data_dir"], one["captions_file"], one["coco_year"]) == ("coco", "d", None, "2017")
    for values in ({}, BOTH, FOLDERS):
        found = settings(**values)
        assert read_settings(found.to_json(), "config.json") == found
    assert settings(dataset=["coco"], data_dir=["d"]) == settings(dataset="coco", data_dir="d")
    with pytest.raises(UserError, match="data_weight: "):
        read_settings('{"dataset": ["coco", "flickr8k"], "data_weight": ["1", "2"]}', "config.json")


def test_settings_of_an_earlier_release_have_one_data_set():
    old = '{"dataset": "flickr8k", "data_dir": "data/flickr8k", "captions_file": null, "coco_year": "2017"}'
    [data_set] = read_settings(old, "config.json").data_sets()
    assert (data_set.dataset, data_set.data_dir, data_set.data_weight) == ("flickr8k", "data/flickr8k", 1)


def test_the_command_line_takes_values_for_each():
    arguments = ["--dataset", "coco", "flickr30k", "--captions-file", "none", "--data-weight", "2", "0.5"]
    found = typed_settings(typed(*arguments))
    assert found == {"dataset": ["coco", "flickr30k"], "captions_file": None, "data_weight": ["2", "0.5"]}
    assert [each.data_weight for each in resolve(typed(*arguments)).data_sets()] == [2, 0.5]
    alone = make_parser("", trained=True, several=False)
    alone.add_argument("queries", nargs="*")
    found = alone.parse_args(["--data-dir", "d", "two dogs"])
    assert (typed_settings(found), found.queries) == ({"data_dir": "d"}, ["two dogs"])


# A model of several data sets, used or trained further


def test_data_sets_of_a_model_are_chosen_by_name():
    trained = settings(**FOLDERS)
    chosen = resolve_trained(typed("--dataset", "drawings", "coco", trained=True), trained)
    assert list(chosen.data_sets()) == [trained.data_sets()[2], trained.data_sets()[0]]
    alone = resolve_trained(typed("--dataset", "photos", "--data-dir", "elsewhere", trained=True), trained)
    assert (alone.dataset, alone.data_dir, alone.captions_file) == ("folder", "elsewhere", "p.csv")
    assert resolve_trained(typed(trained=True), trained) == trained


def test_other_data_sets_bring_their_own_places():
    other = resolve_trained(typed("--dataset", "flickr8k", trained=True), settings(**FOLDERS))
    assert [(each.data_dir, each.captions_file, each.data_weight) for each in other.data_sets()] == [
        ("data/flickr8k", None, 1)
    ]
    several = resolve_trained(typed("--dataset", "coco", "flickr8k", trained=True), settings(data_dir="d"))
    assert [each.data_dir for each in several.data_sets()] == ["data/coco", "data/flickr8k"]
    # One for one keeps what is not typed, as before.
    one = resolve_trained(typed("--dataset", "coco", trained=True), settings(data_dir="d"))
    assert one.data_dir == "d"


def test_an_unknown_data_set_is_named():
    with pytest.raises(
        UserError, match=r"dataset: there is no 'fotos'; name some of coco, photos, drawings, .*flickr8k"
    ):
        resolve_trained(typed("--dataset", "fotos", trained=True), settings(**FOLDERS))


def test_a_next_stage_takes_over_the_data_sets_or_some_of_them(tmp_path):
    (tmp_path / "config.json").write_text(settings(**FOLDERS).to_json())
    stage = ["--stage", "scst", "--init", str(tmp_path)]
    assert resolve(typed(*stage)).data_sets() == settings(**FOLDERS).data_sets()
    assert resolve(typed(*stage, "--dataset", "drawings", "--data-weight", "0.25")).data_sets()[0].data_weight == 0.25


def test_a_preset_of_several_data_sets_may_be_used_with_one():
    assert [each.dataset for each in resolve(typed("--preset", "pocket")).data_sets()] == ["coco", "flickr8k"]
    one = resolve(typed("--preset", "pocket", "--dataset", "flickr8k"))
    assert (one.dataset, [each.data_dir for each in one.data_sets()]) == ("flickr8k", ["data/flickr8k"])


def test_a_resumed_run_finds_its_data_elsewhere():
    resumed = resolve_resumed(typed("--data-dir", "a", "b", "c"), settings(**FOLDERS))
    assert [each.data_dir for each in resumed.data_sets()] == ["a", "b", "c"]
    with pytest.raises(UserError, match="--resume: data_weight cannot change now"):
        resolve_resumed(typed("--data-weight", "1", "1", "1"), settings(**FOLDERS))
