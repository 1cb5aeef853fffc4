"""The interface of the decoders: what every decoder offers, and the parts that several of them share.

Legend: B images, N captions, R regions, D feature size, T time, E embedding size, H hidden size, V vocabulary size.

Training reads whole captions (teacher forcing):

    decoder(features (B, R, D), token_ids (B, T)) -> logits (B, T, V)

The logits at t predict the word after ``token_ids[:, t]``. They depend on no later token. Padding comes at the end of a
row, so no mask is needed. The loss leaves padding out. Features and logits are float, and token ids are int.

It does so in three steps, which a subclass has. X is a width of its own:

    see(features (B, R, D)) -> image, a nest of tensors: what depends on the image alone
    read(image, token_ids (N, T)) -> (vectors (N, T, X), weights); N may be a multiple of B
    word_logits(vectors (..., X)) -> logits (..., V)

So training sees each image once for all its captions, and computes logits for words only, not for padding. A
``LoopDecoder`` (loops.py) also leaves out most padding in its loop over the words.

Images may have different numbers of regions (``padded``). Features then end in regions that only fill up, which change
no logit (see ``captioning/base/regions.py``). ``see`` asks ``mask`` for them.

Decoding goes word by word and gives the same logits:

    init_state(features (B, R, D)) -> state
    step(token_ids (B,), state) -> (logits (B, V), next state)

A state is a dict of nests (dicts, lists and tuples) of tensors. The first axis of each tensor is the batch.
Two entries have a fixed meaning:

    "image"      what depends on the image alone. It is optional. ``step`` returns it unchanged, and a search never
                 reorders it.
    "embedding"  the state of the word embedding (see ``captioning/embeddings/base.py``)

Decoders that look at regions (``attends``) also tell where they look:

    attend(features (B, R, D), token_ids (B, T)) -> (logits (B, T, V), weights (B, T, R))

    look(token_ids (B,), state) -> (logits (B, V), next state, weights (B, R))

``look`` is a ``step`` that also gives the weights. A decoder with a sentinel has one more weight: ``R + 1``.

A new decoder is a file ``decoders/NAME.py`` that ends with ``DECODER = YourDecoder``, and NAME among the kinds of
decoders in config.py. docs/architecture.md has an example. ``build.py`` finds the file by its name and gives the sizes.
"""

from typing import Any

import keras
from keras import layers, ops

from captioning.base.backend import compiles_scans
from captioning.base.regions import masked, mean_over_regions, region_mask
from captioning.embeddings.base import WordEmbedding
from captioning.embeddings.learned import LearnedEmbedding


class Decoder(keras.Model):
    """The base of all decoders. It keeps the sizes.

    A subclass creates and builds its layers in ``__init__``. Two of them are ``word_dropout`` and ``embedding``, which
    is the given embedding or a learned one. ``__init__`` may have further arguments. Each gets the setting of the same
    name, which only some decoders read. The subclass adds it to ``sizes``, because a saved decoder is rebuilt from
    these.
    """

    # Whether the decoder has ``attend``.
    attends = False
    # Whether its attention has one more weight, that of a sentinel.
    has_sentinel = False
    # Whether most of the work depends on the image alone. Then a batch should hold all captions of an image.
    by_image = False
    # Whether a state has room for a fixed number of tokens only. ``__init__`` takes this number as ``max_length``.
    bounded = False

    embedding: WordEmbedding
    word_dropout: layers.Dropout

    def __init__(
        self,
        vocabulary_size: int,
        regions: int,
        feature_size: int,
        embedding_size: int,
        hidden_size: int,
        dropout: float,
        padded: bool = False,
        **kwargs: Any,
    ):
        """``padded``: some regions only fill up. ``regions`` is then the largest number of regions in training."""
        super().__init__(**kwargs)
        self.sizes: dict[str, Any] = {
            "vocabulary_size": vocabulary_size,
            "regions": regions,
            "feature_size": feature_size,
            "embedding_size": embedding_size,
            "hidden_size": hidden_size,
            "dropout": dropout,
            "padded": padded,
        }

    def mask(self, features):
        """Bool ``(B, R)``, false where a region of ``features (B, R, D)`` only fills up. None: no region does."""
        return region_mask(features) if self.sizes["padded"] else None

    def embed(self, token_ids, training=None):
        """Word vectors, float ``(N, T, E)``, of int ``token_ids (N, T)``, with dropout in training."""
        return self.word_dropout(self.embedding(token_ids), training=training)

    def call(self, features, token_ids, training=None, image_of=None):
        """Float logits ``(N, T, V)`` of the next words, from float ``features (B, R, D)`` and int ``token_ids (N, T)``.

        ``image_of`` int ``(N,)``: the image of each caption, as its row in ``features``. What depends on the image
        alone is then computed once for all captions of the image. None: N = B, and caption i is about image i.
        """
        image = of_captions(self.see(features, training), image_of)
        return self.word_logits(self.read(image, token_ids, training)[0], training)

    def see(self, features, training=None):
        """What depends on the image alone: a nest of float tensors ``(B, ...)``, from float ``features (B, R, D)``."""
        raise NotImplementedError

    def see_both(self, features):
        """``see`` in training and ``see`` without dropout. What is the same in both may be computed once."""
        return self.see(features, True), self.see(features, False)

    def read(self, image, token_ids, training=None):
        """``(vectors (N, T, X), weights)``: what ``word_logits`` needs to predict the word after each of the tokens.

        ``image`` is the nest of ``see``, and ``token_ids`` are int ``(N, T)``. N is B, or a multiple of it. Captions of
        the same image then follow one another. ``weights`` are those of ``attend``. They are None without ``attends``.
        """
        raise NotImplementedError

    def word_logits(self, vectors, training=None):
        """Float logits ``(..., V)`` of float ``vectors (..., X)`` from ``read``."""
        raise NotImplementedError

    def attend(self, features, token_ids, training=None, image_of=None):
        """``(logits (N, T, V), weights (N, T, R))``, both float: the logits, and where the decoder looks for each word.

        The arguments are those of ``call``. The weights of a word sum to one. With a sentinel they are ``(N, T, R +
        1)``. Only decoders with ``attends`` have this method.
        """
        image = of_captions(self.see(features, training), image_of)
        vectors, weights = self.read(image, token_ids, training)
        return self.word_logits(vectors, training), weights

    def init_state(self, features):
        """The state before the first word, for float ``features (B, R, D)``."""
        raise NotImplementedError

    def step(self, token_ids, state):
        """``(float logits (B, V), next state)`` after one more token, int ``(B,)``. There is no dropout."""
        raise NotImplementedError

    def get_config(self):
        learned = isinstance(self.embedding, LearnedEmbedding)
        embedding = None if learned else keras.saving.serialize_keras_object(self.embedding)
        return {**super().get_config(), **self.sizes, "embedding": embedding}

    @classmethod
    def from_config(cls, config):
        embedding = config["embedding"] and keras.saving.deserialize_keras_object(config["embedding"])
        return cls(**{**config, "embedding": embedding})


class OneVectorDecoder(Decoder):
    """The base of decoders that read the image as one vector: all regions side by side, scaled and projected to E.

    Where images have different numbers of regions, the vector is the mean of an image's regions.
    """

    def __init__(
        self,
        vocabulary_size: int,
        regions: int,
        feature_size: int,
        embedding_size: int,
        hidden_size: int,
        dropout: float,
        embedding: WordEmbedding | None = None,
        image_scale: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(vocabulary_size, regions, feature_size, embedding_size, hidden_size, dropout, **kwargs)
        self.sizes["image_scale"] = image_scale
        size = feature_size if self.sizes["padded"] else regions * feature_size
        self.flatten = layers.Reshape((size,))
        self.image_dropout = layers.Dropout(dropout)
        self.image_dense = layers.Dense(embedding_size, activation="relu", name="image")
        self.embedding = embedding or LearnedEmbedding(vocabulary_size, embedding_size, name="words")
        self.word_dropout = layers.Dropout(dropout)
        self.image_dense.build((None, size))

    def see(self, features, training=None):
        """The image vectors, float ``(B, E)``, of float ``features (B, R, D)``: scale, dropout, dense, ReLU."""
        mask = self.mask(features)
        flat = (
            self.flatten(features) if mask is None else mean_over_regions(ops.cast(features, self.compute_dtype), mask)
        )
        flat = flat * self.sizes["image_scale"]  # (B, R * D), or (B, D)
        return self.image_dense(self.image_dropout(flat, training=training))


class RegionDecoder(Decoder):
    """The base of decoders with attention over regions: projection of the regions, word embedding, output.

    A subclass has ``look`` in place of ``step``, and ``see_regions`` in place of ``see``.

    With a learned embedding the output is tied: a word's input vector also holds its output weights (Press and Wolf,
    2017, https://arxiv.org/abs/1608.05859). Other embeddings cannot do this. BERT's state of a prefix is not the vector
    of one word, and frozen vectors do not learn. With them the output has its own table, which has the size and the
    initial values of a learned embedding. ``untied_output`` gives a learned embedding such a table too. Then a
    comparison of embeddings differs in the inputs only.
    """

    attends = True
    by_image = True

    def __init__(
        self,
        vocabulary_size: int,
        regions: int,
        feature_size: int,
        embedding_size: int,
        hidden_size: int,
        dropout: float,
        embedding: WordEmbedding | None = None,
        untied_output: bool = False,
        **kwargs: Any,
    ):
        super().__init__(vocabulary_size, regions, feature_size, embedding_size, hidden_size, dropout, **kwargs)
        self.sizes["untied_output"] = untied_output
        self.supports_jit = compiles_scans()
        self.region_dense = layers.Dense(hidden_size, name="regions")
        self.region_norm = layers.LayerNormalization(name="regions_norm")
        self.region_dropout = layers.Dropout(dropout)
        self.embedding = embedding or LearnedEmbedding(
            vocabulary_size, embedding_size, scale=embedding_size**0.5, name="words"
        )
        self.word_dropout = layers.Dropout(dropout)
        start = keras.initializers.VarianceScaling(0.1, mode="fan_avg", distribution="uniform")
        self.readout = layers.Dense(embedding_size, kernel_initializer=start, name="readout")
        self.readout_dropout = layers.Dropout(dropout)
        self.output_bias = self.add_weight(shape=(vocabulary_size,), initializer="zeros", name="output_bias")
        self.output_table = None
        if embedding or untied_output:
            start = keras.initializers.RandomNormal(stddev=embedding_size**-0.5)
            self.output_table = self.add_weight(
                shape=(vocabulary_size, embedding_size), initializer=start, name="output_table"
            )
        self.region_dense.build((None, None, feature_size))
        self.region_norm.build((None, None, hidden_size))

    def project_regions(self, features):
        """Region vectors, float ``(B, R, H)``, of float ``features (B, R, D)``: dense, layer norm, ReLU."""
        return ops.relu(self.region_norm(self.region_dense(features)))

    def see_regions(self, regions, mask, training=None):
        """What ``see`` gives, from projected ``regions (B, R, H)`` and their ``mask (B, R)``, which may be None."""
        raise NotImplementedError

    def see(self, features, training=None):
        regions = self.region_dropout(self.project_regions(features), training=training)
        return self.see_regions(regions, self.mask(features), training)

    def see_both(self, features):
        regions, mask = self.project_regions(features), self.mask(features)
        dropped = self.region_dropout(regions, training=True)
        return self.see_regions(dropped, mask, True), self.see_regions(regions, mask, False)

    def word_logits(self, vectors, training=None):
        """Float logits ``(..., V)`` of float ``vectors (..., X)``: dense to E, dropout, times the output weights."""
        vectors = self.readout_dropout(self.readout(vectors), training=training)
        table = self.embedding.table if self.output_table is None else self.output_table
        return ops.matmul(vectors, ops.transpose(table)) + self.output_bias

    def look(self, token_ids, state):
        """``step`` with a third part: where the decoder looks for the next word, float ``(B, R)``, as in ``attend``."""
        raise NotImplementedError

    def step(self, token_ids, state):
        return self.look(token_ids, state)[:2]


def of_captions(parts, image_of):
    """A nest of tensors ``(B, ...)``, one row per image, as ``(N, ...)``, one row per caption.

    ``image_of`` int ``(N,)``: the image of each caption (see ``Decoder.call``). None: the nest stays as it is. The
    dtypes stay the same.
    """
    if image_of is None:
        return parts
    return keras.tree.map_structure(lambda part: ops.take(part, image_of, axis=0), parts)


def captions_each(image, token_ids):
    """How many of the captions ``token_ids (N, T)`` each image has, of a nest ``image (B, ...)``: N / B.

    Without images it is 1, because nothing may be divided by 0. An exported search is called so.
    """
    captions, images = ops.shape(token_ids)[0], ops.shape(keras.tree.flatten(image)[0])[0]
    if isinstance(captions, int) and isinstance(images, int):
        return max(captions, 1) // max(images, 1)
    return ops.maximum(captions, 1) // ops.maximum(images, 1)


def beside(image, token_ids):
    """The nest ``image (B, ...)`` with a row for each of the captions ``token_ids (N, T)``: ``(N, ...)``.

    Captions of the same image follow one another.
    """
    times = captions_each(image, token_ids)
    if isinstance(times, int) and times == 1:
        return image
    return keras.tree.map_structure(lambda part: ops.repeat(part, times, axis=0), image)


def look_together(score, query, image, captions):
    """Additive attention: ``(context (N, H), weights (N, R))``, where all captions of an image look at it together.

    ``query (N, A)``. ``image`` has "keys" ``(B, R, A)`` and "values" ``(B, R, H)``, and ``captions`` is N / B. All are
    float. ``image`` may also have a "mask", bool ``(B, R)``. ``score`` is a dense layer to one unit. Bahdanau et al.
    (2015), https://arxiv.org/abs/1409.0473, appendix A.1.2: e_i = w tanh(k_i + q), weights = softmax(e), context = the
    sum of weights_i v_i.
    """
    keys, values = image["keys"], image["values"]
    query = ops.reshape(query, (-1, captions, 1, query.shape[-1]))
    # Not keys[:, None] and [..., 0]: on TensorFlow the gradient of an index copies the tensor in each step.
    scores = score(ops.tanh(ops.expand_dims(keys, 1) + query))  # (B, N / B, R, A) -> (B, N / B, R, 1)
    scores = ops.squeeze(scores, -1)
    weights = ops.softmax(masked(scores, for_queries(image.get("mask"))), axis=-1)
    context = ops.reshape(ops.matmul(weights, values), (-1, values.shape[-1]))  # (B, N / B, H) -> (N, H)
    return context, ops.reshape(weights, (-1, ops.shape(values)[1]))


def for_queries(mask):
    """A ``mask (B, R)`` as ``(B, 1, R)``, for the scores of all queries; None stays None."""
    return None if mask is None else mask[:, None]


def with_mask(image, mask):
    """The dict ``image`` with the entry "mask", bool ``(B, R)``, unless ``mask`` is None."""
    return image if mask is None else {**image, "mask": mask}


def lstm(gates, cell):
    """One step of an LSTM: ``(hidden, cell)``, each float ``(..., H)``.

    ``gates`` float ``(..., 4 H)`` is the sum of all inputs, in the order input, forget, new, output. ``cell`` float
    ``(..., H)`` is the cell of the last step. Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al.
    (2000).
    """
    inward, forget, new, outward = ops.split(gates, 4, axis=-1)
    cell = ops.sigmoid(forget) * cell + ops.sigmoid(inward) * ops.tanh(new)
    return ops.sigmoid(outward) * ops.tanh(cell), cell


def forget_bias(shape, dtype=None):
    """Biases, float ``(4 H,)``, of the gates of ``lstm``: 1 for the forget gate (Jozefowicz et al., 2015), 0 else."""
    size = shape[0] // 4
    return ops.concatenate([ops.zeros((size,)), ops.ones((size,)), ops.zeros((2 * size,))])


def zero_state(cell, features) -> list:
    """The first state of a Keras ``cell`` for ``features (B, R, D)``: a list of float zeros ``(B, units)``."""
    return cell.get_initial_state(batch_size=ops.shape(features)[0])
