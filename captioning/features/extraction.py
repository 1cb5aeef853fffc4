"""Features extracted once: an encoder run over all images of a data set, into a store on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from captioning.data.records import ImageRecord
from captioning.features.encoder import encoder_digest
from captioning.features.folding import FoldedEncoder
from captioning.features.store import FeatureStore, StoreKey, digest_images, extract
from captioning.pictures.loading import PREPROCESSING, VIEWS, load_image, load_varied, view
from config import Config


@dataclass(frozen=True)
class Look:
    """How the images of a feature store look: whole or a random crop, in one of the ways of ``images.view``."""

    crop: int = 0  # its number, or 0 for whole images
    view: int = 0


def store_location(
    config: Config, name: str, records: Sequence[ImageRecord], encoder: keras.Model
) -> tuple[Path, StoreKey]:
    """Where the features of ``records``' images lie, once they are extracted, and what decides them."""
    key = StoreKey(
        encoder=Path(config.encoder).name,
        weights=encoder_digest(encoder, config),
        preprocessing=PREPROCESSING,
        image_size=config.image_size,
        feature_grid=config.feature_grid,
        dtype=config.feature_dtype,
        images=digest_images({record.file_name: record.path for record in records}),
    )
    return _folder(config, name, key), key


def _folder(config: Config, name: str, key: StoreKey) -> Path:
    return Path(config.feature_dir) / f"{name}-{key.encoder}-{key.fingerprint}"


def extract_features(
    config: Config,
    name: str,
    records: Sequence[ImageRecord],
    encoder: keras.Model,
    encode: FoldedEncoder,
    looks: Sequence[Look] = (Look(),),
) -> list[FeatureStore]:
    """The stores of the features of ``records``' images, one for each of ``looks``, made where they are missing.

    They lie in feature_dir; ``name`` is the data set's. ``encode`` is ``encoder`` folded, which computes them.
    """

    _, plain = store_location(config, name, records, encoder)
    paths = {record.file_name: record.path for record in records}

    def load(file_name: str, look: Look) -> np.ndarray:
        if look.crop:
            # By name, so that the store is the same whatever other images there are and in whatever order they come.
            rng = np.random.default_rng((look.crop, *file_name.encode()))
            pixels = load_varied(paths[file_name], config.image_size, config.crop, config.colour_jitter, rng)
        else:
            pixels = load_image(paths[file_name], config.image_size)
        return view(pixels, look.view)

    stores = []
    for look in looks:
        crop = f"-crop-{look.crop}-keeps-{config.crop:g}-colour-{config.colour_jitter:g}" if look.crop else ""
        seen = f"-{VIEWS[look.view]}" if look.view else ""
        key = replace(plain, preprocessing=plain.preprocessing + crop + seen)
        store = extract(
            _folder(config, name, key),
            key,
            list(paths),
            load=partial(load, look=look),
            encode=encode,
            shape=tuple(encoder.output_shape[1:]),
            batch_size=config.extract_batch_size,
            workers=config.workers,
            label="features" + f" of crop {look.crop}" * (look.crop > 0) + f" ({VIEWS[look.view]})" * (look.view > 0),
        )
        stores.append(store)
    return stores
