"""The shape of the code: rooms import one way, light modules stay light, and nothing is unpickled."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT

# What each room may import beside `config`: the table of docs/architecture.md, from top to bottom.
ROOMS: dict[str, set[str]] = {
    "base": set(),
    "command_line": {"base"},
    "words": {"base"},
    "pictures": {"base"},
    "data": {"base", "words", "pictures"},
    "metrics": {"base", "words"},
    "embeddings": {"base", "words"},
    "decoders": {"base", "words", "embeddings"},
    "features": {"base", "words", "pictures", "data"},
    "search": {"base", "words"},
    "concepts": {"base", "words", "features", "search"},
    "storage": {"base", "command_line", "words", "embeddings", "features"},
    "reports": {"base", "command_line", "words", "pictures", "data", "metrics", "features", "storage"},
    "retrieval": {
        *(
            "base",
            "command_line",
            "words",
            "pictures",
            "data",
            "metrics",
            "embeddings",
            "decoders",
            "features",
            "search",
            "concepts",
        ),
        *("storage", "reports"),
    },
    "training": {
        *(
            "base",
            "command_line",
            "words",
            "pictures",
            "data",
            "metrics",
            "embeddings",
            "decoders",
            "features",
            "search",
            "concepts",
        ),
        *("storage", "reports", "retrieval"),
    },
    "sweeps": {"base", "command_line", "data", "metrics", "storage", "reports", "training"},
    "confidence": {"base", "words", "pictures", "data", "metrics", "search", "concepts", "reports"},
    "robustness": {"base", "pictures", "data", "features", "storage", "reports"},
    "albums": {
        *("base", "command_line", "words", "pictures", "data", "metrics", "search", "features", "storage", "reports"),
    },
    "serving": {
        *("base", "command_line", "words", "pictures", "data", "search", "features", "storage", "reports"),
        "retrieval",
    },
    "exports": {"base", "command_line", "words", "pictures", "data", "search", "features", "storage", "reports"},
    "cluster": {"base", "command_line", "pictures", "search", "features", "storage", "retrieval", "albums", "exports"},
    "installed": {"base", "pictures", "exports"},
}
# The rooms that may import the captioner itself.
WITH_MODEL = {"retrieval", "training", "albums", "serving", "exports", "cluster"}
SCRIPTS = {"train", "evaluate", "test", "retrieve", "export", "app", "start", "setup"}
# Rooms that need Keras. All others import it inside functions only, and so do the scripts.
KERAS_ROOMS = {
    "embeddings",
    "decoders",
    "features",
    "concepts",
    "search",
    "confidence",
    "storage",
    "retrieval",
    "training",
    "exports",
}
KERAS = {"keras", "keras_hub", "tensorflow", "jax", "torch", "h5py"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


ROOM_FILES, TOP_FILES = files("captioning"), sorted(ROOT.glob("*.py"))
ALL_FILES = [*TOP_FILES, *ROOM_FILES, *files("benchmarks", "tools")]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "captioning").parts[0]


def imported(nodes) -> set[str]:
    """The full names of all modules that ``nodes`` import; ``from a import b`` counts as ``a`` and as ``a.b``."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "modules are imported by their full names"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def of_type_checking(module: ast.Module) -> list[ast.stmt]:
    """What is imported for the type checker alone."""
    blocks = [node for node in module.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return [statement for block in blocks for statement in block.body]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [path for path in ROOM_FILES if path.read_text()], ids=shown)
def test_a_room_imports_rooms_above_it(path):
    room = room_of(path)
    assert room in ROOMS, "a new room needs a line in the table here and in docs/architecture.md"
    names = imported(ast.walk(tree(path)))
    rooms = {name.split(".")[1] for name in names if name.startswith("captioning.") and name.count(".") >= 1}
    assert rooms - {room} <= ROOMS[room]
    top = {name.split(".")[0] for name in names} & {file.stem for file in TOP_FILES}
    checked = {name.split(".")[0] for name in imported(of_type_checking(tree(path)))}
    assert top <= {"config"} | ({"model"} if room in WITH_MODEL or "model" in checked else set())


def test_the_table_has_no_circle():
    above: set[str] = set()
    for room, needs in ROOMS.items():
        assert needs <= above, f"{room} needs a room that stands below it"
        above.add(room)
    assert {path.name for path in (ROOT / "captioning").iterdir() if path.is_dir()} - {"__pycache__"} == above


def test_the_table_is_that_of_the_documentation():
    lines = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines()
    section = lines[lines.index("## The rooms") : lines.index("## How a caption comes about")]
    assert [line.split("`")[1].rstrip("/") for line in section if line.startswith("| `")] == list(ROOMS)


@pytest.mark.parametrize("path", ALL_FILES, ids=shown)
def test_nothing_imports_a_script(path):
    top = {name.split(".")[0] for name in imported(ast.walk(tree(path)))}
    assert not top & SCRIPTS


@pytest.mark.parametrize("path", [path for path in ROOM_FILES if path.name == "__init__.py"], ids=shown)
def test_packages_start_empty(path):
    assert path.read_text() == "", "importing one module of a room must not bring in the others"


@pytest.mark.parametrize(
    "path", [p for p in (*TOP_FILES, *ROOM_FILES) if p.parent == ROOT or room_of(p) not in KERAS_ROOMS], ids=shown
)
def test_light_modules_import_keras_only_inside_functions(path):
    if path == ROOT / "model.py":
        return
    names = imported(node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom))
    assert not {name.split(".")[0] for name in names} & {*KERAS, "model"}


def test_what_needs_no_keras_does_not_load_it():
    """The table above says what modules import; this says what loads when they do."""
    light = "preprocessing captioning.data.datasets captioning.data.download captioning.metrics.cider"
    light += (
        " captioning.albums.captions captioning.serving.engine captioning.reports.figures captioning.exports.reading"
    )
    light += " captioning.exports.runtime captioning.storage.members captioning.search.captions app test"
    light += " captioning.retrieval.index captioning.storage.runs captioning.features.store captioning.embeddings.bert"
    light += " captioning.installed.entry captioning.installed.check captioning.sweeps.running captioning.sweeps.tables"
    light += " captioning.cluster.captions"
    code = f"import sys, {', '.join(light.split())}; print(sorted({KERAS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ALL_FILES, ids=shown)
def test_nothing_is_pickled(path):
    nodes = list(ast.walk(tree(path)))
    top = {name.split(".")[0] for name in imported(nodes)}
    assert not top & {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
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


@pytest.mark.parametrize("path", ROOM_FILES, ids=shown)
def test_only_one_file_asks_which_backend_runs(path):
    if path == ROOT / "captioning/base/backend.py":
        return
    text = path.read_text(encoding="utf-8")
    assert "backend.backend()" not in text
    assert "_nodes_by_depth" not in text
