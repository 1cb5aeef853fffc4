"""A toy data set and a run on it, which several tests share."""

import pytest
from toy_run import prepare_toy, start, train

from captioning.features.prepared import Prepared
from captioning.storage.runs import Run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Prepared:
    return prepare_toy(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def straight(prepared) -> Run:
    """A run of three epochs, undisturbed."""
    config, run = start(prepared, "straight")
    assert train(prepared, config, run) == 0
    return run
