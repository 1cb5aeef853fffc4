"""Keywords in XMP: ours come and go with the captions, and everybody else's stay."""

import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from captioning.pictures.metadata import RDF, UnwritableMetadata, with_description, write_caption

DC = "http://purl.org/dc/elements/1.1/"


def packet_with(inside: str) -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="{RDF}" xmlns:dc="{DC}">'
        f'<r:Description r:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4">{inside}</r:Description>'
        "</r:RDF></x:xmpmeta>"
    ).encode()


def subject(*words: str, container: str = "Bag") -> str:
    items = "".join(f"<r:li>{word}</r:li>" for word in words)
    return f"<dc:subject><r:{container}>{items}</r:{container}></dc:subject>"


def keywords(packet: bytes) -> list[str]:
    """The items of dc:subject, by another XML parser than ours."""
    found = ElementTree.fromstring(packet).findall(f".//{{{RDF}}}Description/{{{DC}}}subject")
    assert len(found) <= 1
    return [item.text for item in found[0].findall(f"{{{RDF}}}Bag/{{{RDF}}}li")] if found else []


def picture(path: Path, **options) -> Path:
    Image.new("RGB", (8, 8)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("inside", "there"),
    [
        ("", []),
        (subject("holiday", "Anna &amp; Ben"), ["holiday", "Anna & Ben"]),
        (subject("holiday", container="Seq"), ["holiday"]),
        (subject("holiday") + subject("sea"), ["holiday", "sea"]),
        ("<dc:subject>holiday</dc:subject>", ["holiday"]),
        ("<dc:subject/>", []),
    ],
    ids=["none", "bag", "sequence", "twice", "plain", "empty"],
)
def test_keywords_of_others_stay_and_ours_follow_the_caption(inside, there):
    packet = packet_with(inside)
    first = with_description(packet, "a dog", ["dog", "beach"])
    assert keywords(first) == [*there, "dog", "beach"]
    assert b'xmp:Rating="4"' in first
    assert with_description(first, "a dog", ["dog", "beach"]) is first, "nothing to do"
    second = with_description(first, "a cat", ["cat", "beach"])
    assert keywords(second) == [*there, "beach", "cat"]
    assert keywords(with_description(second, "nothing", [])) == there
    assert with_description(packet, None, []) is packet


def test_without_the_option_keywords_are_not_touched():
    first = with_description(packet_with(subject("holiday")), "a dog", ["dog"])
    assert keywords(with_description(first, "a cat")) == ["holiday", "dog"]


def test_a_keyword_that_somebody_gave_is_not_ours_to_take_away():
    first = with_description(packet_with(subject("Dog")), "a dog", ["dog", "beach"])
    assert keywords(first) == ["Dog", "beach"]
    assert keywords(with_description(first, "a cat", ["cat"])) == ["Dog", "cat"]


def test_a_keyword_of_ours_that_somebody_has_removed_does_not_come_back():
    first = with_description(packet_with(""), "a dog", ["dog", "beach"])
    at = first.index(b"dc:subject")
    edited = first[:at] + first[at:].replace(b"<rdf:li>beach</rdf:li>", b"", 1)
    for caption, words in (("a dog", ["dog", "beach"]), ("a cat", ["cat", "beach"]), ("a dog", ["beach", "dog"])):
        edited = with_description(edited, caption, words)
        assert "beach" not in keywords(edited)


def test_keywords_in_a_form_of_their_own_are_refused_and_not_lost(tmp_path):
    nested = (
        "<dc:subject><r:Bag><r:li><r:Description><r:value>sea</r:value></r:Description></r:li></r:Bag></dc:subject>"
    )
    with pytest.raises(ValueError, match="keywords have a form"):
        with_description(packet_with(nested), "a dog", ["dog"])
    attribute = packet_with("").replace(b"xmp:Rating", b'dc:subject="sea" xmp:Rating')
    with pytest.raises(ValueError, match="keywords have a form"):
        with_description(attribute, "a dog", ["dog"])
    image = picture(tmp_path / "a.jpg", xmp=packet_with(nested))
    before = image.read_bytes()
    with pytest.raises(UnwritableMetadata, match=r"a\.jpg: its XMP cannot be changed: its keywords"):
        write_caption(image, "a dog", embed=True, keywords=["dog"])
    assert image.read_bytes() == before
    assert write_caption(image, "a dog", embed=True) == "embedded", "the caption alone is no trouble"


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_keywords_go_into_pictures(tmp_path, name):
    image = picture(tmp_path / name)
    assert write_caption(image, "a dog", embed=True, keywords=["dog"]) == "embedded"
    before = image.read_bytes()
    assert write_caption(image, "a dog", embed=True, keywords=["dog"]) == "embedded"
    assert image.read_bytes() == before
    with Image.open(image) as opened:
        assert keywords(opened.info["xmp"]) == ["dog"]


def test_a_picture_that_keeps_its_description_gets_keywords_too(tmp_path):
    own = '<dc:description><r:Alt><r:li xml:lang="x-default">by hand</r:li></r:Alt></dc:description>'
    image = picture(tmp_path / "a.jpg", xmp=packet_with(own + subject("holiday")))
    assert write_caption(image, "a dog", embed=True, keywords=["dog"]) == "kept"
    with Image.open(image) as opened:
        assert keywords(opened.info["xmp"]) == ["holiday", "dog"]
        assert b"by hand" in opened.info["xmp"]
        assert b"a dog" not in opened.info["xmp"]


def _iptc(*words: bytes) -> bytes:
    data = b"".join(b"\x1c\x02\x19" + struct.pack(">H", len(word)) + word for word in words)
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)
    return struct.pack(">BBH", 0xFF, 0xED, len(resource) + 2) + resource


def test_keywords_elsewhere_that_xml_cannot_hold_cost_no_caption(tmp_path):
    image = picture(tmp_path / "a.jpg")
    data = image.read_bytes()
    image.write_bytes(data[:2] + _iptc(b"Hafen\0\0", b"am\r\nMeer\x1b") + data[2:])
    assert write_caption(image, "a dog", keywords=["dog"]) == "sidecar"
    assert keywords((tmp_path / "a.jpg.xmp").read_bytes()) == ["Hafen", "am Meer", "dog"]


@pytest.mark.parametrize("words", [["Hafen"], ["Hafen", "Öl"]])
def test_keywords_that_a_picture_has_elsewhere_are_copied_once(tmp_path, words):
    """A program that reads the new place only would lose them."""
    image = picture(tmp_path / "a.jpg", xmp=packet_with(subject("holiday")))
    data = image.read_bytes()
    image.write_bytes(data[:2] + _iptc(*(word.encode() for word in words)) + data[2:])
    sidecar = tmp_path / "a.jpg.xmp"
    assert write_caption(image, "a photo", keywords=[]) == "sidecar"
    assert keywords(sidecar.read_bytes()) == []
    assert write_caption(image, "a dog", keywords=["dog"]) == "sidecar"
    assert keywords(sidecar.read_bytes()) == ["holiday", *words, "dog"]
    sidecar.write_bytes(sidecar.read_bytes().replace(b"<rdf:li>holiday</rdf:li>", b"", 1))
    assert write_caption(image, "a cat", keywords=["cat"]) == "sidecar"
    assert keywords(sidecar.read_bytes()) == [*words, "cat"], "somebody has removed it there"
