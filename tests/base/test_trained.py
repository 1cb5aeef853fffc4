"""Settings and words of a trained model, read from whatever somebody names."""

import zipfile

import pytest

from captioning.base.errors import UserError
from captioning.base.trained import read_trained


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "captioner.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", '{"seed": 1}')
    return path


def test_a_run_folder_a_bundle_and_a_folder_with_a_bundle(bundle):
    assert read_trained(bundle, "config.json") == ('{"seed": 1}', f"{bundle}:config.json")
    assert read_trained(bundle.parent, "config.json")[0] == '{"seed": 1}'
    (bundle.parent / "config.json").write_text('{"seed": 2}')
    assert read_trained(bundle.parent, "config.json") == ('{"seed": 2}', str(bundle.parent / "config.json"))


def test_what_is_neither_is_refused(bundle, tmp_path):
    def refused(path, message):
        with pytest.raises(UserError, match=message):
            read_trained(path, "config.json")

    refused(tmp_path / "nowhere.zip", "there is no such file or folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "not a run folder")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    refused(tmp_path / "photo.jpg", "neither a run folder nor a bundle")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(bundle.read_bytes()[:60])
    refused(cut, "neither a run folder nor a bundle")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("data.csv", "")
    refused(tmp_path / "other.zip", "not a bundle of a captioner")
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", " " * 2**21)
    refused(bundle, "would unpack to 2,097,152 bytes")
