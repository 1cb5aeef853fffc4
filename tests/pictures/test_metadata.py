"""Captions in metadata: what is written can be read by others, what others have written stays, and no pixel changes."""

import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from captioning.base.errors import UserError
from captioning.pictures import metadata
from captioning.pictures.metadata import UnwritableMetadata, with_description, write_caption

LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
OLD_TIME = 1_000_000_000

# As darktable writes it, in short: the develop history must survive.
DARKTABLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <!-- by hand --><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:1"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/"
   xmp:Rating="4" darktable:note="two&#xA;lines">
   <darktable:history><rdf:Seq><rdf:li darktable:operation="exposure" darktable:params="00&gt;12"/></rdf:Seq></darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


def packet_with(inside: str, attributes: str = "") -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="{metadata.RDF}" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<r:Description r:about="" {attributes}>{inside}</r:Description></r:RDF></x:xmpmeta>'
    ).encode()


def alt(**texts: str) -> str:
    items = "".join(f'<r:li xml:lang="{code.replace("_", "-")}">{text}</r:li>' for code, text in texts.items())
    return f"<dc:description><r:Alt>{items}</r:Alt></dc:description>"


def descriptions(packet: bytes) -> dict[str, str]:
    """Language and text of dc:description, by another XML parser than ours."""
    items = ElementTree.fromstring(packet).findall(
        f".//{{{metadata.RDF}}}RDF/{{{metadata.RDF}}}Description/{{http://purl.org/dc/elements/1.1/}}description/*/*"
    )
    return {item.get(LANGUAGE): item.text for item in items}


def pixels(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 40, 3), dtype=np.uint8))


def exif() -> bytes:
    found = Image.Exif()
    found[0x0112] = 6  # to be shown turned
    found[0x010E] = "OLYMPUS DIGITAL CAMERA"
    return found.tobytes()


def rich_jpeg(path: Path, **options) -> Path:
    """With JFIF, Exif, a colour profile, a comment and bytes behind the picture, as phones leave them."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels().save(path, exif=exif(), icc_profile=profile, comment=b"a comment", **options)
    path.write_bytes(path.read_bytes() + b"behind the picture" * 100)
    return path


def plain(path: Path, **options) -> Path:
    pixels().save(path, **options)
    return path


def segments(data: bytes) -> list[bytes]:
    """The segments of a JPEG file before its compressed pixels, then all that follows."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append(data[at:end])
        at = end
    return [*found, data[at:]]


def chunks(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at:end])
        at = end
    return found


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def sidecar_of(picture: Path) -> Path:
    return picture.with_name(picture.name + ".xmp")


# Packets --------------------------------------------------------------------------------------------------------------


def test_a_new_packet_holds_the_caption_and_nothing_breaks_it():
    caption = 'a "dog" & a cat\'s <b>öl</b> ]]> 犬'
    assert descriptions(with_description(b"", caption)) == {"x-default": caption}


def test_all_else_in_a_packet_stays_as_it_was_written():
    new = with_description(DARKTABLE, "a dog runs")
    assert descriptions(new) == {"x-default": "a dog runs"}
    at = DARKTABLE.index(b"</rdf:RDF>")
    assert new.startswith(DARKTABLE[:at])
    assert new.endswith(DARKTABLE[at:])
    assert b'rdf:about="uuid:1"' in new[at:]  # all parts of a packet must be about the same


def test_a_packet_does_not_grow_with_each_caption():
    first = with_description(DARKTABLE, "a dog runs")
    assert with_description(with_description(first, "a cat"), "a dog runs") == first


@pytest.mark.parametrize(
    "inside",
    [
        alt(de="ein Hund", x_default="by hand"),
        "<dc:description>by hand</dc:description>",
        "<dc:description/>",
        alt(x_default="by hand") * 2,
        "",
    ],
    ids=["alternatives", "plain", "empty", "twice", "none"],
)
def test_a_description_is_replaced_where_it_stands_and_other_languages_stay(inside):
    new = with_description(packet_with(f"{inside}<dc:format>a</dc:format>"), "a dog")
    assert descriptions(new) == {"x-default": "a dog"} | ({"de": "ein Hund"} if "Hund" in inside else {})
    assert b"<dc:format>a</dc:format>" in new
    assert b"by hand" not in new
    assert not re.search(rb"<dc:description.*<dc:description", new)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (DARKTABLE[:-20], "damaged"),
        (DARKTABLE.decode().encode("utf-16"), "damaged"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + packet_with(""), "document type"),
        (b"<x/>", "no rdf:RDF"),
        (packet_with("", 'dc:description="by hand"'), "cannot be replaced"),
    ],
    ids=["cut", "utf-16", "doctype", "other xml", "attribute"],
)
def test_packets_that_cannot_be_changed_are_refused(packet, reason):
    with pytest.raises(ValueError, match=reason):
        with_description(packet, "a dog")


@pytest.mark.parametrize(
    "empty", ["<dc:description/>", "<dc:description></dc:description>", '<dc:description a="/"></dc:description>']
)
def test_an_empty_description_before_the_end_is_replaced(empty):
    new = with_description(packet_with(empty), "a dog")
    assert descriptions(new) == {"x-default": "a dog"}


def test_captions_that_xml_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="damaged"):
        with_description(DARKTABLE, "a \x01 dog")


# Whose description it is ----------------------------------------------------------------------------------------------


def test_our_caption_follows_another_model_but_not_a_person_who_edited_it(tmp_path):
    picture = plain(tmp_path / "a.jpg")
    assert write_caption(picture, "a dog") == "sidecar"
    assert write_caption(picture, "a cat") == "sidecar"
    sidecar = sidecar_of(picture)
    assert descriptions(sidecar.read_bytes()) == {"x-default": "a cat"}
    edited = sidecar.read_bytes().replace(b"a cat</rdf:li></rdf:Alt></dc:", b"my cat</rdf:li></rdf:Alt></dc:")
    sidecar.write_bytes(edited)
    for embed in (False, True):
        assert write_caption(picture, "a bird", embed) == "kept"
    assert sidecar.read_bytes() == edited
    assert write_caption(picture, "a bird", overwrite=True) == "sidecar"
    assert descriptions(sidecar.read_bytes()) == {"x-default": "a bird"}


def _iptc(path: Path, text: bytes = b"by hand") -> Path:
    caption = b"\x1c\x02\x78" + struct.pack(">H", len(text)) + text
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(caption)) + caption
    data = plain(path).read_bytes()
    path.write_bytes(data[:2] + segment(0xED, resource) + data[2:])
    return path


def _png_text(path: Path) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", "by hand")
    return plain(path, pnginfo=info)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.jpg", lambda path: plain(path, xmp=packet_with(alt(x_default="by hand")))),
        ("a.jpg", lambda path: plain(path, xmp=packet_with(alt(de="von Hand")))),
        ("a.jpg", lambda path: plain(path, xmp=packet_with("<dc:description>by hand</dc:description>"))),
        ("a.jpg", lambda path: plain(path, xmp=packet_with("", 'dc:description="by hand"'))),
        ("a.jpg", _iptc),
        ("a.png", _png_text),
        ("a.webp", lambda path: plain(path, xmp=packet_with(alt(x_default="by hand")))),
        ("a.tif", lambda path: plain(path, tiffinfo={700: packet_with(alt(x_default="by hand"))})),
    ],
    ids=["jpeg", "other language", "plain", "attribute", "iptc", "png text", "webp", "tiff"],
)
def test_descriptions_inside_a_picture_are_kept(tmp_path, name, make):
    picture = make(tmp_path / name)
    before = picture.read_bytes()
    for embed in (False, True):
        assert write_caption(picture, "a dog", embed) == "kept"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert picture.read_bytes() == before


CAMERAS = [
    *(
        "OLYMPUS DIGITAL CAMERA",
        "OLYMPUS DIGITAL CAMERA         ",
        "SONY DSC",
        "DIGITAL CAMERA",
        "KODAK Digital Still Camera",
    ),
    *("KONICA MINOLTA DIGITAL CAMERA", "SAMSUNG CAMERA PICTURES", "<KENOX S1050 / Samsung S1050>", "Exif_JPEG_PICTURE"),
    *("oznorWO", "rhdr", "default", "\0\0"),
]


@pytest.mark.parametrize("text", CAMERAS)
def test_what_a_camera_writes_is_no_description(tmp_path, text):
    if "\0" not in text:
        inside = packet_with(alt(x_default=text.replace("<", "&lt;")))
        picture = plain(tmp_path / "a.jpg", xmp=inside)
        assert write_caption(picture, "a dog", embed=True) == "embedded"
        with Image.open(picture) as image:
            assert descriptions(image.info["xmp"]) == {"x-default": "a dog"}
    assert write_caption(_iptc(tmp_path / "b.jpg", text.encode()), "a dog") == "sidecar"
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", text)
    assert write_caption(plain(tmp_path / "c.png", pnginfo=info), "a dog") == "sidecar"


@pytest.mark.parametrize(
    "text", ["a digital camera", "my Olympus digital camera", "Samsung, our cat", "nor here", "hdr beach"]
)
def test_what_a_person_writes_of_cameras_is_kept(tmp_path, text):
    assert write_caption(plain(tmp_path / "a.jpg", xmp=packet_with(alt(x_default=text))), "a dog") == "kept"
    assert write_caption(_iptc(tmp_path / "b.jpg", text.encode()), "a dog") == "kept"


LIGHTROOM = packet_with(
    "<dc:format>image/x-nikon-nef</dc:format>", 'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"'
)


@pytest.mark.parametrize("suffix", [".xmp", ".XMP"])
def test_a_description_in_the_sidecar_of_another_program_is_kept(tmp_path, suffix):
    picture = plain(tmp_path / "photo.jpg")
    other = tmp_path / f"photo{suffix}"
    other.write_bytes(packet_with(alt(x_default="by hand")))
    for embed in (False, True):
        assert write_caption(picture, "a dog", embed) == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["photo.jpg", f"photo{suffix}"])
    assert write_caption(picture, "a dog", overwrite=True) == "sidecar"
    assert descriptions(other.read_bytes()) == {"x-default": "a dog"}


def test_the_sidecar_of_another_program_is_extended_and_not_hidden(tmp_path):
    picture = plain(tmp_path / "photo.jpg")
    (tmp_path / "photo.NEF").write_bytes(b"raw")
    (tmp_path / "photo.xmp").write_bytes(LIGHTROOM)
    for caption in ("a dog", "a cat"):
        assert write_caption(picture, caption) == "sidecar"
        written = (tmp_path / "photo.xmp").read_bytes()
        assert descriptions(written) == {"x-default": caption}
        assert b'xmp:Rating="5"' in written
    assert not sidecar_of(picture).exists()


def test_a_sidecar_that_may_be_of_another_picture_is_left_alone(tmp_path):
    picture = plain(tmp_path / "photo.jpg")
    plain(tmp_path / "photo.png")
    (tmp_path / "photo.xmp").write_bytes(LIGHTROOM)
    assert write_caption(picture, "a dog") == "sidecar"
    assert (tmp_path / "photo.xmp").read_bytes() == LIGHTROOM
    assert descriptions(sidecar_of(picture).read_bytes()) == {"x-default": "a dog"}


def test_where_both_sidecars_are_there_ours_is_written_and_the_other_is_read(tmp_path):
    picture = plain(tmp_path / "photo.jpg")
    assert write_caption(picture, "a dog") == "sidecar"
    (tmp_path / "photo.xmp").write_bytes(LIGHTROOM)
    assert write_caption(picture, "a cat") == "sidecar"
    assert descriptions(sidecar_of(picture).read_bytes()) == {"x-default": "a cat"}
    (tmp_path / "photo.xmp").write_bytes(packet_with(alt(x_default="by hand")))
    assert write_caption(picture, "a bird") == "kept"
    (tmp_path / "photo.xmp").write_bytes(b"<damaged")
    with pytest.raises(UnwritableMetadata, match=r"photo\.xmp: cannot be added to: it is damaged"):
        write_caption(picture, "a bird")


def test_what_cameras_and_editors_leave_empty_is_no_description(tmp_path):
    picture = rich_jpeg(tmp_path / "a.jpg", xmp=packet_with(alt(x_default=" ")))
    assert write_caption(picture, "a dog", embed=True) == "embedded"


# Beside the picture ---------------------------------------------------------------------------------------------------


def test_a_sidecar_is_merged_with_what_another_program_wrote(tmp_path):
    picture = plain(tmp_path / "a.jpg")
    sidecar_of(picture).write_bytes(DARKTABLE)
    sidecar_of(picture).chmod(0o640)
    os.utime(sidecar_of(picture), (OLD_TIME, OLD_TIME))
    before = picture.read_bytes()
    assert write_caption(picture, "a dog") == "sidecar"
    assert sidecar_of(picture).read_bytes() == with_description(DARKTABLE, "a dog")
    assert sidecar_of(picture).stat().st_mode & 0o777 == 0o640
    assert sidecar_of(picture).stat().st_mtime > OLD_TIME  # so that the other program reads it again
    assert picture.read_bytes() == before


def test_a_damaged_sidecar_is_named_and_left_alone(tmp_path):
    picture = plain(tmp_path / "a.jpg")
    sidecar_of(picture).write_bytes(DARKTABLE[:-20])
    with pytest.raises(UnwritableMetadata, match=r"a\.jpg\.xmp: .*damaged"):
        write_caption(picture, "a dog", overwrite=True)
    assert sidecar_of(picture).read_bytes() == DARKTABLE[:-20]


@pytest.mark.parametrize("embed", [True, False])
def test_what_is_write_protected_stays_as_it_is(tmp_path, embed):
    picture = plain(tmp_path / "a.jpg")
    written = picture if embed else sidecar_of(picture)
    outcome = write_caption(picture, "a dog", embed=embed)
    before = written.read_bytes()
    written.chmod(0o444)
    assert write_caption(picture, "a dog", embed=embed) == outcome  # where it stands already
    with pytest.raises(UnwritableMetadata, match=rf"{written.name} is write-protected"):
        write_caption(picture, "a cat", embed=embed)
    assert written.read_bytes() == before
    assert sidecar_of(picture).exists() != embed  # no second description beside the first


# Inside the picture ---------------------------------------------------------------------------------------------------


def test_in_a_jpeg_only_the_packet_is_new(tmp_path):
    picture = rich_jpeg(tmp_path / "a.jpg")
    picture.chmod(0o640)
    os.utime(picture, (OLD_TIME, OLD_TIME))
    before = segments(picture.read_bytes())
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    after = segments(picture.read_bytes())
    (new,) = [i for i, part in enumerate(after) if part not in before]
    assert after[:new] + after[new + 1 :] == before
    assert [part[1] for part in after[:new]] == [0xE0, 0xE1]  # JFIF and Exif first
    assert picture.stat().st_mode & 0o777 == 0o640
    assert picture.stat().st_mtime == OLD_TIME
    with Image.open(picture) as image:
        assert descriptions(image.info["xmp"]) == {"x-default": "a dog"}
        assert image.getexif()[0x0112] == 6
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(rich_jpeg(tmp_path / "b.jpg"))))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]  # and nothing beside it


def test_in_a_jpeg_the_packet_that_is_there_is_merged(tmp_path):
    picture = rich_jpeg(tmp_path / "a.jpg", xmp=DARKTABLE)
    before = segments(picture.read_bytes())
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    after = segments(picture.read_bytes())
    changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert len(changed) == 1
    assert with_description(DARKTABLE, "a dog") in after[changed[0]]
    assert write_caption(picture, "a cat", embed=True) == "embedded"
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    assert segments(picture.read_bytes()) == after


def test_where_the_caption_stands_already_nothing_is_written(tmp_path):
    picture = rich_jpeg(tmp_path / "a.jpg")
    write_caption(picture, "a dog", embed=True)
    write_caption(picture, "a dog")
    before = [(path, path.stat().st_ino) for path in tmp_path.iterdir()]
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    assert write_caption(picture, "a dog") == "sidecar"
    assert [(path, path.stat().st_ino) for path in tmp_path.iterdir()] == before


def two_pictures(path: Path) -> Path:
    """A file of two JPEGs, as phones make them: an index in the first says where, counted from itself, the second begins."""
    pixels(0).save(path, format="MPO", save_all=True, append_images=[pixels(1)])
    return path


def test_further_pictures_in_a_jpeg_are_still_found(tmp_path):
    picture = two_pictures(tmp_path / "a.jpg")
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    two_pictures(tmp_path / "b.jpg")
    with Image.open(picture) as image, Image.open(tmp_path / "b.jpg") as other:
        assert descriptions(image.info["xmp"]) == {"x-default": "a dog"}
        for frame in range(2):
            image.seek(frame)
            other.seek(frame)
            np.testing.assert_array_equal(np.asarray(image), np.asarray(other))


def _packet_behind_index(data: bytes) -> bytes:
    *parts, rest = segments(data)
    return data[:2] + b"".join([*parts, segment(0xE1, metadata._JPEG_XMP + DARKTABLE), rest])


@pytest.mark.parametrize(
    "change",
    [
        _packet_behind_index,
        lambda data: data[:2] + segment(0xEB, b"JP\0\0 jumb jumd c2pa") + data[2:],
        lambda data: data[:2] + segment(0xE1, metadata._JPEG_XMP + packet_with(" " * 65_000)) + data[2:],
        lambda data: data[:20] + b"\xff\0" + data[20:],
    ],
    ids=["counted bytes", "signed", "full", "unusual"],
)
def test_jpegs_that_must_not_grow_get_the_caption_beside_them(tmp_path, change):
    picture = two_pictures(tmp_path / "a.jpg")
    picture.write_bytes(change(picture.read_bytes()))
    before = picture.read_bytes()
    assert write_caption(picture, "a dog", embed=True) == "sidecar"
    assert picture.read_bytes() == before
    assert descriptions(sidecar_of(picture).read_bytes()) == {"x-default": "a dog"}


def test_fill_bytes_before_a_jpeg_marker(tmp_path):
    picture = plain(tmp_path / "a.jpg")
    data = picture.read_bytes()
    data = data[:2] + b"\xff\xff" + segment(0xE1, metadata._JPEG_XMP + DARKTABLE) + b"\xff\xff\xff" + data[2:]
    picture.write_bytes(data)
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    new = segment(0xE1, metadata._JPEG_XMP + with_description(DARKTABLE, "a dog"))
    assert picture.read_bytes() == data[:2] + new + data[2 + 2 + len(segment(0xE1, metadata._JPEG_XMP + DARKTABLE)) :]


@pytest.mark.parametrize("where", ["none", "plain", "compressed", "behind the pixels"])
def test_in_a_png_only_the_packet_is_new(tmp_path, where):
    picture = plain(tmp_path / "a.png", exif=exif(), dpi=(72, 72))
    before = chunks(picture.read_bytes())
    old = DARKTABLE if where != "none" else b""
    body = zlib.compress(old) if where == "compressed" else old
    chunk = png_chunk(b"iTXt", metadata._PNG_XMP + bytes([where == "compressed", 0, 0, 0]) + body)
    place = -1 if where == "behind the pixels" else 1
    parts = [*before[:place], *([chunk] if old else []), *before[place:]]
    picture.write_bytes(picture.read_bytes()[:8] + b"".join(parts))
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    after = chunks(picture.read_bytes())
    new = png_chunk(b"iTXt", metadata._PNG_XMP + bytes(4) + with_description(old, "a dog"))
    assert after == [*before[:place], new, *before[place:]]
    with Image.open(picture) as image:
        image.verify()  # all checksums
    with Image.open(picture) as image:
        image.load()
        assert descriptions(image.info["xmp"]) == {"x-default": "a dog"}
        assert image.getexif()[0x0112] == 6


def test_a_signed_png_gets_the_caption_beside_it(tmp_path):
    picture = plain(tmp_path / "a.png")
    parts = chunks(picture.read_bytes())
    picture.write_bytes(picture.read_bytes()[:8] + b"".join([parts[0], png_chunk(b"caBX", b"jumb"), *parts[1:]]))
    assert write_caption(picture, "a dog", embed=True) == "sidecar"


@pytest.mark.parametrize("suffix", ["webp", "gif", "tif", "bmp"])
def test_other_formats_get_the_caption_beside_them(tmp_path, suffix):
    picture = plain(tmp_path / f"a.{suffix}")
    before = picture.read_bytes()
    assert write_caption(picture, "a dog", embed=True) == "sidecar"
    assert picture.read_bytes() == before


def test_the_content_counts_and_not_the_suffix(tmp_path):
    picture = plain(tmp_path / "a.jpg", format="PNG")
    assert write_caption(picture, "a dog", embed=True) == "embedded"
    with Image.open(picture) as image:
        assert descriptions(image.info["xmp"]) == {"x-default": "a dog"}


def test_damaged_xmp_inside_a_picture_is_left_alone(tmp_path):
    picture = plain(tmp_path / "a.jpg", xmp=DARKTABLE[:-20])
    before = picture.read_bytes()
    with pytest.raises(UnwritableMetadata, match=r"a\.jpg: .*damaged"):
        write_caption(picture, "a dog", embed=True, overwrite=True)
    assert picture.read_bytes() == before


# When writing fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "kind"), [(28, UserError), (13, UnwritableMetadata)], ids=["disk full", "refused"])
def test_a_picture_that_could_not_be_replaced_is_whole(tmp_path, monkeypatch, code, kind):
    picture = rich_jpeg(tmp_path / "a.jpg")
    before = picture.read_bytes()

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=os.strerror(code)) as raised:
        write_caption(picture, "a dog", embed=True)
    assert raised.type is kind  # what will fail for every other picture too ends the run
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
    assert picture.read_bytes() == before


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "links").mkdir()
    target = rich_jpeg(tmp_path / "a.jpg")
    link = tmp_path / "links" / "b.jpg"
    link.symlink_to(target)
    assert write_caption(link, "a dog", embed=True) == "embedded"
    assert link.is_symlink()
    with Image.open(target) as image:
        assert descriptions(image.info["xmp"]) == {"x-default": "a dog"}


def test_a_picture_that_is_gone_is_named(tmp_path):
    with pytest.raises(UnwritableMetadata, match=r"gone\.jpg: .*No such file"):
        write_caption(tmp_path / "gone.jpg", "a dog")


# Hostile files --------------------------------------------------------------------------------------------------------


def _png_with(path: Path, *added: bytes) -> Path:
    data = plain(path).read_bytes()
    path.write_bytes(data[:33] + b"".join(added) + data[33:])
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"XML:com.adobe.xmp\0",
        b"XML:com.adobe.xmp\0\1",
        b"XML:com.adobe.xmp\0\0\0",
        b"XML:com.adobe.xmp\0\0\0en\0",
        b"XML:com.adobe.xmp\0\1\0\0\0no zlib",
    ],
    ids=["nothing", "a flag", "no language", "no keyword", "not compressed"],
)
def test_a_cut_text_chunk_ends_nothing(tmp_path, content):
    picture = _png_with(tmp_path / "a.png", png_chunk(b"iTXt", content))
    before = picture.read_bytes()
    for embed in (False, True):
        with suppress(UnwritableMetadata):
            write_caption(picture, "a dog", embed)
    assert picture.read_bytes() == before


def test_text_that_inflates_without_end_is_left_alone(tmp_path):
    packing = zlib.compressobj(9)
    bomb = b"".join(packing.compress(bytes(1 << 20)) for _ in range(24)) + packing.flush()
    picture = _png_with(tmp_path / "a.png", png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb))
    tracemalloc.start()
    with pytest.raises(UnwritableMetadata, match=r"a\.png"):
        write_caption(picture, "a dog", embed=True)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    with pytest.raises(ValueError, match="longer than 16 MiB"):
        metadata._inflated(bomb)


@pytest.mark.parametrize(
    "inside",
    [
        "<dc:description>" + "\n" * 300_000 + "</dc:description>",
        alt(x_default="\n" * 300_000),
        "<dc:description><r:Alt>" + "<r:li> </r:li>" * 20_000 + "</r:Alt></dc:description>",
        "<dc:description>" + "<r:li>" * 20_000 + "</r:li>" * 20_000 + "</dc:description>",
        "<dc:description/>" * 20_000,
    ],
    ids=["line ends", "line ends in an alternative", "alternatives", "deep", "many"],
)
def test_long_packets_take_time_by_their_length_only(tmp_path, inside):
    packet = packet_with(inside)
    begun = time.thread_time()  # what other threads of the tests do does not count
    with suppress(ValueError):
        with_description(packet, "a dog")
    assert time.thread_time() - begun < 2


def test_sidecars_are_bounded_and_regular_files(tmp_path, monkeypatch):
    picture = plain(tmp_path / "a.jpg")
    monkeypatch.setattr(metadata, "_MAX_PACKET", 2000)
    sidecar_of(picture).write_bytes(packet_with(" " * 3000))
    with pytest.raises(UnwritableMetadata, match=r"a\.jpg\.xmp: cannot be added to: its XMP is longer than"):
        write_caption(picture, "a dog")
    if hasattr(os, "mkfifo"):
        sidecar_of(picture).unlink()
        os.mkfifo(sidecar_of(picture))
        with pytest.raises(UnwritableMetadata, match=r"a\.jpg\.xmp: cannot be added to: is not a regular file"):
            write_caption(picture, "a dog")
        with pytest.raises(UnwritableMetadata, match=r"a\.jpg\.xmp: .*is not a regular file"):
            write_caption(sidecar_of(picture), "a dog")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot be asked whether a process runs")
def test_what_a_killed_process_left_is_removed(tmp_path):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = tmp_path / f".captioning-{child.stdout.strip()}-0123.tmp"
    former = tmp_path / ".captioning-0123abcd.tmp"  # an earlier release wrote no number
    mine = tmp_path / f".captioning-{os.getpid()}-0123.tmp"
    other = tmp_path / ".captioning-notes.txt"
    for path in (dead, former, mine, other):
        path.touch()
    metadata.remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([former, mine, other])
    os.utime(former, (OLD_TIME, OLD_TIME))
    metadata.remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, other])
