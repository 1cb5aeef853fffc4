"""What the page needs to caption in the visitor's own browser: ONNX Runtime for browsers, and the graphs. No Keras.

ONNX Runtime for browsers is onnxruntime-web, which Microsoft publishes on the npm registry. Its files are fetched once
into the user's cache, and are checked. After that this server gives them to browsers, so none of them asks elsewhere.

    GET  /browser/runtime/FILE       a file of onnxruntime-web
    GET  /browser/models/N/FILE      a file of the ONNX export of captioner N in /api/models; the first one is 0
"""

import hashlib
import io
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from captioning.base.errors import UserError, first_line
from captioning.base.files import cache_folder, write_bytes
from captioning.serving.engine import Model

VERSION = "1.30.0"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
# The files that are taken out of package/dist/ in the archive, and their sha256. The last is the runtime itself.
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
# The files of an ONNX export that browsers need. It may hold others, such as captions of pictures of its owner.
EXPORTED = ("export.json", "vocabulary.json", "encoder.onnx", "search.onnx")
# Said by us, because some systems do not know these endings, or know them wrongly.
_TYPES = {
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
}
# What pages and their workers must be allowed before WebAssembly runs at all, and before it may use several threads.
# A page has threads only over HTTPS or on this machine itself; elsewhere browsers ignore the last two headers.
POLICY = "; script-src 'self' 'wasm-unsafe-eval'"
ISOLATION = {"cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp"}


def runtime_folder() -> Path:
    """Where the files of onnxruntime-web are kept."""
    return cache_folder() / f"onnxruntime-web-{VERSION}"


def has_runtime() -> bool:
    """Whether all ``FILES`` are there and as they were published."""
    return not any(_problem(runtime_folder() / name, digest) for name, digest in FILES.items())


def prepare_runtime() -> Path:
    """The folder that holds ``FILES``. They are fetched if they are not there. Raises UserError."""
    from captioning.data.download import fetch

    folder = runtime_folder()
    if has_runtime():
        return folder
    archive = folder / ARCHIVE
    try:
        # Somebody without internet here may have put the archive there by hand.
        fetch(ADDRESS, archive)
    except UserError as error:
        raise UserError(
            f"--in-browser: needs onnxruntime-web {VERSION}, which is not here and cannot be fetched: "
            f"{first_line(error)}. Try again with internet, or fetch {ADDRESS} elsewhere and put it into {folder}"
        ) from None
    try:
        for name, data in _taken_from(archive).items():
            write_bytes(folder / name, data)
        archive.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); make room there") from None
    return folder


def _taken_from(archive: Path) -> dict[str, bytes]:
    """The ``FILES`` in an archive. Raises UserError if they are not what was published, and removes the archive."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as packed:
            for name in FILES:
                member = packed.extractfile(f"package/dist/{name}") or io.BytesIO()
                found[name] = member.read(100 << 20)
        wrong = [name for name, digest in FILES.items() if hashlib.sha256(found[name]).hexdigest() != digest]
        reason = f"{wrong[0]} in it is not what was published" if wrong else ""
    except (tarfile.TarError, EOFError, KeyError, ValueError, OSError) as error:
        reason = first_line(error)
    if reason:
        archive.unlink(missing_ok=True)
        raise UserError(f"{archive}: damaged, and removed ({reason}); start again, and it is fetched anew")
    return found


def _problem(path: Path, digest: str) -> bool:
    """Whether a file is missing, or is not the one of this sha256."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != digest
    except OSError:
        return True


def browser_routes(models: Sequence[Model], runtime: Path) -> APIRouter:
    """The addresses above. ``models``: all with graphs. ``runtime``: the folder that ``prepare_runtime`` gave."""
    router = APIRouter(prefix="/browser", include_in_schema=False)
    exports = [StaticFiles(directory=model.graphs) for model in models if model.graphs]
    of_runtime = StaticFiles(directory=runtime)

    @router.get("/runtime/{name}")
    async def runtime_file(request: Request, name: str) -> Response:
        return await _file(of_runtime, name, FILES, request)

    @router.get("/models/{number}/{name}")
    async def graph_file(request: Request, number: str, name: str) -> Response:
        if not (number.isascii() and number.isdecimal() and int(number) < len(exports)):
            raise HTTPException(404)
        return await _file(exports[int(number)], name, EXPORTED, request)

    return router


async def _file(folder: StaticFiles, name: str, allowed: Collection[str], request: Request) -> Response:
    """A file of ``folder``, if it is one of those ``allowed``. A browser that has it already is told so."""
    if name not in allowed:
        raise HTTPException(404)
    answer = await folder.get_response(name, request.scope)
    if "content-type" in answer.headers:
        answer.headers["content-type"] = _TYPES[Path(name).suffix]
    return answer
