"""The aligner as a judge of captions: does a caption find its image among the images that look most like it?

Luo et al. (2018), "Discriminability objective for training descriptive captions", https://arxiv.org/abs/1803.04376,
reward a caption that an aligner puts nearer to its image than to the others of the batch, by a hinge loss. Here the
other images are those most like the right one, out of all training images. The loss is the logarithm of a softmax over
cosines, as towers are trained by (``contrast``): it says more than the hinge about a caption that finds nothing yet.

Legend: I images, J size of the joint space, N captions, K other images of each image.
"""

from collections.abc import Sequence

import keras
import numpy as np

from captioning.features.spreading import predict_on_batch
from captioning.retrieval.aligner import Aligner
from captioning.retrieval.ranking import nearest_others
from captioning.words.padding import pad

# Captions are read in batches of one shape for each width: _ROWS captions, and a multiple of _WIDTH tokens. So a
# resumed run compiles the same programs as an undisturbed one, and the last bits of its rewards are the same. There are
# few widths, because TensorFlow warns of many programs.
_ROWS = 32
_WIDTH = 16


class Distinctness:
    """Scores captions of fixed images by how well the aligner finds the image by the caption."""

    def __init__(self, aligner: Aligner, vectors: np.ndarray, count: int):
        """``vectors``: the aligner's unit vectors of the images, float32 ``(I, J)``.

        ``count``: how many other images there are for each image. With fewer images it is all others.
        """
        self.vocabulary, self.longest = aligner.vocabulary, aligner.config.max_caption_length
        self.tower, self.temperature = aligner.towers.text, aligner.config.temperature
        self.vectors = vectors
        self.others = nearest_others(vectors, min(count, len(vectors) - 1)).astype(np.int32)
        self._readers: dict[int, Reader] = {}

    def score(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """The score of each caption, float64 ``(N,)``. Caption n belongs to image ``images[n]``.

        It is ``100 + 100 ln(p) / ln(K + 1)``. There p is the probability of the right image in a softmax over the
        cosines of the caption with that image and its K others, divided by the aligner's temperature. So 100 means
        certainty, 0 is what guessing gives, and a caption that suits the others better is below 0.
        """
        texts = self._embed(captions)
        right = np.sum(texts * self.vectors[images], axis=1, dtype="float64")
        loss = np.empty(len(captions))
        for image in np.unique(images):
            own = np.flatnonzero(images == image)
            wrong = texts[own] @ self.vectors[self.others[image]].T  # (some, K)
            gap = (wrong - right[own, None]) / self.temperature
            loss[own] = np.logaddexp(0, np.logaddexp.reduce(gap, axis=1))
        return 100 - 100 * loss / np.log(self.others.shape[1] + 1)

    def _embed(self, captions: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 ``(N, J)``."""
        rows = [self.vocabulary.encode(caption, self.longest) for caption in captions]
        widths = np.asarray([-(-len(row) // _WIDTH) * _WIDTH for row in rows])
        vectors = np.empty((len(rows), self.vectors.shape[1]), "float32")
        for width in np.unique(widths).tolist():
            reader = self._readers.setdefault(width, Reader(self.tower))
            chosen = np.flatnonzero(widths == width)
            for start in range(0, len(chosen), _ROWS):
                batch = chosen[start : start + _ROWS]
                filled = np.pad(batch, (0, _ROWS - len(batch)), mode="edge")
                found = predict_on_batch(reader, pad([rows[i] for i in filled], width))
                vectors[batch] = np.asarray(found)[: len(batch)]
        return vectors


class Reader(keras.Model):
    """The text tower for batches of one shape, as a model of its own, so that it is compiled for no other."""

    def __init__(self, tower: keras.Model):
        super().__init__(dtype="float32")  # also where the captioner trains in less
        self.tower = tower
        self.built = True

    def call(self, token_ids):
        return self.tower(token_ids)
