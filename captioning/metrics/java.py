"""The metrics that are Java programs, through pycocoevalcap: METEOR, SPICE, and the Stanford tokeniser. Optional.

    pip install -e ".[metrics]"      # and a Java runtime, 8 or newer

Each function raises a UserError that says what is missing and how to get it. ``references[i]`` are all references of
``predictions[i]``. All scores are times 100.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.metrics.references import Caption, words

TOOLS = ("meteor", "spice", "tokenizer")

# The files of pycocoevalcap that each tool needs. The package brings them; SPICE's models come extra.
_FILES = {
    "meteor": ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"),
    "spice": ("spice/spice-1.0.jar",),
    "tokenizer": ("tokenizer/stanford-corenlp-3.4.1.jar",),
}

_TOKENS = "'' ' `` ` -lrb- -rrb- -lcb- -rcb- . ? ! , : - -- ... ;"
# The Stanford tokens that pycocoevalcap removes.
_PUNCTUATION = frozenset(_TOKENS.split())


def require(tool: str) -> Path:
    """The folder of the installed pycocoevalcap. Raises UserError when something that ``tool`` needs is missing.

    ``tool`` is one of ``TOOLS``.
    """
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise UserError(f'{tool}: the package pycocoevalcap is missing; pip install -e ".[metrics]"')
    try:  # macOS has a java command that only says that there is no Java
        subprocess.run(["java", "-version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"{tool}: needs Java, and `java -version` fails; install a Java runtime (Debian and Ubuntu: "
            "apt install default-jre-headless; elsewhere: adoptium.net)"
        ) from None
    folder = Path(next(iter(package.submodule_search_locations)))
    for name in _FILES[tool]:
        if not (folder / name).exists():
            raise UserError(
                f"{tool}: {folder / name} is missing; pip install --force-reinstall --no-deps pycocoevalcap==1.2"
            )
    if tool == "spice" and not (folder / "spice/lib/stanford-corenlp-3.6.0-models.jar").exists():
        raise UserError(
            f"spice: the Stanford CoreNLP 3.6.0 models are not in {folder / 'spice/lib'}; fetch them once, about 400 "
            "MB: "
            'python -c "from pycocoevalcap.spice.get_stanford_models import get_stanford_models as get; get()"'
        )
    return folder


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """The words of each caption as the COCO evaluation splits them: Stanford PTB tokens, lower case, no punctuation."""
    folder = require("tokenizer") / "tokenizer"
    jar, main = "stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer"
    lines = "".join(" ".join(caption.split()) + "\n" for caption in captions)
    command = ["java", "-cp", jar, main, "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    done = subprocess.run(command, cwd=folder, input=lines.encode(), capture_output=True)
    found = done.stdout.decode(errors="replace").split("\n")[:-1]
    if done.returncode or len(found) != len(captions):
        raise UserError(f"tokenizer: the Stanford tokeniser failed: {_reason(done.stderr)}")
    return [[word for word in line.split() if word not in _PUNCTUATION] for line in found]


def meteor(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> tuple[float, np.ndarray]:
    """METEOR 1.5 (Denkowski and Lavie, 2014): the score of the corpus, and of each caption, float64 (N,).

    The score of the corpus is not the mean over the captions.
    """
    require("meteor")
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    try:
        total, scores = program.compute_score(*_as_coco(predictions, references))
    except (OSError, ValueError):
        # Else the object would wait for its lock, or complain about the pipe, when it is deleted.
        program.lock.release()
        program.meteor_p.kill()
        with contextlib.suppress(OSError):
            program.meteor_p.stdin.close()
        raise UserError(f"meteor: the Java program failed: {_reason(program.meteor_p.stderr.read())}") from None
    return 100 * total, 100 * np.array(scores)


def spice(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> tuple[float, np.ndarray]:
    """SPICE (Anderson et al., 2016), the F-score over scene graphs: the mean, and each caption's, float64 (N,)."""
    require("spice")
    from pycocoevalcap.spice.spice import Spice

    try:
        with _open_modules():
            total, scores = Spice().compute_score(*_as_coco(predictions, references))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"spice: the Java program failed ({error}); it needs 8 GB of memory and a writable folder"
        ) from None
    return 100 * float(total), 100 * np.array([score["All"]["f"] for score in scores])


@contextlib.contextmanager
def _open_modules() -> Iterator[None]:
    """Let SPICE's serialiser read Java's own classes. Java 16 and later refuse that without these options.

    Java 8 ignores the variable.
    """
    before = os.environ.get("JDK_JAVA_OPTIONS")
    packages = ("lang", "math", "net", "text", "util", "util.concurrent")
    options = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in packages]
    options.append("--add-opens=java.sql/java.sql=ALL-UNNAMED")
    os.environ["JDK_JAVA_OPTIONS"] = " ".join([*([before] if before else []), *options])
    try:
        yield
    finally:
        if before is None:
            del os.environ["JDK_JAVA_OPTIONS"]
        else:
            os.environ["JDK_JAVA_OPTIONS"] = before


def _as_coco(
    predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and predictions as pycocoevalcap takes them: image to sentences with spaces between the words."""
    return (
        {i: [" ".join(words(reference)) for reference in group] for i, group in enumerate(references)},
        {i: [" ".join(words(prediction))] for i, prediction in enumerate(predictions)},
    )


def _reason(stderr: bytes) -> str:
    """What Java said: the line that names an error, before the stack trace, or else the last line."""
    lines = stderr.decode(errors="replace").strip().splitlines() or ["no message"]
    return next((line for line in lines if "Exception" in line or "Error" in line), lines[-1])
