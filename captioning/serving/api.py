"""The web page and the HTTP API of an ``Engine``: its addresses, its limits and its errors.

    GET  /                 the page; /api.html documents the API, /openapi.json describes it to programs
    GET  /api/health       whether the server can caption, for a proxy before it
    GET  /api/models       the captioners to choose from, with limits and defaults
    POST /api/captions     captions of one picture, which is the body or in a form
    GET  /api/search       photos of a folder that fit a sentence; see captioning/serving/search_api.py
    GET  /browser/...      what the page needs to caption in the visitor's browser; see captioning/serving/browser.py

Every error is ``{"error": {"code": ..., "message": ...}}``. The server fetches nothing for a client. The pages load
nothing from another place, and the Content-Security-Policy forbids it.
"""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from captioning.base.errors import UserError
from captioning.pictures.loading import UnreadableImage
from captioning.search.captions import Caption
from captioning.serving.browser import ISOLATION, POLICY, browser_routes
from captioning.serving.engine import (
    FORMATS,
    MAX_BEAM,
    MAX_PIXELS,
    SMALL,
    Attention,
    Busy,
    Decoding,
    Engine,
    Model,
    Result,
    TooLarge,
    WrongType,
    memory_for,
    read_upload,
)
from captioning.serving.guard import CrossOrigin, Guard, Hosts, Origins
from captioning.serving.photos import BadQuery, Gone, NoPhotos, Photos, SearchFailed
from captioning.serving.search_api import search_routes
from captioning.serving.worker import Closed
from config import DecodingSettings

PAGE = Path(__file__).parent / "page"
MAX_BYTES = 20 << 20
RECEIVE_SECONDS = 60  # in which a whole picture must arrive
STALL_SECONDS = 10  # in which the next part of it must arrive
IN_MEMORY = 1 << 20  # bytes of an upload above which it waits on disk

_CSP = "content-security-policy"
HEADERS = {
    _CSP: "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


class AttentionAnswer(BaseModel):
    """Where the decoder looked for each word."""

    words: list[str]
    side: int = Field(description="regions per side of the grid that covers the whole picture")
    weights: list[list[float]] = Field(description="side * side shares for each word, row by row of the grid")
    sentinel: list[float] | None = Field(None, description="the share that went to no region, for each word")


class CaptionAnswer(BaseModel):
    """One caption."""

    caption: str
    log_prob: float = Field(description="natural logarithm of its probability")
    score: float = Field(
        description="log_prob / length^length_penalty; the length counts <end>. A captioner with visual concepts adds "
        "agreement_weight times how well the caption fits them. With consensus: how much the caption is like all "
        "captions that ended, from 0 to 1"
    )
    confidence: float | None = Field(
        None, description="the probability that it is right, from 0 to 1; only from captioners with a confidence"
    )
    unsure: bool | None = Field(None, description="whether confidence is below the threshold of the captioner")
    attention: AttentionAnswer | None = None


class Answer(BaseModel):
    """The captions of a picture."""

    image: str = Field(description="the file name that was sent with the picture")
    model: str
    beam_size: int
    length_penalty: float
    consensus: bool = Field(description="whether captions are ranked by consensus; the greedy caption never is")
    greedy: CaptionAnswer
    captions: list[CaptionAnswer] = Field(description="the beam_size best, best first")
    notes: list[str] | None = Field(None, description="what is damaged in a picture that was read all the same")


class ModelAnswer(BaseModel):
    """A captioner to choose, with its default decoding. A request may ask for another decoding."""

    name: str
    encoder: str
    decoder: str
    attention: bool = Field(description="whether it has attention to show")
    beam_size: int
    length_penalty: float
    min_length: int = Field(description="the fewest words of a caption")
    consensus: bool = Field(description="whether it ranks three captions or more by consensus")


class Limits(BaseModel):
    """What the server accepts: the largest picture in bytes and pixels, the largest beam size, the formats."""

    bytes: int
    pixels: int
    beam_size: int
    formats: list[str]


class Models(BaseModel):
    """The captioners to choose from, the default first."""

    models: list[ModelAnswer]
    limits: Limits
    photos: str | None = Field(None, description="the name of the folder that /api/search searches, if there is one")
    in_browser: bool = Field(description="whether the page captions in the visitor's browser, and sends no pictures")


class Health(BaseModel):
    """A server that can caption, and how busy it is."""

    state: Literal["ready"] = "ready"
    taken: int = Field(description="places that are taken: pictures in work, searches and copies of photos")
    places: int = Field(description="all places; when all are taken, further requests are answered with 503")


class Problem(BaseModel):
    """What went wrong."""

    code: str = Field(description="for programs: it stays the same even if the message changes")
    message: str = Field(description="what is wrong and what to do")


class ErrorAnswer(BaseModel):
    """The answer to a request that failed."""

    error: Problem


class Refused(Exception):
    """A request that is answered with an error: an HTTP status, a code and a message."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


# For the documentation: the codes of each HTTP status, and when they are sent.
_ERRORS = {
    400: "bad_request: not one picture, or a form that cannot be read",
    403: "wrong_host: the server does not answer to this name, see --allowed-host; wrong_origin: pages from there may not "
    "use it, see --allow-origin",
    404: "unknown_model: no captioner of this name; not_found: no such page; no_photos: no folder to search; gone: no such photo",
    408: "too_slow: the picture did not arrive within a minute, or nothing of it for ten seconds",
    413: "too_large: too many bytes, or too many pixels",
    415: "wrong_type: not a picture, or a format that is not read",
    422: "unreadable: a damaged picture; bad_setting: a setting that is unknown or out of bounds; bad_query: no known words",
    429: "too_many: too many requests from one address at a time; Retry-After says when to try again",
    500: "model: the captioner cannot be loaded or run; search: the towers or the index cannot be used; internal: another "
    "failure of the server",
    507: "no_room: the server has no room for the upload on its disk",
    503: "busy: all places are taken, and Retry-After says when to try again; closing: the server is being stopped",
}
# The status and code of each exception of the engine.
_RAISED = (
    (TooLarge, 413, "too_large"),
    (WrongType, 415, "wrong_type"),
    (UnreadableImage, 422, "unreadable"),
    (NoPhotos, 404, "no_photos"),
    (Gone, 404, "gone"),
    (BadQuery, 422, "bad_query"),
    (SearchFailed, 500, "search"),
    (Closed, 503, "closing"),
)
_SETTINGS = ("model", "beam_size", "length_penalty", "attention")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("image/*", "application/octet-stream")
            },
        },
    }
}


def create_app(
    engine: Engine,
    photos: Photos | None = None,
    hosts: Hosts | None = None,
    stopping: asyncio.Event | None = None,
    origins: Origins | None = None,
    runtime: Path | None = None,
) -> FastAPI:
    """The ASGI application. The caller starts and stops ``engine`` and ``photos``.

    ``hosts``: the names by which the server may be asked; None: any. ``stopping``: set when the server begins to stop.
    ``origins``: pages elsewhere that may use the API; None: none. ``runtime``: the folder of onnxruntime-web, if the
    page captions in the visitor's browser. Then all models of ``engine`` have graphs. None: the page sends pictures.
    """
    app = FastAPI(
        title="Image captions",
        version="1",
        description="POST a picture, get captions. One picture per request; parallel requests are captioned together.",
        docs_url=None,  # FastAPI's own pages load scripts from other servers
        redoc_url=None,
    )
    if origins is not None:
        app.add_middleware(CrossOrigin, origins=origins)
    app.add_middleware(Guard, hosts=hosts, stopping=stopping or asyncio.Event())
    app.add_middleware(_Headers, headers=HEADERS if runtime is None else _with_wasm(HEADERS))
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items()
    }
    app.include_router(_about_routes(engine, _models(engine, photos, runtime is not None)))
    app.include_router(_caption_routes(engine, errors))
    app.include_router(search_routes(engine, photos, errors))
    if runtime is not None:
        app.include_router(browser_routes(list(engine.models.values()), runtime))
    _answer_errors(app)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def _about_routes(engine: Engine, about: Models) -> APIRouter:
    """The addresses that say what the server offers and how it is."""
    router = APIRouter()

    @router.get(
        "/api/health",
        summary="Whether the server can caption",
        responses={503: {"model": ErrorAnswer, "description": _ERRORS[503]}},
    )
    async def health() -> Health:
        if not engine.works:
            raise Closed("the server is stopping")
        taken, places = engine.places
        return Health(taken=taken, places=places)

    @router.get("/api/models", summary="The captioners to choose from, the default first")
    async def models() -> Models:
        return about

    return router


def _caption_routes(engine: Engine, errors: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The address that captions a picture. ``errors`` documents it."""
    router = APIRouter()
    # Two threads for small pictures, which never wait for large ones. Those take much memory, so they are read one by
    # one.
    readers = ThreadPoolExecutor(2, thread_name_prefix="reader"), ThreadPoolExecutor(1, thread_name_prefix="large")

    @router.post(
        "/api/captions",
        summary="Caption one picture",
        openapi_extra=_BODY,
        response_model_exclude_none=True,
        responses=errors,
    )
    async def captions(
        request: Request,
        model: Annotated[str | None, Query(description="a name from /api/models")] = None,
        beam_size: Annotated[int | None, Query(ge=1, le=MAX_BEAM, description="captions; 1 is greedy search")] = None,
        length_penalty: Annotated[
            float | None,
            Query(description=DecodingSettings.model_fields["length_penalty"].description),
            *DecodingSettings.model_fields["length_penalty"].metadata,
        ] = None,
        attention: Annotated[bool, Query(description="also where the decoder looked, word by word")] = False,
    ) -> Answer:
        chosen, decoding = _choice(engine, request, model, beam_size, length_penalty)
        with engine.place():
            name, file = await _receive(request)
            with file:
                size, notes = chosen.config.image_size, list[str]()
                needed = await asyncio.wrap_future(readers[0].submit(memory_for, file, name, size))
                reading = readers[needed > SMALL].submit(read_upload, file, name, size, notes.append)
                pixels = await asyncio.wrap_future(reading)
            try:
                result = await asyncio.wrap_future(engine.submit(chosen, pixels, decoding, attention))
            except UserError as error:
                raise Refused(500, "model", str(error)) from None
        return _answer(name, chosen, decoding, result, notes)

    return router


def _models(engine: Engine, photos: Photos | None, in_browser: bool) -> Models:
    """The answer to GET /api/models."""
    return Models(
        models=[
            ModelAnswer(
                name=model.name,
                encoder=Path(model.config.encoder_name).stem,
                decoder=model.config.decoder,
                attention=model.attends,
                **model.decoding()._asdict(),
                min_length=model.config.min_length,
                consensus=model.config.consensus,
            )
            for model in engine.models.values()
        ],
        limits=Limits(bytes=MAX_BYTES, pixels=MAX_PIXELS, beam_size=MAX_BEAM, formats=list(FORMATS)),
        photos=photos and photos.name,
        in_browser=in_browser,
    )


def _choice(
    engine: Engine, request: Request, model: str | None, beam_size: int | None, length_penalty: float | None
) -> tuple[Model, Decoding]:
    """The model and decoding that a request asks for. Raises Refused."""
    for name in request.query_params:
        if name not in _SETTINGS:
            raise Refused(422, "bad_setting", f"{name}: there is no such setting; choose from {', '.join(_SETTINGS)}")
    if model is not None and model not in engine.models:
        raise Refused(404, "unknown_model", f"model: there is no {model!r}; choose from {', '.join(engine.models)}")
    chosen = engine.default if model is None else engine.models[model]
    try:
        return chosen, chosen.decoding(beam_size, length_penalty)
    except UserError as error:
        raise Refused(422, "bad_setting", str(error)) from None


def _answer(name: str, model: Model, decoding: Decoding, result: Result, notes: list[str]) -> Answer:
    """The answer to POST /api/captions."""
    looks: list[Attention | None] = [None] * (1 + len(result.captions))
    if result.greedy_attention is not None:
        looks = [result.greedy_attention, *result.attention]
    greedy, *beam = map(_caption_answer, (result.greedy, *result.captions), looks)
    return Answer(
        image=name,
        model=model.name,
        **decoding._asdict(),
        consensus=model.search(decoding).votes,
        greedy=greedy,
        captions=beam,
        notes=notes or None,
    )


def _answer_errors(app: FastAPI) -> None:
    """Turn every exception into an answer with a code and a message."""

    def answer(status: int, code: str, message: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": {"code": code, "message": message}}, status, headers)

    @app.exception_handler(Refused)
    async def refused(_, error: Refused) -> Response:
        return answer(error.status, error.code, str(error))

    @app.exception_handler(Busy)
    async def busy(_, error: Busy) -> Response:
        return answer(503, "busy", str(error), **{"retry-after": str(error.retry_after)})

    for kind, status, code in _RAISED:

        @app.exception_handler(kind)
        async def raised(_, error: Exception, status: int = status, code: str = code) -> Response:
            return answer(status, code, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        return answer(422, "bad_setting", f"{found['loc'][-1]}: {found['msg']}, got {found['input']!r}")

    @app.exception_handler(HTTPException)
    async def other(_, error: HTTPException) -> Response:
        code = "not_found" if error.status_code == 404 else "bad_request"
        return answer(error.status_code, code, f"{error.detail}; see /api.html")

    @app.exception_handler(ClientDisconnect)
    async def gone(_, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody will read it

    @app.exception_handler(Exception)
    async def internal(_, error: Exception) -> Response:  # the server has logged the error
        return answer(500, "internal", "the server failed on this request; its log says why")


def _caption_answer(caption: Caption, attention: Attention | None) -> CaptionAnswer:
    found = CaptionAnswer(caption=caption.text, log_prob=caption.log_prob, score=caption.score)
    if caption.confidence is not None:
        found.confidence, found.unsure = round(caption.confidence, 4), caption.unsure
    if attention is not None:
        found.attention = AttentionAnswer(
            words=attention.words,
            side=attention.side,
            weights=[[round(float(share), 5) for share in row] for row in attention.weights],
            sentinel=None if attention.sentinel is None else [round(float(share), 5) for share in attention.sentinel],
        )
    return found


async def _receive(request: Request) -> tuple[str, BinaryIO]:
    """The name of the one picture in a request, and an open file with its bytes. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    request = Request(request.scope, _limited(request.receive))
    try:
        async with asyncio.timeout(RECEIVE_SECONDS):
            if kind == "multipart/form-data":
                return await _from_form(request)
            if kind.startswith("image/") or kind == "application/octet-stream":
                return await _from_body(request)
    except TimeoutError:
        raise Refused(
            408,
            "too_slow",
            f"the picture did not arrive within {RECEIVE_SECONDS} s, or nothing of it for {STALL_SECONDS} s; send a smaller "
            "copy",
        ) from None
    except OSError as error:  # an upload above IN_MEMORY is written to the folder for temporary files
        raise Refused(
            507, "no_room", f"the server has no room for the picture ({error.strerror or error}); try again later"
        ) from None
    raise Refused(
        415,
        "wrong_type",
        f"content-type: {kind or 'none'} is not read here; send the picture as image/jpeg (or its own type), or in the "
        "field image of a form (multipart/form-data)",
    )


async def _from_form(request: Request) -> tuple[str, BinaryIO]:
    try:
        form = await request.form(max_files=1, max_fields=0)
    except HTTPException as error:
        raise Refused(
            400,
            "bad_request",
            f"{error.detail} Send one picture in the field image. Send several pictures as several requests. Settings "
            "belong in the address: /api/captions?beam_size=5",
        ) from None
    picture = form.get("image")
    if not isinstance(picture, UploadFile):
        await form.close()
        raise Refused(400, "bad_request", "the form has no file in the field image; send the picture there")
    return picture.filename or "picture", picture.file


async def _from_body(request: Request) -> tuple[str, BinaryIO]:
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115  # the caller closes it
    try:
        async for part in request.stream():
            file.write(part)
        if not file.tell():
            raise Refused(400, "bad_request", "the body is empty; send a picture")
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return "picture", file


def _limited(receive: Any) -> Any:
    """``receive``, which now raises Refused after ``MAX_BYTES`` and TimeoutError after ``STALL_SECONDS``."""
    total = 0

    async def counted() -> dict[str, Any]:
        nonlocal total
        async with asyncio.timeout(STALL_SECONDS):
            message = await receive()
        total += len(message.get("body", b""))
        if total > MAX_BYTES:
            raise Refused(413, "too_large", f"more than {MAX_BYTES >> 20} MiB; send a smaller copy of the picture")
        return message

    return counted


def _with_wasm(headers: dict[str, str]) -> dict[str, str]:
    """``headers`` that also let the page run WebAssembly, in several threads where browsers offer them."""
    return headers | ISOLATION | {_CSP: headers[_CSP] + POLICY}


class _Headers:
    """Adds headers to every answer."""

    def __init__(self, app: Any, headers: dict[str, str]):
        self.app = app
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, with_headers)
