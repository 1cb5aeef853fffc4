"""Features extracted once: an encoder is run over all images of a data set, into a store on disk."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captioning.data.records import ImageRecord
from captioning.features.digests import encoder_digest
from captioning.features.looks import Look
from captioning.features.store import FeatureStore, StoreKey, digest_images, extract
from captioning.pictures.notes import Notes
from captioning.pictures.opening import Tell
from config import EncoderSettings

if TYPE_CHECKING:
    import keras

    from captioning.features.folding import FoldedEncoder


def store_location(
    settings: EncoderSettings,
    name: str,
    records: Sequence[ImageRecord],
    encoder: "keras.Model",
    look: Look = Look(),  # noqa: B008  # it is frozen
) -> tuple[Path, StoreKey]:
    """The folder of the features of ``records``' images, which need not exist, and the key that decides them.

    ``name`` is the data set's. ``encoder`` is the model that ``settings`` describe. ``look``: how the images look.
    """
    key = StoreKey(
        encoder=settings.encoder_name,
        weights=encoder_digest(encoder, settings.encoder),
        preprocessing=look.preprocessing,
        image_size=settings.image_size,
        feature_grid=settings.feature_grid,
        dtype=settings.feature_dtype,
        images=digest_images((record.file_name, record.path) for record in records),
    )
    return _folder(settings, name, key), key


def _folder(settings: EncoderSettings, name: str, key: StoreKey) -> Path:
    return Path(settings.feature_dir) / f"{name}-{key.encoder}-{key.fingerprint}"


def extract_features(
    settings: EncoderSettings,
    name: str,
    records: Sequence[ImageRecord],
    encoder: "keras.Model",
    encode: "FoldedEncoder",
    looks: Sequence[Look] = (Look(),),
    verify: bool = False,
) -> list[FeatureStore]:
    """The stores of the features of ``records``' images, one for each of ``looks``. Missing stores are made.

    They lie in feature_dir. ``name`` is the data set's. ``encode`` is ``encoder`` folded, which computes the features.
    ``verify``: finished stores are compared with their checksums (see ``store.extract``).
    """
    _, whole = store_location(settings, name, records, encoder)

    @cache
    def paths() -> dict[str, Path]:
        return {record.file_name: record.path for record in records}

    def load(look: Look, tell: Tell, file_name: str) -> np.ndarray:
        return look.load(paths()[file_name], file_name, settings.image_size, tell)

    stores = []
    for look in looks:
        key = replace(whole, preprocessing=look.preprocessing)
        with Notes() as notes:
            store = extract(
                _folder(settings, name, key),
                key,
                (record.file_name for record in records),
                load=partial(load, look, notes),
                encode=encode,
                shape=tuple(encoder.output_shape[1:]),
                batch_size=settings.extract_batch_size,
                workers=settings.workers,
                label=look.label,
                verify=verify,
            )
        stores.append(store)
    return stores
