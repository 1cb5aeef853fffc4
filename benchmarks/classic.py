"""The way of the classic Keras captioning tutorials, for comparison: one row per prefix, one ``predict`` per word.

The decoders have the same layers and sizes as ours (``captioning/decoders/``), so weights can be copied. Only the
feeding differs. In training, every prefix of a caption is a row. It is padded in front to the longest caption, and its
target is the next word, one-hot. In captioning, each image, word and beam takes one ``predict`` of the padded words so
far.
Legend: B rows, L longest prefix, D feature size, V vocabulary size.
"""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from captioning.decoders.base import Decoder
from captioning.words.vocabulary import END, START
from config import Config


def build_model(config: Config, vocabulary_size: int, feature_size: int, max_length: int) -> keras.Model:
    """The decoder of ``config``, compiled: ``[features (B, D), prefixes (B, L)]`` to probabilities ``(B, V)``."""
    features = keras.Input((feature_size,))
    prefix = keras.Input((max_length,), dtype="int32")
    image = layers.Dropout(config.dropout)(features)
    image = layers.Dense(config.embedding_size, activation="relu", name="image")(image)
    words = layers.Embedding(vocabulary_size, config.embedding_size, mask_zero=True, name="words")(prefix)
    words = layers.Dropout(config.dropout)(words)
    if config.decoder == "merge":
        sentence = layers.LSTM(config.hidden_size, name="lstm")(words)
        hidden = layers.Concatenate()([image, sentence])
        hidden = layers.Dense(config.hidden_size, activation="relu", name="merged")(hidden)
    else:
        language = layers.LSTM(config.hidden_size, return_sequences=True, name="language_lstm")(words)
        language = layers.Dense(config.embedding_size, name="language")(language)
        both = layers.Concatenate()([layers.RepeatVector(max_length)(image), language])
        hidden = layers.Dropout(config.dropout)(layers.LSTM(config.hidden_size, name="lstm")(both))
    probabilities = layers.Dense(vocabulary_size, activation="softmax", name="logits")(hidden)
    model = keras.Model([features, prefix], probabilities)
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    return model


def copy_weights(decoder: Decoder, model: keras.Model) -> None:
    """Give ``model`` the weights of our decoder of the same kind and size."""
    for layer in decoder.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())


class PrefixBatches(keras.utils.PyDataset):
    """Batches ``((features (B, D), prefixes (B, L)), one-hot next words (B, V))``, one row per prefix.

    ``features`` maps file names to arrays in memory. ``captions`` pairs file names with token ids from ``<start>`` to
    ``<end>``. A batch has ``rows`` random prefixes, or, if ``photos`` is given, all prefixes of so many photos.
    """

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        captions: list[tuple[str, np.ndarray]],
        vocabulary_size: int,
        max_length: int,
        rows: int = 0,
        photos: int = 0,
        workers: int = 2,
    ):
        super().__init__(workers=workers, max_queue_size=8)
        self.features, self.captions = features, captions
        self.vocabulary_size, self.max_length = vocabulary_size, max_length
        lengths = [len(tokens) - 1 for _, tokens in captions]
        self.caption = np.repeat(np.arange(len(captions)), lengths)
        self.length = np.concatenate([np.arange(1, length + 1) for length in lengths])
        if photos:
            position = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in captions))}
            group = np.asarray([position[captions[caption][0]] // photos for caption in self.caption])
            self.batches = np.split(np.arange(len(group)), np.flatnonzero(np.diff(group)) + 1)
        else:
            order = np.random.default_rng(0).permutation(len(self.caption))
            self.batches = [order[i : i + rows] for i in range(0, len(order), rows)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int):
        batch = self.batches[index]
        prefixes = np.zeros((len(batch), self.max_length), dtype=np.int32)
        following, features = [], []
        for row, (caption, length) in enumerate(zip(self.caption[batch], self.length[batch], strict=True)):
            name, tokens = self.captions[caption]
            prefixes[row, -length:] = tokens[:length]
            following.append(tokens[length])
            features.append(self.features[name])
        return (np.stack(features), prefixes), keras.utils.to_categorical(following, self.vocabulary_size)


def beam_search(model: keras.Model, features: np.ndarray, max_length: int, beam_size: int) -> list[int]:
    """The best caption of one image with ``features (D,)``, as token ids without special tokens."""
    beams = [([START], 0.0)]
    while len(beams[0][0]) <= max_length and any(tokens[-1] != END for tokens, _ in beams):
        candidates = []
        for tokens, log_prob in beams:
            if tokens[-1] == END:
                candidates.append((tokens, log_prob))
                continue
            prefix = keras.utils.pad_sequences([tokens], maxlen=max_length)
            probabilities = model.predict([features[None], prefix], verbose=0)[0]
            for word in np.argsort(probabilities)[-beam_size:]:
                candidates.append(([*tokens, int(word)], log_prob + float(np.log(probabilities[word]))))
        beams = sorted(candidates, key=lambda beam: beam[1], reverse=True)[:beam_size]
    return [token for token in beams[0][0] if token not in (START, END)]
