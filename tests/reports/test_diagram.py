"""The diagram tells the sizes of its configuration, and the README's is what its command writes."""

from typing import get_args
from xml.etree import ElementTree

import pytest
from helpers import ROOT

from captioning.command_line.resolving import preset
from captioning.reports.diagram import architecture
from config import Config


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("decoder", get_args(Config.model_fields["decoder"].annotation))
def test_every_decoder_is_drawn_with_its_sizes(decoder):
    config = Config(decoder=decoder, feature_grid=0, embedding_size=111, hidden_size=232, image_size=160)
    found = texts(architecture(config, 25, 1280, 4321))
    assert {f"Decoder: {decoder}", "160 x 160 x 3", "resnet50", "5 x 5 regions", "of 1,280", "4,321 words"} <= set(
        found
    )
    assert any("111" in text for text in found)
    assert any("232" in text for text in found)


def test_the_words_vectors_are_told_apart():
    sizes = {"decoder": "attention", "feature_grid": 0, "embedding_size": 111}
    assert {"embedding: 111", "tied to embedding"} <= set(texts(architecture(Config(**sizes), 25, 8)))
    bert = Config(embedding="bert-prefix", **sizes)
    assert {"BERT so far: 111", "a table of its own"} <= set(texts(architecture(bert, 25, 8)))
    assert "a table of its own" in texts(architecture(Config(untied_output=True, **sizes), 25, 8))


def test_a_decoder_without_a_drawing_of_its_own_is_drawn_all_the_same():
    config = Config(feature_grid=0, hidden_size=232).model_copy(update={"decoder": "novel", "embedding": "new"})
    found = set(texts(architecture(config, 25, 8)))
    assert {"Decoder: novel", "25 regions", "new: 300", "hidden units: 232"} <= found


def test_names_of_files_are_escaped():
    svg = architecture(Config(encoder="models/<b>&.keras"), 1, 8)
    assert "<b>&" in texts(svg)


def test_the_picture_of_the_readme_is_up_to_date():
    """If not: python -m captioning.reports.diagram docs/architecture.svg --preset flickr8k-attention"""
    expected = architecture(preset("flickr8k-attention"), 49, 2048)
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == expected
