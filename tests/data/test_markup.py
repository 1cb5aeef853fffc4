"""What other programs leave in captions is taken out and told. What only looks like it stays."""

import pytest
from layouts import flickr8k_files, warning, write_files

from captioning.data import datasets
from captioning.data.markup import clean
from config import Config


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("<start> a dog runs . <end>", "a dog runs ."),
        ("<s>a dog</s>", "a dog"),
        ("<|startoftext|> a dog <|endoftext|>", "a dog"),
        ("[CLS] a dog [SEP] [PAD] [PAD]", "a dog"),
        ("startseq a dog endseq", "a dog"),
        ("<SOS> a dog <EOS>", "a dog"),
        ("cats &amp; dogs", "cats & dogs"),
        ("the man&#39;s dog", "the man's dog"),
        ("a &amp;quot;stop&amp;quot; sign", 'a "stop" sign'),
        ("a dog<br>on grass<br />it is <b>wet</b>", "a dog on grass it is wet"),
        ('<p class="x">a dog</p>', "a dog"),
        ("a dog\\nA cat", "a dog A cat"),
    ],
)
def test_markup_is_taken_out(caption, cleaned):
    assert clean(caption) == cleaned


@pytest.mark.parametrize(
    "caption",
    [
        *("a dog .", "  a dog ", "cats & dogs", "R&D sign", "5 < 6", "a [blurry] dog", "a sequence of dogs"),
        *("a sign <text>", "AT&T; yes", "it says C:\\new", "man's"),
    ],
)
def test_other_captions_stay_the_same_object(caption):
    assert clean(caption) is caption


def test_a_data_set_is_cleaned_and_says_so(tmp_path):
    files = flickr8k_files()
    files["Flickr8k.token.txt"] = files["Flickr8k.token.txt"].replace("caption 0 of a .", "<start> a &amp; b <end>")
    write_files(tmp_path, files | {"x": ""})
    dataset = datasets.load(Config(data_dir=str(tmp_path)))
    assert dataset.records[0].captions == ("a & b", "caption 1 of a .")
    assert warning(dataset, "captions with markup").endswith("1, e.g. a.jpg: <start> a &amp; b <end>")
