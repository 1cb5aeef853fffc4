"""The shape of the code: dependencies point one way, light modules stay light, and nothing is unpickled."""

import ast
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT

# What each module may import of ours. A new module needs a line here.
MAY_IMPORT = {
    "config": set(),
    "text": set(),
    "decoding": set(),
    "start": set(),
    "metrics": {"config", "metrics", "text"},
    "vocabulary": {"config", "text"},
    "images": {"config"},
    "figures": {"config", "images"},
    "architecture": {"config", "encoders"},
    "predictions": {"config", "datasets"},
    "demo": {"config"},
    "download": {"config"},
    "datasets": {"config", "datasets", "demo", "images"},
    "encoders": {"config"},
    "folding": set(),
    "embedding_arrays": {"config"},
    "embeddings": {"config", "embeddings", "embedding_arrays"},
    "decoders": {"config", "decoders", "embeddings"},
    "feature_store": {"config", "images"},
    "xmp": {"config"},
    "generator": {"config", "feature_store", "images", "text", "vocabulary"},
    "preprocessing": {
        "config", "datasets", "download", "embedding_arrays", "encoders", "feature_store", "folding", "images", "text",
        "vocabulary"
    },
    "runs": {"config", "feature_store", "embedding_arrays", "vocabulary"},
    "bundles": {"config", "encoders", "vocabulary"},
    "model": {"bundles", "config", "decoders", "decoding", "folding", "generator", "embedding_arrays", "vocabulary"},
    "albums": {"config", "feature_store", "images", "model", "xmp"},
    "ensemble": {"config", "decoders", "encoders", "generator", "images", "model"},
    "caption_trainer": {"decoders", "vocabulary"},
    "fine_tuning": {"caption_trainer", "folding"},
    "towers": {"config", "vocabulary"},
    "aligner": {"bundles", "config", "encoders", "folding", "generator", "images", "towers", "vocabulary"},
    "alignment": {"caption_trainer", "config", "towers"},
    "index": {"config", "feature_store", "images"},
    "output": {"config", "feature_store"},
    "reranking": {"caption_trainer", "config", "decoders", "model", "vocabulary"},
    "retrieval": {"aligner", "images", "index", "metrics", "model", "reranking"},
    "self_critical": {
        "caption_trainer", "config", "decoders", "decoding", "generator", "metrics", "model", "text", "vocabulary"
    },
    "training": {
        "aligner", "alignment", "caption_trainer", "config", "decoders", "encoders", "feature_store", "fine_tuning",
        "folding", "generator", "index", "metrics", "model", "preprocessing", "retrieval", "runs", "self_critical", "text",
        "vocabulary"
    },
    "train": {"config", "download", "model", "preprocessing", "embedding_arrays", "runs", "training"},
    "evaluate": {
        "bundles", "config", "datasets", "demo", "ensemble", "generator", "metrics", "output", "predictions",
        "preprocessing", "report", "runs"
    },
    "retrieve": {
        "aligner", "config", "datasets", "figures", "generator", "images", "index", "metrics", "model", "output",
        "preprocessing", "retrieval", "runs", "text", "vocabulary"
    },
    "serving": {"config", "figures", "images", "model"},
    "api": {"config", "images", "serving", "text"},
    "app": {"api", "bundles", "config", "decoders", "model", "serving"},
    "exported": {"config", "vocabulary"},
    "exporting": {"config", "exported", "folding", "images", "model", "runs"},
    "export": {"config", "exported", "exporting", "images", "model", "output", "runs"},
    "report": {"architecture", "config", "datasets", "figures", "images", "output", "runs"},
    "test": {"albums", "config", "ensemble", "figures", "images", "model", "output", "text"},
}  # fmt: skip
SCRIPTS = {"train", "evaluate", "retrieve", "test", "app", "export", "start"}
# These import Keras, or a module that does, when they are imported themselves.
HEAVY = {
    "encoders",
    "folding",
    "embeddings",
    "decoders",
    "decoding",
    "generator",
    "bundles",
    "model",
    "ensemble",
    "exporting",
    "caption_trainer",
    "fine_tuning",
    "self_critical",
    "towers",
    "aligner",
    "alignment",
    "reranking",
    "retrieval",
    "training",
}
KERAS = {"keras", "keras_hub", "tensorflow", "jax", "torch", "h5py"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def files() -> list[Path]:
    """All Python files of ours but the tests."""
    return sorted(
        path
        for folder in (".", "datasets", "decoders", "embeddings", "metrics", "benchmarks", "tools")
        for path in (ROOT / folder).glob("*.py")
    )


def module_of(path: Path) -> str:
    return path.stem if path.parent == ROOT else path.parent.name


def imported(nodes) -> set[str]:
    """First parts of the names of all modules that ``nodes`` import."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "flat modules import by full names"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    ours = imported(ast.walk(tree(path))) & set(MAY_IMPORT)
    if module_of(path) in ("benchmarks", "tools"):
        assert not ours & SCRIPTS
    else:
        assert ours <= MAY_IMPORT[module_of(path)]


def test_the_table_itself_has_no_circle():
    order, left = set(), {name: needs - {name} for name, needs in MAY_IMPORT.items()}
    while left:
        free = {name for name, needs in left.items() if needs <= order}
        assert free, f"circle among {sorted(left)}"
        order |= free
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not any(needs & SCRIPTS for needs in MAY_IMPORT.values())


@pytest.mark.parametrize(
    "path", [path for path in files() if module_of(path) in MAY_IMPORT], ids=lambda path: path.stem
)
def test_light_modules_import_keras_only_inside_functions(path):
    top = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    if module_of(path) not in HEAVY:
        assert not imported(top) & (KERAS | HEAVY)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled(path):
    nodes = list(ast.walk(tree(path)))
    assert not imported(nodes) & {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        what = ast.unparse(call.func)
        if what in ("np.load", "numpy.load"):
            assert ast.unparse(keywords["allow_pickle"]) == "False"
        assert ast.unparse(keywords.get("safe_mode", ast.Constant(True))) == "True"
        if what == "torch.load":
            assert ast.unparse(keywords["weights_only"]) == "True"
        assert what not in ("eval", "exec")
        assert "allow_pickle" not in keywords or ast.unparse(keywords["allow_pickle"]) == "False"
