"""Captions in the metadata of pictures: XMP in a file beside the picture, or inside a JPEG or PNG file.

The caption becomes the picture's description (``dc:description``). Photo programs show it as caption or description.
The caption is also stored under a name of our own. A description that equals it was written by us, and nobody has
edited it since.

The XMP of a picture is called its packet. Only the bytes of the description are changed in a packet; the rest of the
packet stays as it was written. Every byte of a picture outside the packet is copied.

XMP: ISO 16684-1. Where files keep it: XMP Specification, part 3 (Adobe, 2020). Needs no Keras.
"""

import errno
import io
import os
import re
import shutil
import struct
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from PIL import IptcImagePlugin

from captioning.base.errors import UserError, first_line
from captioning.base.files import replacing
from captioning.base.texts import printable
from captioning.pictures.containers import JPEG_START, PNG_SIGNATURE, jpeg_segments, png_chunks
from captioning.pictures.finding import SUFFIXES
from captioning.pictures.opening import open_regular, open_strictly

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# Names as expat gives them: namespace, space, local name.
DESCRIPTION = "http://purl.org/dc/elements/1.1/ description"
OURS = "urn:keras-image-captioning# caption"
_PREFIXES = {DESCRIPTION: "dc", OURS: "captioning"}
_TOP = [f"{RDF} RDF", f"{RDF} Description"]
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"
_DEFAULT = "x-default"

_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n<rdf:RDF xmlns:rdf="{RDF}">\n</rdf:RDF>\n</x:xmpmeta>\n'
    '<?xpacket end="w"?>'
).encode()

_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"

# Longer packets, deeper elements and more descriptions are refused, so that no file of a stranger takes much time or
# memory.
_MAX_PACKET = 16 << 20
_MAX_DEPTH = 200
_MAX_SPANS = 1000

_UNFINISHED = ".captioning-"  # begins the names of files that are being written
_ABANDONED = 3600  # seconds after which such a file is nobody's any more


class UnwritableMetadata(UserError):
    """A picture whose metadata cannot be read or written. The message names the file and the reason."""


def write_caption(
    picture: Path, caption: str, embed: bool = False, overwrite: bool = False
) -> Literal["embedded", "sidecar", "kept"]:
    """Make ``caption`` the description of ``picture``, in an XMP file beside it or, with ``embed``, inside it.

    Some files cannot hold the caption, so that it goes beside them in spite of ``embed``: formats other than JPEG and
    PNG, signed files (C2PA), and JPEGs that a longer packet would break. The file beside ``photo.jpg`` is
    ``photo.jpg.xmp``. Where only ``photo.xmp`` is there, as Lightroom names it, that file is extended, unless it may be
    that of another picture.

    A description that we did not write is kept, unless ``overwrite`` is set. It may stand in XMP inside or beside the
    picture, in IPTC or in PNG text. What cameras write there by themselves is no description. ``overwrite`` leaves IPTC
    and PNG text as they are. A file is replaced whole or not at all, and a write-protected file never. A picture keeps
    its modification time. Where the caption stands already, nothing is written, so this is safe to repeat.

    Returns where the caption is now, or "kept". Raises UnwritableMetadata. Raises UserError when the disk is full or
    read-only.
    """
    beside, others = _sidecars(picture)
    name = printable(str(picture))
    try:
        inside, sidecar = _slot_inside(picture), _slot_beside(beside)
        packets: list[bytes | None] = [sidecar.packet, *(_slot_beside(other).packet for other in others)]
        packets += [inside.packet if inside else b"", *_read_with_pillow(picture)]
        if not overwrite and any(packet is None or _Packet(packet).is_foreign for packet in packets):
            return "kept"
        for slot, path in ((inside if embed else None, picture), (sidecar, beside)):
            if slot is None:
                continue
            if _Packet(slot.packet).is_ours(caption):
                break
            packet = with_description(slot.packet, caption)
            if len(packet) <= slot.limit:
                _put(path, slot, packet, keep_times=path == picture)
                break
    except OSError as error:
        hopeless = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        kind = UserError if hopeless else UnwritableMetadata
        raise kind(f"{name}: its metadata cannot be written: {printable(error.strerror or str(error))}") from None
    except ValueError as error:
        raise UnwritableMetadata(
            f"{name}: its XMP cannot be changed: {printable(str(error))}; another program may mend it"
        ) from None
    return "embedded" if path == picture else "sidecar"


# What cameras write into descriptions by themselves. From reports of people who met them, and from the lists that
# gThumb, PhotoPrism and iNaturalist keep for the same purpose.
_MAKERS = "olympus|sony|konica minolta|minolta|samsung|kodak|nikon|pentax|fujifilm|sanyo|casio|ricoh|panasonic|moultrie"
_CAMERA_TEXT = re.compile(
    rf"({_MAKERS}) digital (still |game )?camera|sony dsc|samsung( camera pictures)?|<[^<>]*(samsung|digimax)[^<>]*>"
    r"|exif_jpeg_picture|binary comment|created by imlib|default|x-default"
    # Modes of Huawei's phones, which write them in small letters. A person's Mon or HDR stays.
    r"|(?-i:(f|r)bt|fbt[hH][dD][rR]|btf(hdr|HDR|mdn)?|btr|burst|cof|dav|edf|frem|front[Bb]hdp|hdr|hdrpl|mde(_soft)?|mon|nor|oznor(WO)?|ptr"
    r"|rhdr|rpt)",
    re.IGNORECASE,
)


def _says_something(text: object) -> bool:
    """Whether a description, if there is one, was written by a person."""
    if isinstance(text, list):  # IPTC may repeat it
        return any(map(_says_something, text))
    words = " ".join((text.decode(errors="replace") if isinstance(text, bytes) else str(text or "")).split())
    words = words.strip("\0 ")
    return bool(words) and words != "DIGITAL CAMERA" and not _CAMERA_TEXT.fullmatch(words)


# Packets --------------------------------------------------------------------------------------------------------------


@dataclass
class _Texts:
    """One property of a packet: its text by language, and the (first, last + 1) bytes that it takes in the packet."""

    parts: dict[str, list[str]] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, language: str, text: str) -> None:
        language = _DEFAULT if language.lower() == _DEFAULT else language
        self.parts.setdefault(language, []).append(text)

    @property
    def texts(self) -> dict[str, str]:
        return {language: "".join(parts) for language, parts in self.parts.items()}


class _Packet:
    """What a packet says in the two properties that we write, and where it can be extended."""

    def __init__(self, packet: bytes):
        """``packet`` may be empty.

        Otherwise ValueError is raised unless it is well-formed XML in UTF-8, within bounds.
        """
        self.properties = {DESCRIPTION: _Texts(), OURS: _Texts()}
        self.about = ""  # the rdf:about of its parts, which must be the same in all of them
        self.end: int | None = None  # the byte where the closing tag of rdf:RDF begins
        if len(packet) > _MAX_PACKET:
            raise ValueError(_too_long())
        if packet:
            self._parse(packet.rstrip(b"\0"))

    def is_ours(self, caption: str) -> bool:
        """Whether ``caption`` is the description, and we wrote it."""
        return all(found.texts.get(_DEFAULT) == caption for found in self.properties.values())

    @property
    def is_foreign(self) -> bool:
        """Whether there is a description that neither we nor a camera wrote, or that somebody has edited since."""
        texts = self.properties[DESCRIPTION].texts
        return any(map(_says_something, texts.values())) and not self.is_ours(texts.get(_DEFAULT, ""))

    def _parse(self, packet: bytes) -> None:
        path: list[str] = []
        begun, language = 0, ""
        plain: list[str] = []

        def inside() -> _Texts | None:
            """The property in which the parser is now."""
            depth = path.index(_TOP[0]) if _TOP[0] in path else len(path)
            return (
                self.properties.get(path[depth + 2]) if path[depth : depth + 2] == _TOP and path[depth + 2 :] else None
            )

        def start(name: str, attributes: dict[str, str]) -> None:
            nonlocal begun, language, plain
            path.append(name)
            if len(path) > _MAX_DEPTH:
                raise ValueError(f"its elements stand in each other {_MAX_DEPTH} deep")
            if path[-2:] == _TOP:
                self.about = self.about or attributes.get(f"{RDF} about", "")
                for known in self.properties.keys() & attributes.keys():  # invalid, but some programs write it
                    self.properties[known].add(_DEFAULT, attributes[known])
            elif path[-3:-1] == _TOP:
                begun, plain = parser.CurrentByteIndex, []
            elif path[-1] == f"{RDF} li":
                language = attributes.get(_LANGUAGE, _DEFAULT)

        def text(data: str) -> None:
            if path[-1] == f"{RDF} li" and (found := inside()):
                found.add(language, data)
            elif path[-3:-1] == _TOP:
                plain.append(data)

        def end(name: str) -> None:
            at = parser.CurrentByteIndex
            is_tag = packet[at : at + 2] == b"</"  # for an element without content, expat gives the byte after it
            if path[-3:-1] == _TOP and (found := inside()):
                found.spans.append((begun, packet.index(b">", at) + 1 if is_tag else at))
                if len(found.spans) > _MAX_SPANS:
                    raise ValueError("it holds thousands of descriptions")
                if whole := "".join(plain).strip():
                    found.add(_DEFAULT, whole)
            if name == _TOP[0] and is_tag:
                self.end = at
            path.pop()

        def refuse(*_) -> None:
            raise ValueError("it declares a document type")

        parser = expat.ParserCreate("utf-8", " ")
        parser.buffer_text = True  # or each line of a text comes by itself
        parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
        parser.StartDoctypeDeclHandler = refuse
        try:
            parser.Parse(packet, True)
        except expat.ExpatError as error:
            raise ValueError(f"it is damaged ({error})") from None


def _too_long() -> str:
    return f"its XMP is longer than {_MAX_PACKET >> 20} MiB"


def with_description(packet: bytes, caption: str) -> bytes:
    """``packet`` with ``caption`` as its description in the default language. An empty packet gives a new one.

    Descriptions in other languages stay, and so does everything else. Raises ValueError when the packet is not
    well-formed XMP in UTF-8, or its description cannot be replaced.
    """
    packet = packet or _EMPTY
    before = _Packet(packet)
    if before.end is None:
        raise ValueError("it holds no rdf:RDF")
    edits, added = [], []
    for name, found in before.properties.items():
        namespace, local = name.split()
        texts = {_DEFAULT: caption} | {code: text for code, text in found.texts.items() if code != _DEFAULT}
        items = "".join(f"<rdf:li xml:lang={quoteattr(code)}>{escape(text)}</rdf:li>" for code, text in texts.items())
        tag = f"{_PREFIXES[name]}:{local}"
        new = f'<{tag} xmlns:{_PREFIXES[name]}="{namespace}" xmlns:rdf="{RDF}"><rdf:Alt>{items}</rdf:Alt></{tag}>'
        if not found.spans:
            added.append(new)
        edits += [(first, last, "" if i else new) for i, (first, last) in enumerate(found.spans)]
    if added:
        lines = [
            f'<rdf:Description rdf:about={quoteattr(before.about)} xmlns:rdf="{RDF}">',
            *added,
            "</rdf:Description>",
        ]
        edits.append((before.end, before.end, "\n".join(lines) + "\n"))
    pieces, at = [], 0
    for first, last, new in sorted(edits):
        pieces += [packet[at:first], new.encode()]
        at = last
    packet = b"".join([*pieces, packet[at:]])
    if not _Packet(packet).is_ours(caption):
        raise ValueError("its description has a form that cannot be replaced")
    return packet


# Where a file keeps its packet ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slot:
    """The place of the packet in a file: the bytes from ``start`` to ``end``. Without a packet both are equal."""

    start: int
    end: int
    packet: bytes
    wrap: Callable[[bytes], bytes]  # packet -> the bytes that hold it in the file
    limit: int  # bytes of the longest packet that fits


def _sidecars(picture: Path) -> tuple[Path, list[Path]]:
    """The .xmp file beside a picture that is ours to write, and others that may be about it too."""
    own = Path(f"{picture}.xmp")
    others = [path for suffix in (".xmp", ".XMP") if (path := picture.with_suffix(suffix)) != own and path.exists()][:1]
    if others and not own.exists() and not _has_namesake(picture):
        return others[0], []
    return own, others


def _has_namesake(picture: Path) -> bool:
    """Whether there is another picture of the same name but for its suffix, as ``photo.png`` beside ``photo.jpg``."""
    for suffix in SUFFIXES:
        for other in (picture.with_suffix(suffix), picture.with_suffix(suffix.upper())):
            if other.exists() and not other.samefile(picture):
                return True
    return False


def _slot_beside(sidecar: Path) -> _Slot:
    """The whole of an .xmp file beside a picture. Raises UnwritableMetadata when it is damaged."""
    packet = b""
    try:
        if sidecar.exists():
            with open_regular(sidecar) as file:
                packet = file.read(_MAX_PACKET + 1)
        _Packet(packet)
    except ValueError as error:
        raise UnwritableMetadata(f"{printable(str(sidecar))}: cannot be added to: {error}; mend or remove it") from None
    return _Slot(0, len(packet), packet, wrap=bytes, limit=1 << 30)


def _slot_inside(picture: Path) -> _Slot | None:
    """The place of the packet inside a picture; None for a picture that must not be written into."""
    with open_regular(picture) as file:
        head = file.read(len(PNG_SIGNATURE))
        try:
            if head.startswith(JPEG_START):
                return _slot_in_jpeg(file)
            if head == PNG_SIGNATURE:
                return _slot_in_png(file)
        except (ValueError, IndexError, struct.error, zlib.error):  # a damaged or unusual file is left alone
            pass
    return None


def _slot_in_jpeg(file: BinaryIO) -> _Slot | None:
    """The APP1 segment with XMP, or the place for one. None if the file is signed or byte positions must not change."""
    front, slot, counts_bytes = 2, None, False
    for start, end, marker, content in jpeg_segments(file):
        if marker == 0xEB and b"c2pa" in content:
            return None  # content credentials: any change would break their signature
        if marker == 0xE2 and content.startswith(b"MPF\0"):
            counts_bytes = True  # it holds the distance in bytes from here to pictures behind this one
        if marker == 0xE1 and content.startswith(_JPEG_XMP) and slot is None:
            if counts_bytes:
                return None
            slot = (start, end, content.removeprefix(_JPEG_XMP))
        if start == front and (marker == 0xE0 or (marker == 0xE1 and content.startswith(b"Exif\0"))):
            front = end  # JFIF and Exif must stay first

    def wrap(packet: bytes) -> bytes:
        return struct.pack(">HH", 0xFFE1, 2 + len(_JPEG_XMP) + len(packet)) + _JPEG_XMP + packet

    return _Slot(*(slot or (front, front, b"")), wrap, limit=0xFFFF - 2 - len(_JPEG_XMP))


def _slot_in_png(file: BinaryIO) -> _Slot | None:
    """The iTXt chunk with XMP, or the place for one. None for signed files."""
    front, slot = len(PNG_SIGNATURE) + 25, None  # behind IHDR, which comes first
    for start, end, kind in png_chunks(file):
        if kind == b"caBX":
            return None  # content credentials: any change would break their signature
        if kind == b"iTXt" and slot is None and file.read(len(_PNG_XMP)) == _PNG_XMP:
            length = end - start - 12 - len(_PNG_XMP)
            if length > _MAX_PACKET:
                raise ValueError(_too_long())
            content = file.read(length)
            is_compressed, rest = content[0], content[2:]
            _, _, packet = rest.split(b"\0", 2)  # behind the language and the translated keyword
            slot = (start, end, _inflated(packet) if is_compressed else packet)

    def wrap(packet: bytes) -> bytes:
        content = b"iTXt" + _PNG_XMP + bytes(4) + packet
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    return _Slot(*(slot or (front, front, b"")), wrap, limit=1 << 30)


def _inflated(data: bytes) -> bytes:
    """What zlib has compressed. Raises ValueError where that is longer than a packet may be."""
    inflating = zlib.decompressobj()
    packet = inflating.decompress(data, _MAX_PACKET)
    if inflating.unconsumed_tail or not inflating.eof:
        raise ValueError(_too_long())
    return packet


def _read_with_pillow(picture: Path) -> Iterator[bytes | None]:
    """The packet of a picture of any format, then None if a description stands outside of XMP. Raises ValueError."""
    try:
        with open_regular(picture) as file, open_strictly(file) as image:
            iptc = IptcImagePlugin.getiptcinfo(image) or {}
            packet = image.info.get("xmp", b"")
            described = [iptc.get((2, 120)), image.info.get("Description") if image.format == "PNG" else None]
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise ValueError(f"its metadata cannot be read ({first_line(error)})") from None
    yield packet
    if any(map(_says_something, described)):
        yield None


# Writing --------------------------------------------------------------------------------------------------------------


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left in ``folder`` while they wrote metadata. What others are writing stays."""
    for path in folder.glob(f"{_UNFINISHED}*.tmp"):
        process = path.name.removeprefix(_UNFINISHED).partition("-")[0]
        with suppress(OSError):
            if not _is_running(process) or time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _is_running(process: str) -> bool:
    """Whether a process may be running, given its number as text. It may, where that cannot be asked."""
    if not process.isdecimal() or os.name == "nt":  # Windows would take the question for a signal
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _protected(path: Path) -> bool:
    """Whether nobody may write to the file, or not this process. Renaming another file over it would not ask."""
    return not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK)


def _put(path: Path, slot: _Slot, packet: bytes, keep_times: bool) -> None:
    """Replace the file by one with ``packet`` in ``slot``, whole or not at all. Raises OSError."""
    path = path.resolve()  # so that a link stays a link
    if path.exists() and _protected(path):
        raise PermissionError(errno.EACCES, f"{path.name} is write-protected")
    # The name of the new file is unique, since another process may be writing the same picture.
    with replacing(path, path.with_name(f"{_UNFINISHED}{os.getpid()}-{uuid.uuid4().hex}.tmp")) as new:
        with open(path, "rb") if path.exists() else io.BytesIO() as source, open(new, "xb") as target:
            while source.tell() < slot.start and (part := source.read(min(1 << 20, slot.start - source.tell()))):
                target.write(part)
            target.write(slot.wrap(packet))
            source.seek(slot.end)
            shutil.copyfileobj(source, target, 1 << 20)
        if path.exists():
            owner = path.stat()
            with suppress(OSError, AttributeError):  # only an administrator may give a file away
                os.chown(new, owner.st_uid, owner.st_gid)
            shutil.copystat(path, new)
            if not keep_times:
                os.utime(new)
