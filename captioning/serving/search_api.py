"""The part of the HTTP API that searches the photos of a folder.

    GET  /api/search                    the photos that go best with a sentence
    GET  /api/photos                    how far the index is
    GET  /api/photos/ID                 a copy of a photo, as JPEG
    GET  /api/photos/ID/caption         the caption of a photo, by the default captioner

If the server has no folder, all of them answer with an error that says how to name one.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from captioning.serving.engine import Engine
from captioning.serving.photos import NoPhotos, Photos, Progress, SearchFailed

MAX_FOUND = 100  # photos in one answer
MAX_QUERY = 300  # characters
SECONDS = 60  # in which a search must be answered; loading the towers takes a part of them


class SearchSettings(BaseModel):
    """What a search asks for."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=MAX_QUERY, description="what the photos should show, in English")
    limit: int = Field(24, ge=1, le=MAX_FOUND, description="how many photos")


class CopySettings(BaseModel):
    """Which copy of a photo a request wants."""

    model_config = ConfigDict(extra="forbid")

    size: Literal["small", "large"] = Field("small", description="320 or 1600 pixels on the longer side, at most")


class PhotosAnswer(BaseModel):
    """How far the index of the folder is."""

    folder: str = Field(description="the name of the folder")
    state: Literal["loading", "indexing", "ready", "failed"]
    indexed: int = Field(description="photos that have been read")
    total: int
    unreadable: int = Field(description="those of the indexed photos that cannot be read")
    message: str | None = Field(None, description="what went wrong, if the state is failed")


class HitAnswer(BaseModel):
    """One photo that was found."""

    photo: str = Field(description="its id, for /api/photos/ID")
    name: str = Field(description="its path in the folder")
    cosine: float = Field(description="how well it goes with the query, from -1 to 1")


class SearchAnswer(BaseModel):
    """The photos for a query."""

    query: str
    unknown_words: list[str] = Field(description="words of the query that the model does not know")
    searched: int = Field(description="how many photos were searched")
    results: list[HitAnswer] = Field(description="best first")
    photos: PhotosAnswer


class PhotoCaptionAnswer(BaseModel):
    """The caption of a photo."""

    photo: str
    model: str
    caption: str


def search_routes(engine: Engine, photos: Photos | None, errors: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The addresses above. ``errors`` documents them."""

    def opened() -> Photos:
        """The photos, if there are some. Raises NoPhotos."""
        if photos is None:
            raise NoPhotos
        return photos

    router = APIRouter(prefix="/api", responses=errors)
    of = Annotated[Photos, Depends(opened)]
    # One thread, as for uploads: decoding a large picture takes much memory.
    reader = ThreadPoolExecutor(1, thread_name_prefix="copies")

    @router.get("/search", summary="The photos that go best with a sentence", response_model_exclude_none=True)
    async def search(photos: of, settings: Annotated[SearchSettings, Query()]) -> SearchAnswer:
        with engine.place():
            searching = asyncio.wrap_future(photos.search(settings.query, settings.limit))
            try:
                found = await asyncio.wait_for(searching, SECONDS)
            except TimeoutError:
                raise SearchFailed(
                    f"the search was not answered within {SECONDS} s; another program may be writing the index; try "
                    "again"
                ) from None
        return SearchAnswer(
            query=settings.query,
            unknown_words=found.unknown,
            searched=found.searched,
            results=[HitAnswer(photo=hit.photo, name=hit.name, cosine=round(hit.cosine, 4)) for hit in found.hits],
            photos=_photos_answer(photos.name, photos.progress),
        )

    @router.get("/photos", summary="How far the index of the photos is", response_model_exclude_none=True)
    async def progress(photos: of) -> PhotosAnswer:
        return _photos_answer(photos.name, photos.progress)

    @router.get("/photos/{photo}", summary="A copy of a photo, upright, as JPEG", response_class=Response)
    async def copy(photos: of, photo: str, settings: Annotated[CopySettings, Query()]) -> Response:
        with engine.place():
            data = await asyncio.wrap_future(reader.submit(photos.copy, photo, settings.size))
        return Response(data, media_type="image/jpeg")

    @router.get("/photos/{photo}/caption", summary="The caption of a photo, by the default captioner")
    async def caption(photos: of, photo: str) -> PhotoCaptionAnswer:
        model = engine.default
        with engine.place():
            key = photos.key(photo)
            text = photos.captions.get(key)
            if text is None:
                pixels = await asyncio.wrap_future(reader.submit(photos.pixels, photo, model.config.image_size))
                result = await asyncio.wrap_future(engine.submit(model, pixels, model.decoding()))
                text = result.captions[0].text
                photos.captions.put(key, text)
        return PhotoCaptionAnswer(photo=photo, model=model.name, caption=text)

    return router


def _photos_answer(folder: str, progress: Progress) -> PhotosAnswer:
    return PhotosAnswer(folder=folder, **vars(progress))
