"""The captioner (encoder, decoder and vocabulary) turns pictures into captions. The ensemble joins several captioners.

    pixels (B, S, S, 3)
      --encoder-->        features (B, R, D)      captioning/features/encoder.py
      --decoder-->        words, one by one       captioning/decoders/
      --search-->         token ids (B, K, L)     captioning/search/
      --vocabulary-->     captions                captioning/words/vocabulary.py

Legend: B images, S pixels per side, R regions, D feature size, K captions per image, T tokens of a given caption, L
longest caption in tokens (``max_caption_length`` words and ``<end>``).

The encoder runs once per image. Nothing after it needs the pixels. A search calls the decoder once per word.
A captioner is kept in one file, the bundle (``captioning/storage/bundles.py``).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from captioning.base.errors import UserError
from captioning.base.files import load_arrays, save_arrays
from captioning.command_line.resolving import refuse_longer, refuse_stored_features
from captioning.concepts.agreement import Reader
from captioning.concepts.decoder import ConceptDecoder
from captioning.concepts.detector import Concepts
from captioning.confidence.signals import Signals, Subspace
from captioning.confidence.stored import Confidence
from captioning.decoders.base import Decoder
from captioning.decoders.build import build_decoder
from captioning.decoders.ensemble import EnsembleDecoder
from captioning.features.batches import DrawnBatches, EnsembleBatches, FeatureBatches
from captioning.features.digests import encoder_digest
from captioning.features.folding import FoldedEncoder
from captioning.features.precomputed import StoredFeatures
from captioning.features.spreading import predict, predict_on_batch
from captioning.features.weight_files import save_weights
from captioning.pictures.loading import view
from captioning.search.captions import Caption, read_ids, spelled, weights_of_words
from captioning.search.compiled import Judge, Search
from captioning.search.hypotheses import IMPOSSIBLE
from captioning.search.sampling import draws_for
from captioning.storage import bundles
from captioning.words.constraints import asking, check_constraints
from captioning.words.padding import pad
from captioning.words.vocabulary import Vocabulary
from config import Config, DecodingSettings

# Searches with constraints that a captioner keeps compiled, the last ones. Each other constraint needs another search.
_KEPT = 8

# The features of one search: a float array (B, R, D), or for an ensemble a tuple of such arrays.
Features = np.ndarray | tuple[np.ndarray, ...]


class Captioner:
    """Encoder, decoder and vocabulary of one trained run, with all settings of the run.

    ``confidence`` gives captions the probability that they are right. It is None until ``evaluate.py --fit-confidence``
    has put one into the bundle. ``concepts`` say which words fit a picture. They are None unless ``train.py --stage
    concepts`` was the last stage.
    """

    def __init__(
        self, config: Config, vocabulary: Vocabulary, encoder: keras.Model, decoder: Decoder | EnsembleDecoder
    ):
        self.config, self.vocabulary, self.encoder, self.decoder = config, vocabulary, encoder, decoder
        self.confidence: Confidence | None = None
        self.concepts: Concepts | None = None
        self.members = [self]  # an ensemble has several
        self._encode = FoldedEncoder(encoder)
        self._searches: dict[tuple[Any, ...], Search] = {}

    @classmethod
    def untrained(
        cls,
        config: Config,
        vocabulary: Vocabulary,
        encoder: keras.Model,
        pretrained: Mapping[str, np.ndarray] | None = None,
    ) -> "Captioner":
        """A captioner with the given ``encoder`` and a new decoder.

        ``pretrained``: the arrays of a word embedding that is not learned (see ``captioning/embeddings/arrays.py``).
        """
        regions, feature_size = encoder.output_shape[1:]
        padded = isinstance(encoder, StoredFeatures)
        decoder = build_decoder(config, len(vocabulary), regions, feature_size, pretrained, padded)
        return cls(config, vocabulary, encoder, decoder)

    @property
    def precision(self) -> str:
        """The number format in which the encoder computes."""
        return "float32"

    @property
    def lanes(self) -> int:
        """How many batches it captions at a time. Keras spreads each batch over all cores."""
        return 1

    @property
    def attends(self) -> bool:
        """Whether there is attention to show."""
        return self.decoder.attends

    @property
    def regions(self) -> int:
        """The regions of an image that the decoder may look at."""
        return int(self.decoder.sizes["regions"])

    @property
    def is_judged(self) -> bool:
        """Whether captions have a confidence."""
        return self.confidence is not None

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Features ``(B, R, D)`` of the dtype ``feature_dtype``, from RGB pixels ``(B, S, S, 3)``.

        The pixels are uint8, or float from 0 to 255. The encoder's weights must not change after the first call.
        Raises UserError if the captioner reads stored features, which come without an encoder.
        """
        refuse_stored_features(self.config, "features")
        return self._encode(pixels).astype(self.config.feature_dtype)

    def caption(
        self,
        features: Features | FeatureBatches | EnsembleBatches,
        decoding: DecodingSettings | None = None,
        *,
        prefix: str | None = None,
        force_words: Sequence[str | Sequence[str]] | None = None,
        bad_words: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> list[list[Caption]]:
        """The captions of each image, best first: ``num_captions``, or fewer if fewer sentences are possible.

        With ``num_captions`` at 0 there are ``beam_size`` of them, or one if captions are drawn (``do_sample``).

        ``features``: a float array ``(B, R, D)`` that is searched at once, or batches from a store. The last batch may
        be filled up with copies of its last image, which get captions too. ``decoding``: the settings of the search;
        None: those of the run.

        The others take the place of settings. ``prefix``: the words that every caption starts with. ``force_words``
        (``include``): the words and phrases that every caption contains; a list of phrases means one of them.
        ``bad_words`` (``exclude_words``): the words and phrases that no caption contains. Other words need another
        search, which is compiled first. Raises UserError if no caption can be as they ask, or if none is found.

        ``names``: those of the images in an array, which decide the draws of ``do_sample`` together with
        ``sample_seed``; None: their numbers. Batches bring names of their own.
        """
        if not len(features):
            return []
        decoding = asking(decoding or self.config, prefix, force_words, bad_words)
        found = _run(self._search(decoding), features, decoding, names)  # (B, K, L), (B, K), (B, K), perhaps (B, K)
        return [self._spelled(image)[: decoding.num_captions or None] for image in zip(*found, strict=True)]

    def check(self, decoding: DecodingSettings) -> None:
        """Raise UserError if ``decoding`` asks for words that no caption can hold, or for what no concept has learned.

        Excluded words that the captioner does not know are named on stderr.
        """
        self.stepper(decoding)
        check_constraints(self.vocabulary, decoding)

    def observe(
        self, features: FeatureBatches, subspace: Subspace, decoding: DecodingSettings | None = None
    ) -> tuple[list[Caption], np.ndarray]:
        """The best caption of each image, and its signals, from which a confidence is made.

        The signals are float32 ``(images, len(SIGNALS))`` (see ``captioning/confidence/inputs.py``). ``features`` and
        ``decoding`` are as in ``caption``. ``subspace``: where the training pictures lie.
        """
        decoding = decoding or self.config
        judge = Signals(subspace, self.reader())
        search = Search(self.stepper(decoding), decoding, judge, self.vocabulary, self.ranker(decoding))
        search.compile()
        *found, signals = _run(search, features, decoding)
        return [self._spelled(image)[0] for image in zip(*found, strict=True)], signals[:, 0]

    def new_search(self, decoding: DecodingSettings) -> Search:
        """The search with these settings, not compiled yet. It gives captions their confidence, if there is one."""
        judge = None if self.confidence is None else self.confidence.judge(self.reader())
        return Search(self.stepper(decoding), decoding, judge, self.vocabulary, self.ranker(decoding))

    def stepper(self, decoding: DecodingSettings) -> Decoder | ConceptDecoder | EnsembleDecoder:
        """What a search with these settings steps through: the decoder, with the visual concepts if they count."""
        if self.concepts is None or not self.concepts.count_in(decoding):
            return self.decoder
        return ConceptDecoder(self.decoder, self.concepts, decoding, len(self.vocabulary))

    def reader(self) -> Reader | None:
        """What reads captions as the visual concepts would, if there are any."""
        return None if self.concepts is None else Reader(self.concepts, len(self.vocabulary))

    def ranker(self, decoding: DecodingSettings) -> Judge | None:
        """What ranks the captions of a search beside their score, if it counts. Consensus ranks by votes alone."""
        return self.reader() if decoding.agreement_weight and not decoding.votes else None

    def _spelled(self, found: Sequence[np.ndarray]) -> list[Caption]:
        """The captions of one image, from the parts of a search's result."""
        return spelled(self.vocabulary, found, self.confidence.unsure_below if self.confidence else 0.0)

    def _search(self, decoding: DecodingSettings) -> Search:
        """The compiled search with these settings. The length penalty is a variable, and draws are inputs."""
        key = (id(self.confidence), *(decoding.decoding() | {"length_penalty": None, "sample_seed": None}).values())
        if key not in self._searches:
            if decoding.is_constrained:
                constrained = [key for key, search in self._searches.items() if search.phrases.is_constrained]
                for old in constrained[: -_KEPT + 1]:
                    del self._searches[old]
            search = self.new_search(decoding)
            search.compile()
            self._searches[key] = search
        return self._searches[key]

    def attend(self, features: np.ndarray, captions: Sequence[str]) -> list[np.ndarray]:
        """Where the decoder looks while it predicts each word of ``captions``, and then ``<end>``.

        ``features (B, R, D)`` and B captions give B arrays float32 ``(words + 1, R)``. With decoder=adaptive an array
        has one more column, for the sentinel. Each row sums to one. The decoder reads the given captions (teacher
        forcing); the weights are the same as in decoding. Raises UserError for a decoder without attention.
        """
        if not self.attends:
            raise UserError(
                f"decoder: {self.config.decoder} has no attention that could be shown; take a run with another decoder"
            )
        ids = pad(read_ids(self.vocabulary, captions))
        _, weights = self.decoder.attend(ops.convert_to_tensor(features), ops.convert_to_tensor(ids))
        return weights_of_words(self.vocabulary, captions, ops.convert_to_numpy(weights))  # (B, T, R)

    def save(self, path: Path, half: bool = False) -> None:
        """Write the bundle ``path`` as a whole or not at all. ``half``: kernels as float16, which halves the file."""
        with bundles.writing(path, "captioner", self.config, self.vocabulary, self.encoder, half) as folder:
            save_weights(self.decoder, folder / "decoder.weights.h5")
            if self.config.embedding != "learned":
                save_arrays(folder / "embedding.npz", self.decoder.embedding.pretrained())
            if self.confidence is not None:
                self.confidence.save(folder)
            if self.concepts is not None:
                self.concepts.save_in(folder, self.vocabulary)

    @classmethod
    def load(cls, path: Path, with_confidence: bool = True) -> "Captioner":
        """The captioner in the bundle ``path``, or in the bundle of the run folder ``path``.

        ``with_confidence``: also load its confidence, if there is one.
        Raises UserError if the bundle is missing, damaged or not of a captioner.
        """
        with bundles.reading(path, "captioner") as (folder, config, vocabulary, encoder):
            pretrained = load_arrays(folder / "embedding.npz") if config.embedding != "learned" else {}
            captioner = cls.untrained(config, vocabulary, encoder, pretrained)
            bundles.load_weights(captioner.decoder, folder / "decoder.weights.h5", path)
            captioner.confidence = Confidence.load(folder, path) if with_confidence else None
            if config.stage == "concepts":
                size = int(encoder.output_shape[-1])
                padded = isinstance(encoder, StoredFeatures)
                captioner.concepts = Concepts.load_from(folder, path, vocabulary, size, padded)
            if captioner.concepts is None and captioner.confidence is not None and captioner.confidence.needs_concepts:
                raise UserError(
                    f"{path}: its confidence reads visual concepts, and it has none; fit a new one with evaluate.py "
                    "--fit-confidence"
                )
        return captioner


class Ensemble(Captioner):
    """Captioners that choose each word together: the probabilities of the next word are averaged.

    Each captioner may see several views of an image (``captioning.pictures.loading.view``). The features are a tuple of
    arrays: for each captioner one array per view. Settings and vocabulary are those of the first captioner. An ensemble
    has no confidence. The confidences of its members were fitted on their own probabilities, not on the averaged ones.
    """

    def __init__(self, captioners: Sequence[Captioner], views: int = 1):
        """``views``: how many views each captioner sees. Raises UserError if vocabularies or image sizes differ."""
        first = captioners[0]
        for member in captioners[1:]:
            if (member.vocabulary.words, member.vocabulary.splitting) != (
                first.vocabulary.words,
                first.vocabulary.splitting,
            ):
                raise UserError(
                    "--model: these captioners have different words, so they cannot decode together; name captioners "
                    "that were trained on the same data"
                )
            if member.config.image_size != first.config.image_size:
                raise UserError(
                    "--model: these captioners take images of different sizes (image_size); name captioners of one size"
                )
        # The member of each part of the features.
        self._seeing = [member for member in captioners for _ in range(views)]
        decoder = EnsembleDecoder([member.decoder for member in self._seeing])
        super().__init__(first.config, first.vocabulary, first.encoder, decoder)
        self.members = list(captioners)
        self.views = [*range(views)] * len(captioners)  # the view of each part of the features
        self._digests = [
            encoder_digest(member.encoder, member.config.encoder) + str(member.config.feature_grid)
            for member in captioners
        ]

    def stepper(self, decoding: DecodingSettings) -> Decoder | ConceptDecoder | EnsembleDecoder:
        return EnsembleDecoder([member.stepper(decoding) for member in self._seeing])

    def ranker(self, decoding: DecodingSettings) -> Judge | None:
        """The mean of the members that have visual concepts, over their views."""
        rankers = [member.ranker(decoding) for member in self._seeing]
        places = [place for place, ranker in enumerate(rankers) if ranker is not None]
        if not places:
            return None

        def mean(features, found):
            return sum(rankers[place](features[place], found) for place in places) / len(places)  # type: ignore[misc]

        return mean

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, ...]:  # type: ignore[override]  # for ``caption`` alone
        """The float features ``(B, R, D)`` of each view for each captioner, from RGB pixels uint8 ``(B, S, S, 3)``.

        Captioners with the same encoder share its features.
        """
        numbers = range(1, max(self.views) + 1)
        seen = [pixels, *(np.stack([view(picture, number) for picture in pixels]) for number in numbers)]
        found: dict[str, list[np.ndarray]] = {}
        for digest, member in zip(self._digests, self.members, strict=True):
            if digest not in found:
                found[digest] = [member.encode(each) for each in seen]
        return tuple(features for digest in self._digests for features in found[digest])

    def caption(
        self,
        features: Features | FeatureBatches | EnsembleBatches,
        decoding: DecodingSettings | None = None,
        **words: Any,
    ) -> list[list[Caption]]:
        """The captions of each image, best first, as ``Captioner.caption`` gives them.

        ``features``: a tuple as ``encode`` gives it, or batches of such tuples from several stores.
        ``words``: prefix, force_words, bad_words and names.
        Raises UserError if the captions may become longer than a captioner can process.
        """
        for member in self.members:
            refuse_longer(member.config, decoding or self.config)
        if isinstance(features, tuple) and not len(features[0]):
            return []
        return super().caption(features, decoding, **words)


def _run(
    search: Search,
    features: Features | FeatureBatches | EnsembleBatches,
    decoding: DecodingSettings,
    names: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """The parts that ``search`` gives for ``features``: tokens, log_probs, scores and perhaps what its judge says.

    ``names``: see ``Captioner.caption``. Raises UserError if an image has no caption that is as the settings ask.
    """
    search.length_penalty.assign(decoding.length_penalty)
    draw = partial(
        draws_for,
        seed=decoding.sample_seed,
        samples=max(1, decoding.num_captions),
        max_length=decoding.max_caption_length,
    )
    if isinstance(features, keras.utils.PyDataset):
        batches = DrawnBatches(features, draw) if decoding.do_sample else features
        found = [np.asarray(part) for part in predict(search, batches)]
    else:  # for one batch, predict would take about as long to prepare as the search takes
        inputs: Any = features
        if decoding.do_sample:
            images = len(features[0] if isinstance(features, tuple) else features)
            inputs = (features, draw(names or [str(number) for number in range(images)]))
        found = [np.asarray(part) for part in predict_on_batch(search, inputs)]
    if search.phrases.is_constrained and (found[1][:, 0] <= IMPOSSIBLE).any():
        raise UserError(
            "include, prefix, exclude_words: no caption was found that is as they ask; ask for fewer words, or set "
            f"no_repeat_ngram to 0 and max_caption_length higher (they are {decoding.no_repeat_ngram} and "
            f"{decoding.max_caption_length})"
        )
    return found


def load_captioners(paths: Sequence[Path], views: int = 1) -> Captioner:
    """The captioner of one bundle or run folder. Several paths or several ``views`` give an ensemble.

    Raises UserError as ``Captioner.load`` and ``Ensemble`` do.
    """
    captioners = [Captioner.load(path) for path in paths]
    return Ensemble(captioners, views) if len(captioners) * views > 1 else captioners[0]
