"""The mean loss of an epoch: each batch weighs as much as its images that count."""

import numpy as np
import pytest
from keras import ops

from captioning.training.counting import counted_images

TOKENS = np.asarray([[5, 6], [7, 0], [0, 0], [8, 9], [0, 0]], "int32")


@pytest.mark.backends
@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((TOKENS,), 3),
        ((TOKENS[None].repeat(2, axis=0),), 2),
        # Captions 0 and 1 are of image 0, and caption 3 of image 2. Image 1 has only rows of padding.
        ((TOKENS, np.asarray([0, 0, 1, 2, 0], "int32"), 3), 2),
    ],
    ids=["a caption each", "several captions each", "captions of images"],
)
def test_images_count_whose_captions_have_words(inputs, expected):
    assert float(ops.convert_to_numpy(counted_images(*inputs))) == expected
