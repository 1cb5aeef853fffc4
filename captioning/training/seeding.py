"""Random numbers of an epoch that depend on nothing but the seed and the epoch, so that a resumed run repeats them."""

import keras
import numpy as np


def seed_epoch(model: keras.Model, seed: int, epoch: int) -> None:
    """Set all random states that training ``model`` draws from. ``seed`` and ``epoch`` (from 0) alone decide them."""
    # On PyTorch dropout draws from a global state. On other backends it draws from states of the layers.
    keras.utils.set_random_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))
    states = [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]
    for i, state in enumerate(states):
        state.assign(np.random.SeedSequence((seed, epoch, i)).generate_state(2))
