"""The long works that ``tools/drill_kills.py`` disturbs: scripts with tiny data, each in a process of its own.

A work runs in a process that is forked from one that has imported Keras and computed nothing. So its start takes no
time.
"""

import contextlib
import hashlib
import http.server
import importlib
import io
import json
import os
import re
import runpy
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from config import ROOT

HANG = 600  # seconds
_PICTURES = 12
_COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}
_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "os.chmod"}
_NOT_COMPARED = ("about.json", "curves.png", "report.html", "fingerprint.pb")
# TensorFlow's own files: source that it has translated. It removes them when Python ends, and a kill prevents that.
_TRANSLATED = re.compile(r"__autograph_generated_file\w+\.py")
_COMPLETE = "epochs already; ask for more"  # says --resume of a run that has all its epochs and its bundle
_TIMES = ("seconds", "words_per_second", "reward_share")  # columns of history.csv

Command = Sequence[str]


@dataclass(frozen=True)
class Work:
    """A long work. Its folder is HERE, and that of the data and the trained models is DATA, in all commands.

    command: a script of this repository with its arguments.
    again: how it goes on after a kill, given HERE. None: with the same command.
    before: works in peace, whose files are there when it begins.
    """

    name: str
    command: Command
    again: Callable[[Path], Command | None] = lambda here: None
    before: Sequence[Command] = ()
    copies: Sequence[str] = ()  # folders of DATA that the work changes, copied into HERE
    share: int = 2  # of the kills; works that take long have a smaller one


def _resumed(here: Path) -> Command | None:
    return ("train.py", "--resume", "HERE/run") if (here / "run" / "config.json").exists() else None


_DATA = ("--dataset", "folder", "--data-dir", "DATA/pictures", "--captions-file", "DATA/captions.csv")
_SIZES = (
    *("--encoder", "DATA/encoder.keras", "--image-size", "32", "--embedding-size", "8", "--hidden-size", "8"),
    *("--vocab-threshold", "1", "--batch-size", "4", "--max-caption-length", "6", "--extract-batch-size", "2"),
)
_RUN = ("--run-dir", "HERE", "--name", "run", "--no-tensorboard", "--sample-captions", "1")
_STORED = ("--feature-dir", "DATA/features")
_TRAIN = ("train.py", *_DATA, *_STORED, *_RUN, "--epochs", "3", "--dev-beam-size", "1")
_FROM = ("--init", "DATA/captioner/run", "--batch-size", "4")
_CAPTIONER = ("--model", "DATA/captioner/run", "--extract-batch-size", "2", "--beam-size", "1")
_ALBUM = ("test.py", "HERE/pictures", "--output", "HERE/captions.jsonl", *_CAPTIONER)
_FLICKR = ("preprocessing.py", "--dataset", "flickr8k", "--feature-dir", "HERE/features", *_SIZES)

_EXTRACTION = ("preprocessing.py", *_DATA, *_SIZES)
# What the models in DATA are made with: name of the folder that is HERE, and the command.
MODELS: tuple[tuple[str, Command], ...] = (
    ("captioner", ("train.py", *_DATA, *_STORED, *_RUN, *_SIZES, "--epochs", "1", "--dev-beam-size", "1")),
    ("aligner", ("train.py", *_DATA, *_STORED, *_RUN, *_SIZES, "--epochs", "1", "--stage", "align")),
)
WORKS = (
    Work("training", (*_TRAIN, *_SIZES, "--ema-decay", "0.9"), _resumed, share=1),
    Work("fine-tuning", (*_TRAIN, *_FROM, "--stage", "finetune", "--epochs", "2"), _resumed, share=1),
    Work("self-critical", (*_TRAIN, *_FROM, "--stage", "scst", "--epochs", "2"), _resumed, share=1),
    Work(
        "alignment",
        ("train.py", *_DATA, *_STORED, *_RUN, *_SIZES, "--epochs", "3", "--stage", "align"),
        _resumed,
        share=1,
    ),
    Work(
        "export",
        (
            "export.py",
            *("--model", "DATA/captioner/run", "--output", "HERE/exports", "--overwrite"),
            *("--format", "savedmodel", "onnx", "litert", "--beam-size", "2"),
        ),
        share=1,
    ),
    Work("album", _ALBUM, copies=("pictures",)),
    Work("metadata inside", (*_ALBUM, "--write-metadata", "embed"), before=(_ALBUM,), copies=("pictures",)),
    Work("metadata beside", (*_ALBUM, "--write-metadata", "sidecar"), before=(_ALBUM,), copies=("pictures",)),
    Work(
        "index",
        (
            "retrieve.py",
            *("--model", "DATA/aligner/run", "--images", "DATA/pictures", "--index", "HERE/index"),
            *("--extract-batch-size", "2"),
        ),
    ),
    Work("extraction", (*_EXTRACTION, "--feature-dir", "HERE/features")),
    Work("unzipping", (*_FLICKR, "--data-dir", "HERE/archives"), copies=("archives",)),
    Work(
        "downloading",
        (
            *(*_FLICKR, "--data-dir", "HERE/flickr8k", "--download"),
            *("--download-urls", "SERVER/Flickr8k_Dataset.zip,SERVER/Flickr8k_text.zip"),
        ),
    ),
    Work("demo scenes", ("captioning/data/scenes.py", "HERE/demo", "--images", "10")),
)
# Further scripts that write. They are short, so they are not killed, but a disk may be full for them too.
WRITERS = (
    Work("evaluation", ("evaluate.py", "--model", "DATA/captioner/run", "--output", "HERE/evaluation", "--report")),
    Work("figures", ("test.py", "DATA/pictures/00.png", *_CAPTIONER, "--pictures", "HERE/figures")),
    Work("retrieval", ("retrieve.py", "--model", "DATA/aligner/run", "--output", "HERE/evaluation")),
    Work(
        "results",
        (
            *("retrieve.py", "a red picture", "--model", "DATA/aligner/run", "--images", "DATA/pictures"),
            *("--index", "HERE/index", "--pictures", "HERE/figures"),
        ),
    ),
)


def make_data(folder: Path) -> None:
    """Pictures of one colour with two captions each, the same as the archives of Flickr8k, and a small encoder."""
    import keras
    from keras import layers

    (folder / "pictures").mkdir(parents=True)
    (folder / "archives").mkdir()
    rng = np.random.default_rng(0)
    rows, tokens, splits = ["image,caption,split"], "", {"train": "", "dev": "", "test": ""}
    for i in range(_PICTURES):
        colour = list(_COLOURS)[i % 4]
        name = f"{i:02}.{'jpg' if i % 2 else 'png'}"
        pixels = np.clip(rng.normal(_COLOURS[colour], 20, (24, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / name)
        split = "train" if i < 8 else "dev" if i < 10 else "test"
        captions = f"A {colour} picture .", f"This one is {colour}"
        rows += [f"{name},{caption},{split}" for caption in captions]
        tokens += "".join(f"{name}#{k}\t{caption}\n" for k, caption in enumerate(captions))
        splits[split] += f"{name}\n"
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    with zipfile.ZipFile(folder / "archives" / "Flickr8k_text.zip", "w") as archive:
        archive.writestr("Flickr8k.token.txt", tokens)
        for split, names in splits.items():
            archive.writestr(f"Flickr_8k.{split}Images.txt", names)
    with zipfile.ZipFile(folder / "archives" / "Flickr8k_Dataset.zip", "w") as archive:
        for path in sorted((folder / "pictures").iterdir()):
            archive.write(path, f"Flicker8k_Dataset/{path.name}")
    start = keras.initializers.RandomNormal(stddev=0.3, seed=1)
    images = keras.Input((None, None, 3))
    grid = layers.Conv2D(5, 16, strides=16, kernel_initializer=start)(layers.Rescaling(1 / 100, -1)(images))
    keras.Model(images, grid).save(folder / "encoder.keras")


# A process that is forked, and killed --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When to kill: before the write of this number (from 1), or after so many seconds."""

    write: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class End:
    """How a process ended.

    status: -9 if it was killed, None if it hung. writes, modules: how many writes it began, and what it imported. Both
    are known only of a process that was not killed.
    """

    status: int | None
    seconds: float
    writes: int = 0
    modules: Sequence[str] = ()


def run(function: Callable[[], Any], below: Path, log: Path, moment: Moment | None = None) -> End:
    """Call ``function`` in a forked process, killed at ``moment``. What it prints goes to ``log``.

    Writes of files ``below`` a folder count.
    """
    reader, writer = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(reader)
        _be_child(function, below, log, moment.write if moment else 0, writer)
    os.close(writer)
    try:
        told = _read(reader, began + (moment.seconds if moment and moment.seconds else HANG))
        if told is None:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(reader)
    hung = told is None and not (moment and moment.seconds)
    return End(None if hung else status, time.perf_counter() - began, **json.loads(told or "{}"))


def _read(pipe: int, deadline: float) -> bytes | None:
    """All that comes through a pipe until its other end closes; None where that does not happen in time."""
    found = b""
    while select.select([pipe], [], [], max(0, deadline - time.perf_counter()))[0]:
        part = os.read(pipe, 1 << 16)
        if not part:
            return found
        found += part
    return None


def _be_child(function: Callable[[], Any], below: Path, log: Path, last: int, writer: int) -> None:
    """The life of the forked process. ``last``: the number of the write before which it is killed, or 0."""
    status, count, prefix, known = 70, [0], str(below), set(sys.modules)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        is_write = event in _WRITES or (event == "open" and _to_write(args))
        if not is_write or not args or not isinstance(args[0], str | os.PathLike):
            return
        path = os.fspath(args[0])
        if path.startswith(prefix) and not _TRANSLATED.fullmatch(os.path.basename(path)):
            count[0] += 1
            if count[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.addaudithook(hook)
        try:
            function()
            status = 0
        except SystemExit as left:
            status = int(left.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        with open(writer, "w") as teller:
            json.dump({"writes": count[0], "modules": sorted(set(sys.modules) - known)}, teller)
    finally:
        os._exit(status)


def _to_write(args: tuple[Any, ...]) -> bool:
    """Whether the audit event ``open`` with these arguments is of a file that will be written."""
    _, mode, flags = args
    return bool(set(mode) & set("wax+")) if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))


def script(arguments: Sequence[str], temporary: Path) -> None:
    """Run a script as ``python NAME.py ARGUMENTS`` would. ``temporary``: its folder for temporary files."""
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    sys.argv = list(arguments)
    runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")


# What a work leaves ---------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, str]:
    """A digest of what each file below ``folder`` says, by path. What differs between any two works is left out of it:

    times, versions of an index, how a run began and went on, drawings, the order of arrays in a file, the fingerprint
    of a SavedModel, and how tf2onnx orders and names the nodes of an ONNX graph. Two things in the folder for
    temporary files are left out too. One is a file of four bytes with which Python tries whether it can write there.
    The other is source that TensorFlow has translated.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"vectors-\d+\.npy$", "vectors.npy", path.relative_to(folder).as_posix())
        while name in found:
            name += " again"
        if path.is_file() and not re.fullmatch(rf"tmp/([a-z0-9_]{{8}}|{_TRANSLATED.pattern})", name):
            found[name] = hashlib.sha256(repr(_said(path)).encode()).hexdigest()
    return found


def _said(path: Path) -> Any:
    """What a file says: its bytes, but for those that ``snapshot`` names."""
    content, name = path.read_bytes(), path.name
    if name in _NOT_COMPARED or re.fullmatch(r"vectors-\d+\.npy", name):  # the index compares its vectors
        return "there"
    if name.endswith((".zip", ".keras")) and path.parent.name != "archives":
        return _members(content)
    if name.endswith(".h5"):
        return _arrays(content)
    if name == "encoder.onnx":  # the answers of the two graphs are compared together
        return "there"
    if name == "search.onnx":
        return _answers(path.parent)
    if name == "export.json":
        return _export(path)
    if name == "history.csv":
        lines = [line.split(",") for line in content.decode().splitlines()]
        kept = [i for i, column in enumerate(lines[0]) if column not in _TIMES]
        return [[line[i] for i in kept] for line in lines]
    if name == "index.json" and b'"version"' in content:
        from captioning.retrieval.index import ImageIndex

        index = ImageIndex(path.parent)
        return sorted((name, index.vectors[row].tobytes()) for row, name in enumerate(index.images)), index.unreadable
    return re.sub(rb'"started": "[^"]*"', b"", content) if name.endswith(".json") else content


def _members(content: bytes) -> list[tuple[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        return [
            (
                name,
                _members(opened.read(name))
                if name.endswith(".keras")
                else _arrays(opened.read(name))
                if name.endswith(".h5")
                else opened.read(name),
            )
            for name in sorted(opened.namelist())
            if name not in ("metadata.json", "bundle.json")  # dates, and digests of the bytes of HDF5
        ]


def _arrays(content: bytes) -> list[tuple[str, bytes]]:
    import h5py

    found: list[tuple[str, bytes]] = []
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(lambda name, item: found.append((name, item[()].tobytes())) if hasattr(item, "dtype") else None)
    return sorted(found)


def _export(path: Path) -> Any:
    """What an export.json says, and whether its digests are those of the files."""
    about = json.loads(path.read_bytes())
    digests = about.pop("sha256")
    wrong = [
        name
        for name, digest in digests.items()
        if hashlib.sha256((path.parent / name).read_bytes()).hexdigest() != digest
    ]
    return about, sorted(digests), wrong


def _answers(export: Path) -> Any:
    """What an export says about pictures of noise. Another process asks, because one that computes must not fork."""
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch, "found.json")
        end = run(partial(_ask, export, found), export, Path(scratch, "log"))
        return found.read_text() if end.status == 0 else Path(scratch, "log").read_text()


def _ask(export: Path, found: Path) -> None:
    from captioning.exports.reading import Exported

    exported = Exported(export)
    pixels = np.random.default_rng(0).integers(0, 256, (8, *exported.about["inputs"]["pixels"]["shape"][1:]), "uint8")
    parts = exported(pixels)
    found.write_text(json.dumps({name: part.round(4).tolist() for name, part in sorted(parts.items())}))


def pictures(folder: Path) -> dict[str, bytes]:
    """The pictures of a work that changes some."""
    return {path.name: path.read_bytes() for path in (folder / "pictures").glob("*.[pj]*g")}


def differences(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """The faults of a work that ended, in words."""
    return [
        *(f"leftover {name}" for name in sorted(found.keys() - wanted.keys())),
        *(f"missing {name}" for name in sorted(wanted.keys() - found.keys())),
        *(f"different {name}" for name in sorted(found.keys() & wanted.keys()) if found[name] != wanted[name]),
    ]


# Where works are done -------------------------------------------------------------------------------------------------


class Workshop:
    """A folder in which works are done, one at a time, with the data and models that they need.

    ``here`` is the folder of the work that is done. ``log`` is what the last process printed.
    """

    def __init__(self, scratch: Path, works: Sequence[Work]):
        """Raises RuntimeError when data or a model cannot be made."""
        self.here, self.data, self.log = scratch / "here", scratch / "data", scratch / "log"
        self.data.mkdir(parents=True)
        self.server = self.port = 0
        parts = [part for work in works for command in (work.command, *work.before) for part in command]
        if any(work.copies for work in works) or any("DATA/" in part or "SERVER/" in part for part in parts):
            import_all(any(work.name == "export" for work in works))
            self._peaceful(partial(make_data, self.data))
            self._peaceful(self._script((*_EXTRACTION, *_STORED), self.data / "extraction"))
            self.server, self.port = _serve(self.data / "archives")
        for name, command in MODELS:
            if any(f"DATA/{name}/" in part for part in parts):
                self._peaceful(self._script(command, self.data / name))
        self._checked = snapshot(self.data)

    def close(self) -> None:
        """Stop the server of downloads."""
        if not self.server:
            return
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)

    def set_up(self, work: Work) -> None:
        """Let ``here`` hold what is there when ``work`` begins, and nothing else."""
        for command in work.before:
            kept = self.data.with_name("before") / hashlib.sha256(repr(command).encode()).hexdigest()[:8]
            if not kept.exists():  # done once, since it takes long
                self._begin(work)
                self._peaceful(self._script(command, self.here))
                shutil.copytree(self.here, kept)
            self._empty()
            shutil.copytree(kept, self.here, dirs_exist_ok=True)
        if not work.before:
            self._begin(work)

    def _begin(self, work: Work) -> None:
        self._empty()
        for name in work.copies:
            shutil.copytree(self.data / name, self.here / name)

    def _empty(self) -> None:
        self.here.mkdir(exist_ok=True)
        for path in self.here.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def peace(self, work: Work) -> End:
        """Do ``work`` from its beginning, and let nobody disturb it. Raises RuntimeError when it fails."""
        self.set_up(work)
        end = self.run(work.command)
        if end.status != 0:
            raise RuntimeError(f"{work.name} fails in peace: {self.tail()}")
        self._learn(end)
        return end

    def run(self, command: Command, moment: Moment | None = None) -> End:
        """Run a script with the places of this workshop, killed at ``moment``."""
        self.log.unlink(missing_ok=True)
        return run(self._script(command, self.here), self.here, self.log, moment)

    def again(self, work: Work, moment: Moment | None = None) -> End:
        """Go on with a work that was disturbed, ten seconds later as far as files that it left can tell."""
        earlier = time.time() - 10
        for path in self.here.rglob(".*"):
            with contextlib.suppress(OSError):
                os.utime(path, (earlier, earlier))
        end = self.run(work.again(self.here) or work.command, moment)
        if end.status == 2 and _COMPLETE in self.log.read_text(errors="replace"):
            return replace(end, status=0)  # the kill came after the last write, so --resume has nothing to do
        return end

    def faults(self, end: End, wanted: dict[str, str]) -> list[str]:
        """What is wrong with a work that ended, in words. ``wanted``: the snapshot of one in peace."""
        said = self.log.read_text(errors="replace")
        found = [] if end.status == 0 else ["hang" if end.status is None else f"failed: {self.tail()}"]
        if "Traceback (most recent call last)" in said:
            found.append(f"traceback: {self.tail()}")
        return found or differences(snapshot(self.here), wanted)

    def changes(self) -> list[str]:
        """What is no longer as it was in the data and models that all works share, in words."""
        return [f"changed: {text}" for text in differences(snapshot(self.data), self._checked)]

    def tail(self) -> str:
        """The errors and the last line in the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " ... ".join([line for line in lines if line.startswith("error:")] + lines[-1:])

    def _script(self, command: Command, here: Path) -> Callable[[], None]:
        address = f"http://127.0.0.1:{self.port}"
        places = {"HERE": str(here), "DATA": str(self.data), "SERVER": address}
        filled = [re.sub("|".join(places), lambda found: places[found[0]], part) for part in command]
        return partial(script, filled, here / "tmp")

    def _peaceful(self, function: Callable[[], Any]) -> None:
        end = run(function, self.data, self.log)
        if end.status != 0:
            raise RuntimeError(f"the drill cannot be set up: {self.tail()}")
        self._learn(end)

    def _learn(self, end: End) -> None:
        """Import what a process had to import, so that the next one need not."""
        for name in end.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def import_all(exports: bool) -> None:
    """Import what the works import, so that they need not. Nothing may be computed, or a fork would not be sound."""
    from captioning.base.script import let_memory_grow, set_up_tensorflow

    set_up_tensorflow()
    let_memory_grow()
    import keras  # noqa: F401

    import captioning.reports.curves
    import captioning.retrieval.aligner
    import captioning.retrieval.searching
    import captioning.training.loop
    import captioning.training.stages.align
    import captioning.training.stages.finetune
    import captioning.training.stages.scst
    import captioning.training.stages.xe
    import model  # noqa: F401

    if exports:
        import captioning.exports.writing  # noqa: F401


def _serve(folder: Path) -> tuple[int, int]:
    """Start a server of the files in ``folder`` that sends any part of them, slowly, so that there is time for a kill.

    Returns the number of its process and its port. It is a process, because threads and forks do not go together.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = (folder / Path(self.path).name).read_bytes()
            begin = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
            self.send_response(206 if begin else 200)
            self.send_header("ETag", f'"{len(content)}"')
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            with contextlib.suppress(OSError):
                for start in range(begin, len(content), 2000):
                    self.wfile.write(content[start : start + 2000])
                    time.sleep(0.005)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            server.serve_forever()
        os._exit(0)
    server.server_close()
    return child, server.server_port
