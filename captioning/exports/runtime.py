"""Which runtime captions pictures: ONNX Runtime if a captioner has graphs that do what is asked, or Keras. No Keras.

ONNX Runtime starts in a fraction of a second and takes little memory. Keras does everything. The graphs of a captioner
are its ONNX export, which ``export.py --format onnx`` writes beside it:

    RUN/                   -> RUN/onnx/
    RUN/captioner.zip      -> RUN/onnx/
    pretrained/pocket.zip  -> pretrained/pocket/onnx/

An export may hold an encoder that computes in 8 bits. It is taken where the processor is fast in that, unless
``--precision`` says otherwise. The search computes in float32.
"""

import hashlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from captioning.base.environment import processor_flags
from captioning.base.errors import UserError, first_line
from captioning.base.json_files import as_written, take
from captioning.base.keras_settings import refuse_without_keras
from captioning.base.texts import printable
from captioning.base.trained import bundle_of, fingerprint
from captioning.command_line.options import typed_settings
from captioning.command_line.resolving import refuse_stored_features, resolve_trained, settle_backend
from captioning.exports.graphs import Graphs, cores
from captioning.exports.reading import INT8_ENCODER, KINDS, Exported
from captioning.search.captions import Caption, PictureCaptioner, read_ids, spelled, weights_of_words
from captioning.storage.members import settings_of
from captioning.words.constraints import check_constraints
from captioning.words.padding import pad
from config import Config, DecodingSettings

# The decoding settings that search.onnx takes as inputs. It has those of the export for all others.
_OPEN = {"beam_size", "length_penalty", "min_length"}
# Processors with one of these multiply 8 bits fast and exactly. Others round the sums of such products too.
_FAST_IN_INT8 = {"avx512_vnni", "avx_vnni"}
_MOST_LANES = 8  # each takes memory

# The options of ``add_runtime`` that take the place of settings, which only training reads.
OWN_OPTIONS = ("precision",)


class Unsuitable(Exception):
    """Why the graphs of a captioner cannot do what is asked."""


def add_runtime(parser: ArgumentParser) -> None:
    """Offer ``--runtime`` to a script that captions pictures."""
    parser.add_argument(
        "--runtime",
        choices=["onnx", "keras"],
        help="onnx: caption with ONNX Runtime, which starts in a second, and refuse what it cannot do. keras: with Keras "
        "[default: onnx where the captioner has ONNX graphs that can do what is asked, otherwise keras]",
    )
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "int8"],
        default="auto",
        help="int8: ONNX Runtime computes the encoder in 8 bits, which is faster and changes some captions. It needs an "
        "export made with --calibrate. auto: int8 where there is such an export and the processor is fast in it (VNNI), "
        "otherwise float32 [default: %(default)s]",
    )


def exports_beside(model: Path) -> Path:
    """The folder in which the exports of the captioner ``model`` lie, a run folder or a bundle. It need not exist."""
    if model.is_dir():
        return model
    return model.parent if model.name == "captioner.zip" else model.with_suffix("")


class GraphCaptioner:
    """A captioner whose graphs ONNX Runtime runs. It offers what ``search.captions.PictureCaptioner`` says.

    Graphs that fail, or that give what is no caption, raise UserError.
    """

    def __init__(self, exported: Exported, config: Config, precision: str = "float32", lanes: int = 1):
        """``exported``: a whole ONNX export. ``config``: the settings of the captioner.

        ``precision``: that of the encoder, float32 or int8. ``lanes``: how many batches are to be captioned at a time,
        each by threads of its own.

        Raises ValueError if export.json is damaged, and whatever ONNX Runtime raises for graphs that it cannot run.
        """
        self.config, self.vocabulary, self._folder = config, exported.vocabulary, exported.folder
        self.attends = take(exported.about, "attends", bool)
        self.regions = take(exported.about, "regions", int)
        self._unsure_below = take({"unsure_below": -1.0} | exported.about, "unsure_below", float)
        self.precision, self.lanes = precision, lanes
        encoder, search = KINDS["onnx"].graphs
        encoder = INT8_ENCODER if precision == "int8" else encoder
        threads = max(1, cores() // lanes)
        self._graphs = Graphs(exported.folder / encoder, exported.folder / search, threads, lanes > 1)

    @classmethod
    def load(cls, model: Path, precision: str = "float32", folder: bool = False) -> "GraphCaptioner":
        """The graphs beside the captioner ``model``, a run folder or a bundle. Raises Unsuitable.

        ``precision``: as ``--precision``. ``folder``: whether it is to caption many pictures, as fast as it can.
        """
        return cls._open(model, export_of(model), settings_of(model, "captioner"), precision, folder)

    @classmethod
    def _open(cls, model: Path, exported: Exported, config: Config, precision: str, folder: bool) -> "GraphCaptioner":
        try:
            precision = _precision(exported, precision)
            _refuse_damaged(exported, precision)
            return cls(exported, config, precision, min(cores(), _MOST_LANES) if folder else 1)
        except Unsuitable as reason:
            raise Unsuitable(f"{reason}; {_anew(model)} with --calibrate and some photographs") from None
        except ImportError as error:
            raise Unsuitable(f"{error.name or error} is not installed; pip install onnxruntime") from None
        except Exception as error:  # ONNX Runtime raises errors of many kinds
            raise Unsuitable(f"{exported.folder}: cannot be run here ({first_line(error)}); {_anew(model)}") from None

    @property
    def is_judged(self) -> bool:
        """Whether captions have a confidence."""
        return self._unsure_below >= 0

    def check(self, decoding: DecodingSettings) -> None:
        """Raise UserError if no caption can hold what ``decoding`` asks for; see ``model.Captioner.check``."""
        check_constraints(self.vocabulary, decoding)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Features ``(B, R, D)`` of RGB pixels uint8 ``(B, S, S, 3)``."""
        with self._running():
            return self._graphs.encode(pixels)

    def caption(
        self, features: np.ndarray, decoding: DecodingSettings | None = None, *, names: Sequence[str] | None = None
    ) -> list[list[Caption]]:
        """The captions of each image, best first, as ``model.Captioner.caption`` gives them.

        ``names`` decide nothing, because the graphs draw no captions.
        """
        decoding = decoding or self.config
        with self._running():
            found = self._graphs.search(
                features=features,
                beam_size=np.array(decoding.beam_size, "int32"),
                length_penalty=np.array(decoding.length_penalty, "float32"),
                min_length=np.array(decoding.min_length, "int32"),
            )
            outputs = ("tokens", "log_probs", "scores", *(("confidence",) if self.is_judged else ()))
            parts = zip(*(found[output] for output in outputs), strict=True)
            captions = [spelled(self.vocabulary, image, self._unsure_below) for image in parts]
            return [of_image[: decoding.num_captions or None] for of_image in captions]

    def attend(self, features: np.ndarray, captions: Sequence[str]) -> list[np.ndarray]:
        """Where the decoder looks for each word of ``captions``, as ``model.Captioner.attend`` gives it."""
        with self._running():
            weights = self._graphs.attend(features, pad(read_ids(self.vocabulary, captions)))
            return weights_of_words(self.vocabulary, captions, weights)

    @contextmanager
    def _running(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime raises errors of many kinds, and graphs of strangers give anything
            raise UserError(
                f"{self._folder}: cannot be run on this ({first_line(error)}); make it anew with export.py, or let "
                "Keras caption: --runtime keras"
            ) from None


def load_captioner(models: Sequence[Path], views: int, args: Namespace, folder: bool = False) -> PictureCaptioner:
    """The captioner that does what the command line ``args`` asks, on the runtime that ``--runtime`` names.

    ``models``: run folders or bundles. Several, or several ``views``, are an ensemble. ``folder``: whether it is to
    caption many pictures, as fast as it can. Without ``--runtime`` it says on stderr why Keras captions, if it does.
    Raises UserError.
    """
    try:
        if len(models) * views > 1:
            raise Unsuitable("only Keras runs ensembles and --views")
        return graph_captioner(models[0], args, folder)
    except Unsuitable as reason:
        why = str(reason)
    _refuse_keras(args, why)
    for model in models:  # one that does not exist needs no Keras
        refuse_stored_features(settings_of(model, "captioner"), str(model))
    refuse_without_keras(why)
    settle_backend(typed_settings(args).get("backend"))
    from model import load_captioners

    captioner = load_captioners(models, views)
    if args.runtime is None:
        print(printable(f"note: Keras captions, which takes seconds to start: {why}"), file=sys.stderr)
    return captioner


def graph_captioner(model: Path, args: Namespace, folder: bool = False) -> GraphCaptioner:
    """The graphs beside the captioner ``model``, if they do what the command line ``args`` asks.

    ``folder``: whether it is to caption many pictures, as fast as it can. Raises Unsuitable if they do not, and
    UserError if no captioner could.
    """
    exported, trained = _suitable(model, args)
    return GraphCaptioner._open(model, exported, trained, args.precision, folder)


def refuse_without_graphs(model: Path, args: Namespace) -> None:
    """Raise UserError if ``args`` ask for what only graphs do, and those beside ``model`` do not do all of it."""
    try:
        exported, _ = _suitable(model, args)
        _precision(exported, args.precision)
    except Unsuitable as reason:
        _refuse_keras(args, str(reason))


def _refuse_keras(args: Namespace, why: str) -> None:
    """Raise UserError if ``args`` ask for what Keras does not do. ``why``: why ONNX Runtime does not do it."""
    if args.runtime == "onnx":
        raise UserError(f"--runtime onnx: {why}; or leave --runtime out, and Keras captions")
    if args.precision == "int8" and args.runtime == "keras":
        raise UserError("--precision int8: Keras has no encoder in 8 bits; leave out this or --runtime keras")
    if args.precision == "int8":
        raise UserError(f"--precision int8: {why}; or leave --precision out")


def graphs_for_browsers(model: Path, args: Namespace) -> Path:
    """The folder of the graphs beside the captioner ``model``, for the browsers of visitors. They are whole.

    Raises UserError if they do not do what the command line ``args`` asks.
    """
    try:
        exported, _ = _suitable(model, args)
        _refuse_damaged(exported, "float32")
    except Unsuitable as reason:
        why = str(reason)
    except (OSError, ValueError) as error:
        why = f"{exported.folder}: {first_line(error)}; {_anew(model)}"
    else:
        return exported.folder
    raise UserError(f"--in-browser: {why}")


def _precision(exported: Exported, wanted: str) -> str:
    """The precision of the encoder, float32 or int8. ``wanted``: as ``--precision``. Raises Unsuitable."""
    if wanted == "auto":
        return "int8" if exported.has_int8_encoder and _FAST_IN_INT8 & processor_flags() else "float32"
    if wanted == "int8" and not exported.has_int8_encoder:
        raise Unsuitable(f"{exported.folder}: has no encoder in 8 bits")
    return wanted


def _suitable(model: Path, args: Namespace) -> tuple[Exported, Config]:
    """The export that ``graph_captioner`` opens, and the settings of the captioner.

    Raises as ``graph_captioner`` does.
    """
    if args.runtime == "keras":
        raise Unsuitable("--runtime keras")
    if backend := typed_settings(args).get("backend"):
        raise Unsuitable(f"--backend {backend} is one of Keras")
    exported, trained = export_of(model), settings_of(model, "captioner")
    asked = resolve_trained(args, trained)
    if asked.is_constrained:
        raise Unsuitable("only Keras runs prefix, include and exclude_words")
    if asked.do_sample or asked.beam_groups > 1:
        raise Unsuitable("only Keras runs do_sample and beam_groups")
    # An export of before a setting does what is the default now.
    fixed, wanted_settings = (as_written(each) for each in (Config().decoding(), asked.decoding()))
    fixed |= exported.about["decoding"]
    for name, wanted in wanted_settings.items():
        if name not in _OPEN and wanted != fixed[name]:
            raise Unsuitable(f"{name} is {wanted}, and the ONNX graphs have {fixed[name]}")
    return exported, trained


def export_of(model: Path) -> Exported:
    """The ONNX export beside the captioner ``model``. Raises Unsuitable if there is none of these weights."""
    folder = exports_beside(model) / "onnx"
    if not (folder / "export.json").is_file():
        raise Unsuitable(f"{model} has no ONNX graphs; python export.py --format onnx --model {model} makes them")
    try:
        exported = Exported(folder)
        if exported.about["kind"] != "onnx" or not isinstance(exported.about.get("decoding"), dict):
            raise UserError(f"{folder}: not an ONNX export")
        if exported.about.get("bundle") != fingerprint(model):
            raise UserError(f"{folder}: made of other weights than those in {bundle_of(model)}")
    except UserError as error:
        raise Unsuitable(f"{error}; {_anew(model)}") from None
    return exported


def _refuse_damaged(exported: Exported, precision: str) -> None:
    """Raise ValueError if a file of the export is not what was written, and OSError if it cannot be read.

    The encoder of another ``precision`` is not looked at.
    """
    encoder, search = KINDS["onnx"].graphs
    for name in (INT8_ENCODER if precision == "int8" else encoder, search, "vocabulary.json"):
        with open(exported.folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != exported.about["sha256"].get(name):
                raise ValueError(f"{name} is not what was written")


def _anew(model: Path) -> str:
    return f"python export.py --format onnx --overwrite --model {model} makes it anew"
