"""What is installed, and what the wheel holds. ``pyproject.toml`` says the rest.

    pip install .             # captioning alone: the first part of requirements.txt
    pip install ".[train]"    # also training and evaluation: both parts
    pip wheel . --no-deps     # a wheel with the captioner

The scripts import one another by short names: ``config``, ``model``. In site-packages these names could be those of
somebody else. So a wheel holds the scripts in a folder of the package, ``captioning/installed/home``, which is on
nobody's path. The command ``caption`` puts it first on its own path (``captioning/installed/entry.py``). The folder is
laid out as the repository, so ``config.ROOT`` is the place of ``pretrained/`` in both.

Of the captioner it holds what ONNX Runtime needs: the graphs of ``pretrained/pocket/onnx``, but for the encoder in 8
bits, and ``pocket.zip`` without the weights for Keras. An editable install (``-e``) uses the repository as it is.
"""

import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# Files of the repository that a wheel has in its private folder. Of bundles it has the texts alone.
SCRIPTS = ("config.py", "model.py", "preprocessing.py", "test.py", "app.py")
CARD = "pretrained/README.md"
BUNDLE = "pretrained/pocket.zip"
GRAPHS = "pretrained/pocket/onnx"
LEFT_OUT = "encoder-int8.onnx"  # with it packages and captioner would take more than 200 MB; float32 does without
HOME = "captioning/installed/home"


# What some commands need besides: the extras. These go without a training environment.
ALONE = {
    # The web page and the HTTP API: app.py. Bounds are those of the last security fixes known on 2026-11-29.
    "app": [
        "fastapi>=0.135,<1",  # HTTP, checked requests, the description for programs
        "starlette>=1.5.1,<2",  # under fastapi: the ranges of a file that may be asked for are bounded
        "uvicorn>=0.30,<1",  # the server
        "h11>=0.16,<1",  # under uvicorn: HTTP
        "python-multipart>=0.0.31,<1",  # forms with files
    ],
    # Pictures of phones and cameras: HEIC, and the previews in RAW files.
    "formats": [
        "pillow-heif>=1.1,<2",  # HEIC, with libheif in the wheel
        "rawpy>=0.25,<1",  # RAW, with LibRaw in the wheel
    ],
    # Features from elsewhere in an LMDB: --features FOLDER.lmdb. Training reads all other layouts without it.
    "features": [
        "lmdb>=1.6,<4",  # LMDB, with its library in the wheel; tried with 3.0.0
    ],
    # The app on several machines: deploy/serve.py.
    "serve": [
        "ray[serve]>=2.50,<3",  # replicas and their proxies; tried with 2.60.0
    ],
    # Faster searches among many pictures: --index-type hnsw or ivfpq.
    "faiss": [
        "faiss-cpu>=1.15,<2",  # finds candidates; 1.15 checks more of a file that it reads than releases before
    ],
    # Whole collections on several machines and in buckets: --cluster. Tried with Ray 2.60 and pyarrow 26.
    "cluster": [
        "ray>=2.60,<3",  # starts the workers, does the work of dead ones again; safe from web pages since 2.52
        "pyarrow>=21,<27",  # the list of pictures in Parquet; S3 and Google Cloud Storage
    ],
    # The site: mkdocs build.
    "docs": [
        "mkdocs>=1.6,<2",  # Markdown to pages; --strict finds dead links
        "mkdocs-material>=9.5,<10",  # the theme, with search
    ],
}
_KERAS_HUB = [
    "keras-hub>=0.32,<0.34",  # layers and weights of BERT, CLIP, DINOv2 and others
    "safetensors>=0.5,<1",  # KerasHub reads folders in Hugging Face's layout with it
]
# These extras also bring what the extra "train" does.
WITH_TRAINING = {
    # BERT as word embedding: --embedding bert-static or bert-prefix. Training needs it; captioning does not.
    "bert": _KERAS_HUB,
    # Image encoders: --encoder kerashub:NAME. Training needs it, and so does captioning by Keras; exports do not.
    "kerashub": _KERAS_HUB,
    # Exports to ONNX and LiteRT, and LiteRT's runtime: export.py. A SavedModel needs none of these.
    "export": [
        "tf2onnx>=1.17,<1.18",  # TensorFlow's graph to ONNX
        "onnx>=1.21,<1.24",  # reads and writes ONNX files
        "ai-edge-litert>=1.4,<3",  # runs LiteRT files
    ],
    # METEOR, SPICE and the Stanford tokeniser, which also need Java, and the rank correlations of tools/.
    "metrics": [
        "pycocoevalcap==1.2",  # brings the Java programs; another version may score differently
        "scipy>=1.14,<2",  # rank correlations in tools/human_judgements.py
    ],
    # The other Keras backends: --backend jax, --backend torch. requirements.lock leaves torch out: PyPI's build for
    # Linux brings several GB of CUDA packages, which a computer without a GPU cannot use. .ci/run pins its version.
    "jax": ["jax>=0.4.38,<0.12"],
    "torch": ["torch>=2.6,<2.14"],
    # Tests and checks. CONTRIBUTING.md says how to run them.
    "dev": [
        "pytest>=8.3,<10",  # the tests
        "pytest-xdist>=3.8,<4",  # runs them in two processes
        "ruff>=0.17,<0.18",  # linter and formatter; another minor version may format differently
        "mypy>=2.4,<3",  # checks the types in captioning/
        "pre-commit>=4.2,<5",  # runs ruff before each commit
        "httpx2>=2,<3",  # the tests of the HTTP API
        "selenium>=4.25,<5",  # the test of the page; skipped without chromium and chromedriver
        "nbclient>=0.10,<1",  # runs the notebook in a test
        "ipykernel>=6.29,<8",  # the Python that a notebook runs in
        "uv>=0.9,<1",  # writes requirements.lock
    ],
}


def requirements() -> tuple[list[str], list[str]]:
    """The two parts of requirements.txt: what captioning needs, and what training needs besides."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    captioning, training = text.split("\n# Training and evaluation\n")
    return _packages(captioning), _packages(training)


def _packages(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def private_files() -> list[str]:
    """The files of the repository that the private folder has as they are."""
    graphs = sorted(path for path in (ROOT / GRAPHS).rglob("*") if path.is_file() and path.name != LEFT_OUT)
    return [*SCRIPTS, CARD, *(path.relative_to(ROOT).as_posix() for path in graphs)]


def write_texts(bundle: Path, slim: Path) -> None:
    """Write ``slim``: the members of ``bundle`` that are JSON. Its bundle.json, so its fingerprint, is the same."""
    with zipfile.ZipFile(bundle) as whole, zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED) as texts:
        for member in whole.infolist():
            if member.filename.endswith(".json"):
                texts.writestr(member, whole.read(member))


class BuildWithScripts(build_py):
    """Builds the package with its private folder."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        home = Path(self.build_lib, HOME)
        for name in private_files():
            self.mkpath(str((home / name).parent))
            self.copy_file(name, str(home / name))
        write_texts(ROOT / BUNDLE, home / BUNDLE)

    def get_source_files(self) -> list[str]:
        """What a source distribution needs to build this."""
        return [*super().get_source_files(), *private_files(), BUNDLE, "requirements.txt"]


if __name__ == "__main__":
    captioning, train = requirements()
    larger = {name: [*train, *packages] for name, packages in WITH_TRAINING.items()}
    extras = {"train": train, **ALONE, **larger}
    setup(install_requires=captioning, extras_require=extras, cmdclass={"build_py": BuildWithScripts})
