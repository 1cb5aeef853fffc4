"""The notebook for students: it runs quietly from top to bottom, and what is committed of it is small and clean."""

import base64
import json
import math
import os
import re
import shlex
import subprocess
import sys

import pytest
from helpers import ROOT

PATH = ROOT / "notebooks/from_pixels_to_captions.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
# A last cell of the test's own, which says what the run found.
FACTS = """\
print(json.dumps({
    "losses": history["nll"],
    "untrained": untrained,
    "words": len(vocabulary),
    "greedy": greedy,
    "searched": captioner.caption(features)[0][0].text,
    "own": own.tolist(),
    "others": others.tolist(),
    "settings": config.model_dump(mode="json"),
}))
"""


def source(cell) -> str:
    return "".join(cell["source"])


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell["outputs"])


def has_picture(cell) -> bool:
    return any(kind.startswith("image/") for output in cell["outputs"] for kind in output.get("data", {}))


def test_committed_outputs_are_small_pictures():
    assert PATH.stat().st_size < 200_000
    for cell in CODE:
        assert cell["execution_count"] is None
        for output in cell["outputs"]:
            assert output["output_type"] == "display_data"
            ((kind, content),) = output["data"].items()
            assert kind in ("image/png", "image/jpeg")
            assert len(base64.b64decode(content)) <= 20_000, cell["id"]


def test_nothing_of_an_editor_is_committed():
    assert NOTEBOOK["nbformat"] == 4
    assert NOTEBOOK["metadata"].keys() == {"kernelspec", "language_info"}
    assert NOTEBOOK["metadata"]["kernelspec"]["name"] == "python3"
    assert not any(cell["metadata"] for cell in NOTEBOOK["cells"])
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])


def test_a_text_stands_before_each_code_cell():
    for before, cell in zip(NOTEBOOK["cells"], NOTEBOOK["cells"][1:], strict=False):
        assert "markdown" in (before["cell_type"], cell["cell_type"]), cell["id"]


def test_each_section_ends_with_a_task():
    texts = [source(cell) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown"]
    starts = [i for i, text in enumerate(texts) if re.match(r"## \d", text)]
    assert len(starts) == 11
    for end in [*starts[1:], len(texts)]:
        assert re.search(r"^> \*\*(Experiment|Question|Last question)\.\*\*", texts[end - 1], re.MULTILINE), end


def test_named_files_exist():
    texts = "\n".join(source(cell) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    paths = set(re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.\w+)?|[\w-]+\.py)`", texts))
    assert {"train.py", "captioning/search/"} <= paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("folder", [ROOT, ROOT / "notebooks"], ids=["root", "notebooks"])
def test_the_first_cell_finds_the_code(folder):
    code = source(CODE[0]) + "\nprint(sys.path[0])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(ROOT)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The notebook after a run in a new kernel from an empty folder: its code cells by name, and what it found."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat
    from traitlets.config import Config

    notebook = nbformat.read(PATH, as_version=4)
    # Computed where it is printed, since training changes it.
    loss = next(cell for cell in notebook.cells if cell.id == "loss")
    loss.source += "\nuntrained = float(-log_probs(record.captions[0], features).mean())"
    notebook.cells.append(nbformat.v4.new_code_cell("import json\n\n" + FACTS))
    folder = tmp_path_factory.mktemp("notebook")
    here, temporary = folder / "here", folder / "temporary"
    here.mkdir()
    temporary.mkdir()
    client = nbclient.NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(here)}},
        # The kernel gets time to remove its temporary folder. By default it is killed after five seconds.
        config=Config(KernelManager={"shutdown_wait_time": 60.0}),
    )
    client.execute(
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "IPYTHONDIR": str(folder / "ipython")}
    )
    assert [*here.iterdir()] == []
    assert [path.name for path in temporary.iterdir() if path.name.startswith("captions-")] == []
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    return cells, json.loads(printed(notebook.cells.pop()))


@pytest.mark.slow
def test_it_runs_quietly(run):
    cells, _ = run
    for name, cell in cells.items():
        streams = {output["name"] for output in cell["outputs"] if output["output_type"] == "stream"}
        assert streams <= {"stdout"}, f"{name}: {printed(cell)}"
        assert "warning" not in printed(cell).lower(), name
        assert printed(cell).count("\n") < 40, name
    for cell in CODE:
        assert has_picture(cells[cell["id"]]) or not has_picture(cell), cell["id"]


@pytest.mark.slow
def test_it_shows_what_its_text_says(run):
    cells, facts = run
    assert facts["untrained"] == pytest.approx(math.log(facts["words"]), abs=0.1)
    assert facts["losses"][-1] < facts["losses"][0] / 2
    assert facts["greedy"] == facts["searched"]
    assert len(facts["greedy"].split()) > 4
    assert f"generated caption: {facts['greedy']}\n" in printed(cells["greedy-code"])
    # Accuracy with teacher forcing, BLEU-4, CIDEr, percentage of right captions: of their own and of wrong pictures.
    kept = [others / own for own, others in zip(facts["own"], facts["others"], strict=True)]
    assert facts["own"][3] > 50
    assert kept[0] > 0.6
    assert max(kept[1:]) < 0.5
    assert kept[3] < 0.1


@pytest.mark.slow
def test_the_command_at_its_end_has_the_same_settings(run):
    from captioning.command_line.options import make_parser
    from captioning.command_line.resolving import resolve

    cells, facts = run
    train, test = printed(cells["commands-code"]).splitlines()
    assert train.startswith("python train.py --name first ")
    assert test.startswith("python test.py --model runs/first ")
    options = shlex.split(train.removeprefix("python train.py --name first "))
    settings = resolve(make_parser("").parse_args(options)).model_dump(mode="json")
    changed = {name for name, value in settings.items() if value != facts["settings"][name]}
    assert changed == {"data_dir", "feature_dir", "monitor"}
