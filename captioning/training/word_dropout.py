"""Word dropout: in training some input words are hidden, so that the image must tell what they said."""

import keras
from keras import ops

from captioning.words.vocabulary import UNK


def drop_words(token_ids, share: float, seeds: keras.random.SeedGenerator):
    """``token_ids`` int ``(B, T)`` with about this ``share`` of the words replaced by ``<unk>``; special tokens stay.

    Bowman et al. (2016), https://arxiv.org/abs/1511.06349.
    """
    drop = keras.random.uniform(ops.shape(token_ids), seed=seeds) < share
    return ops.where(ops.logical_and(drop, token_ids > UNK), UNK, token_ids)
