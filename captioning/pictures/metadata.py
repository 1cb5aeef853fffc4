"""Captions in the metadata of pictures: XMP in a file beside the picture, or inside a JPEG or PNG file.

The caption becomes the picture's description (``dc:description``). Photo programs show it as caption or description.
The caption is also stored under a name of our own. A description that equals it was written by us, and nobody has
edited it since.

Keywords (``dc:subject``) can be given too. Those that we have given are also stored under a name of our own, and only
they are ever taken away.

The XMP of a picture is called its packet. Only the bytes of these properties are changed in a packet; the rest of the
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple
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
SUBJECT = "http://purl.org/dc/elements/1.1/ subject"
OUR_KEYWORDS = "urn:keras-image-captioning# keywords"
_PREFIXES = {DESCRIPTION: "dc", OURS: "captioning", SUBJECT: "dc", OUR_KEYWORDS: "captioning"}
_ITEM = f"{RDF} li"
_CONTAINERS = (f"{RDF} Bag", f"{RDF} Seq", f"{RDF} Alt")
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

# Characters that no XML 1.0 has (https://www.w3.org/TR/xml/#charsets). IPTC is often filled up with NUL.
_NO_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

_UNFINISHED = ".captioning-"  # begins the names of files that are being written
_ABANDONED = 3600  # seconds after which such a file is nobody's any more


class UnwritableMetadata(UserError):
    """A picture whose metadata cannot be read or written. The message names the file and the reason."""


def write_caption(
    picture: Path,
    caption: str,
    embed: bool = False,
    overwrite: bool = False,
    keywords: Sequence[str] | None = None,
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

    With ``keywords`` the picture gets these too, also where its description is kept: see ``with_description``.

    Returns where the caption is now, or "kept". Raises UnwritableMetadata. Raises UserError when the disk is full or
    read-only.
    """
    beside, others = _sidecars(picture)
    with unwritable_if_failing(picture):
        inside, sidecar = _slot_inside(picture), _slot_beside(beside)
        pillow = _read_with_pillow(picture)
        packets = [sidecar.packet, *(_slot_beside(other).packet for other in others)]
        packets += [inside.packet if inside else b"", pillow.packet]
        found = [_Packet(packet) for packet in packets]
        kept = not overwrite and (pillow.is_described or any(packet.is_foreign for packet in found))
        if kept and keywords is None:
            return "kept"
        elsewhere = [*(word for packet in found for word in packet.keywords_of_others), *pillow.keywords]
        path = beside
        for slot, path in ((inside if embed else None, picture), (sidecar, beside)):
            if slot is None:
                continue
            packet = with_description(slot.packet, None if kept else caption, keywords, elsewhere)
            if packet == slot.packet:
                break
            if len(packet) <= slot.limit:
                put(path, slot, packet, keep_times=path == picture)
                break
    return "kept" if kept else "embedded" if path == picture else "sidecar"


@contextmanager
def unwritable_if_failing(picture: Path) -> Iterator[None]:
    """Turn errors of the body, which writes something about ``picture``, into UnwritableMetadata or UserError."""
    name = printable(str(picture))
    try:
        yield
    except OSError as error:
        hopeless = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        kind = UserError if hopeless else UnwritableMetadata
        raise kind(f"{name}: its metadata cannot be written: {printable(error.strerror or str(error))}") from None
    except ValueError as error:
        raise UnwritableMetadata(
            f"{name}: its XMP cannot be changed: {printable(str(error))}; another program may mend it"
        ) from None


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
    items: list[str] = field(default_factory=list)  # the same texts one by one, as keywords are
    is_nested: bool = False  # whether it holds more than a list of texts

    def add(self, language: str, text: str, is_item: bool = True) -> None:
        """Add a text of one language. ``is_item``: False for a part of the item that was begun last."""
        language = _DEFAULT if language.lower() == _DEFAULT else language
        self.parts.setdefault(language, []).append(text)
        if is_item:
            self.items.append(text)
        else:
            self.items[-1] += text

    @property
    def texts(self) -> dict[str, str]:
        return {language: "".join(parts) for language, parts in self.parts.items()}


class _Packet:
    """What a packet says in the properties that we write, and where it can be extended."""

    def __init__(self, packet: bytes):
        """``packet`` may be empty.

        Otherwise ValueError is raised unless it is well-formed XML in UTF-8, within bounds.
        """
        self.properties = {name: _Texts() for name in _PREFIXES}
        self.about = ""  # the rdf:about of its parts, which must be the same in all of them
        self.end: int | None = None  # the byte where the closing tag of rdf:RDF begins
        if len(packet) > _MAX_PACKET:
            raise ValueError(_too_long())
        if packet:
            self._parse(packet.rstrip(b"\0"))

    def is_ours(self, caption: str) -> bool:
        """Whether ``caption`` is the description, and we wrote it."""
        return all(self.properties[name].texts.get(_DEFAULT) == caption for name in (DESCRIPTION, OURS))

    @property
    def is_foreign(self) -> bool:
        """Whether there is a description that neither we nor a camera wrote, or that somebody has edited since."""
        texts = self.properties[DESCRIPTION].texts
        return any(map(_says_something, texts.values())) and not self.is_ours(texts.get(_DEFAULT, ""))

    @property
    def keywords_of_others(self) -> list[str]:
        """The keywords that we did not give."""
        ours = _folded(self.properties[OUR_KEYWORDS].items)
        return [word for word in self.properties[SUBJECT].items if word.strip() and not _folded([word]) <= ours]

    def keywords_with(self, keywords: Sequence[str], elsewhere: Sequence[str]) -> dict[str, list[str]]:
        """The keywords as they should be, and those of them that are ours, by property. See ``with_description``."""
        there, ours = self.properties[SUBJECT].items, self.properties[OUR_KEYWORDS].items
        theirs = self.keywords_of_others
        if keywords and not self.properties[OUR_KEYWORDS].spans:
            theirs = [*theirs, *_missing(elsewhere, theirs)]
        removed = _missing(ours, there)
        new = _missing(keywords, [*theirs, *removed])
        wanted = [*theirs, *new]
        kept = [word for word in there if word.strip() and _folded([word]) <= _folded(wanted)]
        return {SUBJECT: [*kept, *_missing(wanted, kept)], OUR_KEYWORDS: [*new, *removed]}

    def _parse(self, packet: bytes) -> None:
        path: list[str] = []
        begun, language = 0, ""
        is_fresh = False  # whether an element was begun, and nothing has come since
        plain: list[str] = []

        def inside() -> _Texts | None:
            """The property in which the parser is now."""
            depth = path.index(_TOP[0]) if _TOP[0] in path else len(path)
            return (
                self.properties.get(path[depth + 2]) if path[depth : depth + 2] == _TOP and path[depth + 2 :] else None
            )

        def is_item() -> bool:
            return path[-2] in _CONTAINERS and path[-1] == _ITEM and path[-5:-3] == _TOP

        def start(name: str, attributes: dict[str, str]) -> None:
            nonlocal begun, language, plain, is_fresh
            is_fresh = True
            path.append(name)
            if len(path) > _MAX_DEPTH:
                raise ValueError(f"its elements stand in each other {_MAX_DEPTH} deep")
            if path[-2:] == _TOP:
                self.about = self.about or attributes.get(f"{RDF} about", "")
                for known in self.properties.keys() & attributes.keys():  # invalid, but some programs write it
                    self.properties[known].add(_DEFAULT, attributes[known])
            elif path[-3:-1] == _TOP:
                begun, plain = parser.CurrentByteIndex, []
            elif found := inside():
                if path[-1] == _ITEM:
                    language = attributes.get(_LANGUAGE, _DEFAULT)
                    found.items.append("")
                found.is_nested |= not is_item() and not (path[-1] in _CONTAINERS and path[-4:-2] == _TOP)

        def text(data: str) -> None:
            nonlocal is_fresh
            is_fresh = False
            if path[-1] == _ITEM and (found := inside()):
                found.add(language, data, is_item=False)
            elif path[-3:-1] == _TOP:
                plain.append(data)

        def end(name: str) -> None:
            nonlocal is_fresh
            at = parser.CurrentByteIndex
            # For an element that is begun and ended by one tag, expat gives the byte after it.
            is_tag = not (is_fresh and packet[at - 2 : at] == b"/>")
            is_fresh = False
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


def with_description(
    packet: bytes, caption: str | None, keywords: Sequence[str] | None = None, elsewhere: Sequence[str] = ()
) -> bytes:
    """``packet`` with ``caption`` as its description in the default language. An empty packet gives a new one.

    Descriptions in other languages stay, and so does everything else. ``caption``: None keeps the description.

    With ``keywords`` these are among its keywords. Earlier ones of ours are not any more, and those of others stay. A
    keyword of ours that somebody has removed does not come back. Where we give keywords for the first time, those that
    the picture has ``elsewhere`` are copied, because programs read only one place.

    Raises ValueError when the packet is not well-formed XMP in UTF-8, or a property cannot be replaced. Returns
    ``packet`` itself where all of this stands in it.
    """
    before = _Packet(packet or _EMPTY)
    if before.end is None:
        raise ValueError("it holds no rdf:RDF")
    wanted: dict[str, str] = {}
    if caption is not None and not before.is_ours(caption):
        wanted |= {name: _alternatives(name, caption, before) for name in (DESCRIPTION, OURS)}
    words = {} if keywords is None else before.keywords_with(keywords, elsewhere)
    if words and before.properties[SUBJECT].is_nested:
        raise ValueError("its keywords have a form that cannot be extended")
    wanted |= {name: _bag(name, items) for name, items in words.items() if items != before.properties[name].items}
    if not wanted:
        return packet
    packet = _replaced(packet or _EMPTY, before, wanted)
    after = _Packet(packet)
    if caption is not None and not after.is_ours(caption):
        raise ValueError("its description has a form that cannot be replaced")
    if any(after.properties[name].items != items for name, items in words.items()):
        raise ValueError("its keywords have a form that cannot be extended")
    return packet


def _folded(words: Iterable[str]) -> set[str]:
    """Keywords in a form in which equal ones are equal."""
    return {word.strip().casefold() for word in words}


def _missing(words: Sequence[str], there: Sequence[str]) -> list[str]:
    """Those of ``words`` that are not ``there``, each once."""
    known = _folded(there)
    return [word for i, word in enumerate(words) if word.strip() and not _folded([word]) <= known | _folded(words[:i])]


def _alternatives(name: str, caption: str, before: _Packet) -> str:
    """The property ``name`` with ``caption`` in the default language, as XML."""
    texts = before.properties[name].texts
    texts = {_DEFAULT: caption} | {code: text for code, text in texts.items() if code != _DEFAULT}
    items = "".join(f"<rdf:li xml:lang={quoteattr(code)}>{escape(text)}</rdf:li>" for code, text in texts.items())
    return _element(name, f"<rdf:Alt>{items}</rdf:Alt>")


def _bag(name: str, items: Sequence[str]) -> str:
    """The property ``name`` with ``items``, as XML. Without items it is empty."""
    listed = "".join(f"<rdf:li>{escape(text)}</rdf:li>" for text in items)
    return _element(name, f"<rdf:Bag>{listed}</rdf:Bag>") if items else ""


def _element(name: str, content: str) -> str:
    namespace, local = name.split()
    tag = f"{_PREFIXES[name]}:{local}"
    return f'<{tag} xmlns:{_PREFIXES[name]}="{namespace}" xmlns:rdf="{RDF}">{content}</{tag}>'


def _replaced(packet: bytes, before: _Packet, wanted: dict[str, str]) -> bytes:
    """``packet`` with the ``wanted`` properties, as XML by name, in place of those that it has."""
    edits, added = [], []
    for name, new in wanted.items():
        spans = before.properties[name].spans
        if not spans and new:
            added.append(new)
        edits += [(first, last, "" if i else new) for i, (first, last) in enumerate(spans)]
    if added:
        lines = [
            f'<rdf:Description rdf:about={quoteattr(before.about)} xmlns:rdf="{RDF}">',
            *added,
            "</rdf:Description>",
        ]
        assert before.end is not None
        edits.append((before.end, before.end, "\n".join(lines) + "\n"))
    pieces, at = [], 0
    for first, last, new in sorted(edits):
        pieces += [packet[at:first], new.encode()]
        at = last
    return b"".join([*pieces, packet[at:]])


# Where a file keeps its packet ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
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
    if others and not own.exists() and not has_namesake(picture, SUFFIXES):
        return others[0], []
    return own, others


def has_namesake(picture: Path, suffixes: Iterable[str]) -> bool:
    """Whether there is another picture of the same name but for its suffix, as ``photo.png`` beside ``photo.jpg``.

    ``suffixes``: of pictures, in small letters.
    """
    for suffix in suffixes:
        for other in (picture.with_suffix(suffix), picture.with_suffix(suffix.upper())):
            if other.exists() and not other.samefile(picture):
                return True
    return False


def _slot_beside(sidecar: Path) -> Slot:
    """The whole of an .xmp file beside a picture. Raises UnwritableMetadata when it is damaged."""
    packet = b""
    try:
        if sidecar.exists():
            with open_regular(sidecar) as file:
                packet = file.read(_MAX_PACKET + 1)
        _Packet(packet)
    except ValueError as error:
        raise UnwritableMetadata(f"{printable(str(sidecar))}: cannot be added to: {error}; mend or remove it") from None
    return Slot(0, len(packet), packet, wrap=bytes, limit=1 << 30)


def _slot_inside(picture: Path) -> Slot | None:
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


def _slot_in_jpeg(file: BinaryIO) -> Slot | None:
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

    return Slot(*(slot or (front, front, b"")), wrap, limit=0xFFFF - 2 - len(_JPEG_XMP))


def _slot_in_png(file: BinaryIO) -> Slot | None:
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

    return Slot(*(slot or (front, front, b"")), wrap, limit=1 << 30)


def _inflated(data: bytes) -> bytes:
    """What zlib has compressed. Raises ValueError where that is longer than a packet may be."""
    inflating = zlib.decompressobj()
    packet = inflating.decompress(data, _MAX_PACKET)
    if inflating.unconsumed_tail or not inflating.eof:
        raise ValueError(_too_long())
    return packet


class _Inside(NamedTuple):
    """What is inside a picture: its packet, and what stands outside of XMP."""

    packet: bytes
    is_described: bool
    keywords: list[str]


def _read_with_pillow(picture: Path) -> _Inside:
    """What is inside a picture of any format. Raises ValueError."""
    try:
        with open_regular(picture) as file, open_strictly(file) as image:
            iptc = IptcImagePlugin.getiptcinfo(image) or {}
            packet = image.info.get("xmp", b"")
            described = [iptc.get((2, 120)), image.info.get("Description") if image.format == "PNG" else None]
    except Exception as error:  # Pillow raises errors of many kinds on damaged files
        raise ValueError(f"its metadata cannot be read ({first_line(error)})") from None
    words = iptc.get((2, 25), [])
    keywords = [_decoded(word) for word in (words if isinstance(words, list) else [words])]
    return _Inside(packet, any(map(_says_something, described)), keywords)


def _decoded(text: bytes) -> str:
    """A text of IPTC, which is often UTF-8 without saying so, in one line and without what XML cannot hold."""
    try:
        found = text.decode()
    except UnicodeDecodeError:
        found = text.decode("latin-1")
    return " ".join(_NO_XML.sub(" ", found).split())


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


def put(path: Path, slot: Slot, packet: bytes, keep_times: bool) -> None:
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
