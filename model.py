"""The captioner: what turns pictures into captions, and the one file it travels in.

    pixels (B, S, S, 3) --encoder--> features (B, R, D) --decoder, searched--> token ids --vocabulary--> captions

The encoder runs once per image (``encoders.build_encoder``); the decoder is one of ``decoders``; greedy and beam search
(``decoding``) walk its ``step``. The file is described in ``bundles``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.base.files import load_arrays, save_arrays
from captioning.command_line.resolving import refuse_longer
from captioning.decoders.build import Decoder, build_decoder
from captioning.decoders.ensemble import EnsembleDecoder
from captioning.features.batches import EnsembleBatches, FeatureBatches
from captioning.features.digests import encoder_digest
from captioning.features.folding import FoldedEncoder
from captioning.pictures.loading import view
from captioning.search import search as decoding
from captioning.storage import bundles
from captioning.words.padding import pad
from captioning.words.vocabulary import Vocabulary
from config import Config


@dataclass(frozen=True)
class Caption:
    """One caption of an image. ``log_prob``: natural log of its probability; ``score``: what it was ranked by."""

    text: str
    log_prob: float
    score: float


class Search(keras.Model):
    """Greedy or beam search as a Keras model, ``features (B, R, D) -> Hypotheses``, so that ``predict`` compiles it."""

    def __init__(self, decoder: Decoder, config: Config):
        super().__init__()
        self.decoder = decoder
        self.greedy = config.beam_size == 1
        self.consensus = config.votes
        # A variable, so that another penalty asks for no other compilation.
        self.length_penalty = self.add_weight(
            name="length_penalty",
            initializer=keras.initializers.Constant(config.length_penalty),
            dtype="float32",
            trainable=False,
        )
        self.options = {
            "max_length": config.max_caption_length,
            "min_length": config.min_length,
            "no_repeat_ngram": config.no_repeat_ngram,
        }
        if not self.greedy:
            self.options["beam_size"] = config.beam_size
        self.built = True

    def call(self, features):
        search = decoding.greedy_search if self.greedy else decoding.beam_search
        state = self.decoder.init_state(features)
        batch = ops.shape(keras.tree.flatten(features)[0])[0]  # an ensemble takes several features
        length_penalty = ops.convert_to_tensor(self.length_penalty)
        found = search(self.decoder.step, state, batch, length_penalty=length_penalty, **self.options)
        return tuple(decoding.consensus(found) if self.consensus else found)


class Captioner:
    """Encoder, decoder and vocabulary of one trained run, with the settings it was trained with."""

    def __init__(self, config: Config, vocabulary: Vocabulary, encoder: keras.Model, decoder: Decoder):
        self.config, self.vocabulary, self.encoder, self.decoder = config, vocabulary, encoder, decoder
        self.members = [self]  # an ensemble has several
        self._encode = FoldedEncoder(encoder)
        self._searches: dict[tuple, Search] = {}

    @classmethod
    def untrained(
        cls,
        config: Config,
        vocabulary: Vocabulary,
        encoder: keras.Model,
        pretrained: Mapping[str, np.ndarray] | None = None,
    ) -> "Captioner":
        """A captioner around ``encoder`` with fresh decoder weights and, unless it is learned, a ``pretrained`` embedding."""
        decoder = build_decoder(config, len(vocabulary), *encoder.output_shape[1:], pretrained)
        return cls(config, vocabulary, encoder, decoder)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Features ``(B, R, D)`` in the run's feature dtype, of RGB pixels ``(B, S, S, 3)`` from 0 to 255.

        The encoder's weights must not change after the first call.
        """
        return self._encode(pixels).astype(self.config.feature_dtype)

    def caption(self, features: np.ndarray | FeatureBatches, config: Config | None = None) -> list[list[Caption]]:
        """The ``beam_size`` best captions of each row of ``features``, best first; one with greedy search.

        ``features`` ``(B, R, D)``, searched at once, or batches of a store, of whose filled-up last one all rows are captioned.
        ``config`` holds the decoding settings, by default those of the run.
        """
        if not len(features):
            return []
        config = config or self.config
        search = self._search(config)
        search.length_penalty.assign(config.length_penalty)
        if isinstance(features, keras.utils.PyDataset):
            hypotheses = search.predict(features, verbose=0)
        else:  # predict would be as long getting ready as the search takes
            hypotheses = search.predict_on_batch(features)
        tokens, log_probs, scores = (np.asarray(part) for part in hypotheses)
        captions = []
        for row in range(len(tokens)):
            found = [
                Caption(self.vocabulary.decode(ids), float(log_prob), float(score))
                for ids, log_prob, score in zip(tokens[row], log_probs[row], scores[row], strict=True)
            ]
            # With fewer sentences than beams the rest of the beam is impossible; the best one always counts.
            captions.append(found[:1] + [c for c in found[1:] if c.log_prob > decoding.BANNED / 2])
        return captions

    def attend(self, features: np.ndarray, captions: list[str]) -> list[np.ndarray]:
        """Where the decoder looks while it predicts each word of ``captions``, then ``<end>``.

        One float32 array ``(T, R)`` per row of ``features (B, R, D)`` and its caption, T words and ``<end>``; of an
        adaptive decoder ``(T, R + 1)``, the last being the sentinel's. Each row sums to one. The captions are fed to the
        decoder, which gives the weights of decoding. Raises UserError for a decoder that has none.
        """
        if not self.decoder.attends:
            raise UserError(f"decoder: {self.config.decoder} has no attention that could be shown; take another run")
        rows = [self.vocabulary.encode(text, max_length=len(text))[:-1] for text in captions]  # no caption is cut
        weights = self.decoder.attend(ops.convert_to_tensor(features), ops.convert_to_tensor(pad(rows)))[1]
        weights = ops.convert_to_numpy(weights).astype("float32")
        # A word of several WordPieces gets the mean of theirs.
        lengths = [np.asarray([*self.vocabulary.lengths(text), 1]) for text in captions]
        return [
            np.add.reduceat(weight[: len(row)], np.cumsum(of_words) - of_words) / of_words[:, None].astype("float32")
            for weight, row, of_words in zip(weights, rows, lengths, strict=True)
        ]

    def _search(self, config: Config) -> Search:
        key = tuple((config.decoding() | {"length_penalty": None}).values())
        if key not in self._searches:
            search = Search(self.decoder, config)
            search.compile()
            self._searches[key] = search
        return self._searches[key]

    def save(self, path: Path, half: bool = False) -> None:
        """Write the bundle, or nothing; with ``half`` at half its size, its weights rounded to float16."""
        with bundles.writing(path, "captioner", self.config, self.vocabulary, self.encoder, half) as folder:
            self.decoder.save_weights(folder / "decoder.weights.h5")
            if self.config.embedding != "learned":
                save_arrays(folder / "embedding.npz", self.decoder.embedding.pretrained())

    @classmethod
    def load(cls, path: Path) -> "Captioner":
        """Read a bundle, or that of a run folder. Raises UserError when it is missing, damaged or not of a captioner."""
        with bundles.reading(path, "captioner") as (folder, config, vocabulary, encoder):
            pretrained = load_arrays(folder / "embedding.npz") if config.embedding != "learned" else {}
            captioner = cls.untrained(config, vocabulary, encoder, pretrained)
            bundles.load_weights(captioner.decoder, folder / "decoder.weights.h5", path)
        return captioner


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
            encoder_digest(member.encoder, member.config.encoder) + str(member.config.feature_grid) for member in captioners
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
