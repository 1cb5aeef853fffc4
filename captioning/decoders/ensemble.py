"""Several captioners as one, or one that looks several times: at every step the next word's probabilities are averaged.

Legend: B images, R regions, D feature size, V vocabulary size.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from captioning.decoders.build import Decoder
from captioning.features.encoder import encoder_digest
from captioning.pictures.loading import view
from captioning.training.batches import FeatureBatches
from config import Config, UserError, refuse_longer
from model import Caption, Captioner


class EnsembleDecoder(keras.Model):
    """The stepping half of a decoder, over a tuple of features ``(B, R, D)``, one for each of ``decoders``."""

    attends = False

    def __init__(self, decoders: Sequence[Decoder]):
        super().__init__()
        self.decoders = list(decoders)
        self.built = True

    def init_state(self, features):
        states = [decoder.init_state(part) for decoder, part in zip(self.decoders, features, strict=True)]
        return {"image": [state.pop("image") for state in states], "members": states}

    def step(self, token_ids, state):
        probabilities, members = 0.0, []
        for decoder, image, member in zip(self.decoders, state["image"], state["members"], strict=True):
            logits, member = decoder.step(token_ids, {"image": image, **member})
            probabilities += ops.softmax(ops.cast(logits, "float32"), axis=-1) / len(self.decoders)
            members.append({name: part for name, part in member.items() if name != "image"})
        # A word that no member can imagine has no logarithm.
        return ops.log(ops.maximum(probabilities, 1e-30)), {"image": state["image"], "members": members}


class EnsembleBatches(keras.utils.PyDataset):
    """Batches of the same images from the store of each member: ``((features, ...),)``."""

    def __init__(self, members: Sequence[FeatureBatches]):
        super().__init__(workers=members[0].workers, max_queue_size=4)
        self.members = members

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, index: int):
        return (tuple(member[index][0] for member in self.members),)


class Ensemble(Captioner):
    """Captioners that decode together; settings and vocabulary are those of the first.

    Each of the ``members`` has a decoder and features here for each of the views (see ``images.view``), of which ``views``
    has the numbers.
    """

    def __init__(self, captioners: Sequence[Captioner], views: int = 1):
        """Raises UserError when the captioners' vocabularies or image sizes differ."""
        first = captioners[0]
        for member in captioners[1:]:
            if member.vocabulary.words != first.vocabulary.words:
                raise UserError("--model: these captioners know different words, so they cannot decode together")
            if member.config.image_size != first.config.image_size:
                raise UserError("--model: these captioners take images of different sizes (image_size)")
        decoders = [member.decoder for member in captioners for _ in range(views)]
        super().__init__(first.config, first.vocabulary, first.encoder, EnsembleDecoder(decoders))
        self.members, self.views = list(captioners), [*range(views)] * len(captioners)
        self._digests = [
            encoder_digest(member.encoder, member.config) + str(member.config.feature_grid) for member in captioners
        ]

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        """The features of each member's views, of RGB pixels uint8 ``(B, S, S, 3)``; equal encoders run once."""
        numbers = range(1, max(self.views) + 1)
        seen = [pixels, *(np.stack([view(picture, number) for picture in pixels]) for number in numbers)]
        found: dict[str, list[np.ndarray]] = {}
        for digest, member in zip(self._digests, self.members, strict=True):
            if digest not in found:
                found[digest] = [member.encode(each) for each in seen]
        return tuple(features for digest in self._digests for features in found[digest])

    def caption(
        self, features: tuple[np.ndarray, ...] | EnsembleBatches, config: Config | None = None
    ) -> list[list[Caption]]:
        """As ``Captioner.caption``, of a tuple of features, one for each member, or of their stores' batches.

        Raises UserError when the captions may become longer than a member can keep in mind.
        """
        for member in self.members:
            refuse_longer(member.config, config or self.config)
        if isinstance(features, tuple) and not len(features[0]):
            return []
        return super().caption(features, config)


def load_captioners(paths: Sequence[Path], views: int = 1) -> Captioner:
    """The captioner of one bundle or run folder, or the ensemble of several, or of several views. Raises UserError."""
    captioners = [Captioner.load(path) for path in paths]
    return Ensemble(captioners, views) if len(captioners) * views > 1 else captioners[0]
