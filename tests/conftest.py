"""Small data that several tests share. Nothing here reads data from outside ``tmp_path`` or needs Keras."""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import OPTIONS, PIECES, fake_encoder, fake_pixels

from captioning.base.script import set_up_tensorflow

set_up_tensorflow()


# Folders and files whose tests take long, those with the longest first. Processes that take these first end together.
LONG = (
    "test_backends",
    "test_notebook",
    "scripts",
    "training",
    "exports",
    "retrieval",
    "storage",
    "embeddings",
    "decoders",
    "features",
    "test_model",
    "serving",
)


def pytest_collection_modifyitems(items):
    """Order the files so that the long ones come first. Their order is the same in each process."""

    def place(item) -> int:
        path = item.path.relative_to(Path(__file__).parent)
        names = [path.stem, *path.parts]
        return min((LONG.index(name) for name in names if name in LONG), default=len(LONG))

    items.sort(key=place)


def pytest_configure(config):
    """Make compiling quick on JAX, and let processes share what they have compiled. Collect garbage seldom.

    A test runs a compiled program only once or twice. Tracing makes many objects that stay. At Python's own thresholds
    the garbage collector takes a tenth of the time to look through them.
    """
    gc.set_threshold(100_000, 50, 100)
    # PyTorch's threads keep their cores busy while they wait for one another. If other processes need the cores, tests
    # then take minutes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # a process of xdist, or a pytest that a test runs
        return
    folder = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ |= {
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
        "JAX_COMPILATION_CACHE_DIR": folder.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(autouse=True, scope="session")
def _graphs_as_they_are():
    """TensorFlow runs its graphs as they were traced. Optimising one takes longer than a test runs it.

    This holds for the runs that tests of several modules share, too: an optimised graph differs in its last bits.
    """
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def _same_environment(monkeypatch):
    """Whatever a test does to ``KERAS_BACKEND`` and ``sys.argv`` is undone after it."""
    before = os.environ.get("KERAS_BACKEND")
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    yield
    if before is None:
        os.environ.pop("KERAS_BACKEND", None)
    else:
        os.environ["KERAS_BACKEND"] = before


@pytest.fixture
def make_store(tmp_path):
    """``make_store(names, shape=(R, D))`` gives a finished FeatureStore of features that differ for each image."""
    from captioning.features.store import StoreKey, extract

    def make(names, shape=(2, 3), folder="store", dtype="float32", **options):
        key = StoreKey("fake", "0" * 64, "none", 32, 0, dtype, "images")
        return extract(
            tmp_path / folder,
            key,
            names,
            load=fake_pixels,
            encode=fake_encoder(shape),
            shape=shape,
            **OPTIONS | options,
        )

    return make


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory) -> Path:
    """A BERT of two layers and width 8 in Hugging Face's layout, random."""
    numpy = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("keras_hub")
    path = tmp_path_factory.mktemp("bert")
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (20, 8),
        "embeddings.position_embeddings.weight": (48, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "pooler.dense.weight": (8, 8),
        "pooler.dense.bias": (8,),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        layer = f"encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense = {f"attention.self.{part}": (8, 8) for part in ("query", "key", "value")}
        dense |= {"attention.output.dense": (8, 8), "intermediate.dense": (12, 8), "output.dense": (8, 12)}
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in dense.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in dense.items()}
    shapes |= {f"{norm}.{part}": (8,) for norm in norms for part in ("weight", "bias")}
    numpy.save_file(
        {name: rng.normal(0, 0.5, shape).astype("float32") for name, shape in shapes.items()},
        path / "model.safetensors",
    )
    config = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}
    config |= {"model_type": "bert", "vocab_size": 20, "max_position_embeddings": 48}
    (path / "config.json").write_text(json.dumps(config))
    (path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES))
    return path
