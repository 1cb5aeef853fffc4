"""Word vectors from a text file: word2vec, GloVe or fastText. No Keras."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from captioning.base.errors import UserError
from captioning.words.vocabulary import SPECIALS


def read_vectors(path: Path, words: Sequence[str], seed: int) -> np.ndarray:
    """The vectors of ``words``, float32 ``(len(words), W)``, from the text file ``path``.

    Words that the file does not have, and special words, get random vectors with the mean and spread of the others.
    Prints how many words are missing. Raises UserError if the file cannot be read, is damaged or has none of the words.
    """
    ids = {word: i for i, word in enumerate(words)}
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as lines:
            found, width = _parse(lines, ids, path)
    except OSError as error:
        problem = error.strerror or error
        raise UserError(f"embedding_file: {path} cannot be read: {problem}; name a file of word vectors") from None
    ordinary = len(words) - len(SPECIALS)
    missing = sum(word not in SPECIALS and ids[word] not in found for word in words)
    if missing == ordinary:
        raise UserError(f"embedding_file: {path} has none of the {ordinary} words of the captions; choose another file")
    print(f"{path}: {missing} of {ordinary} words ({missing / ordinary:.1%}) have no vector and start random")
    known = np.stack(list(found.values()))
    vectors = np.random.default_rng(seed).normal(known.mean(), known.std(), (len(words), width)).astype(np.float32)
    vectors[list(found)] = known
    return vectors


def _parse(lines: Iterable[str], ids: dict[str, int], path: Path) -> tuple[dict[int, np.ndarray], int]:
    """The vectors of the words in ``ids``, by id, and the width of the vectors.

    A line is a word and its numbers, with spaces between. word2vec and fastText have one more line at the top: the
    number of words, and the width. If a word occurs twice, the first line counts. Raises UserError that names the line.
    """
    found: dict[int, np.ndarray] = {}
    announced, width, count = None, 0, 0
    for number, line in enumerate(lines, 1):
        word, _, rest = line.rstrip().partition(" ")
        numbers = rest.count(" ") + 1 if rest else 0
        if number == 1 and numbers == 1 and word.isdecimal() and rest.isdecimal():
            announced, width = int(word), int(rest)
            continue
        count += 1
        width = width or numbers
        if numbers > width and not _are_numbers([rest.split(" ")[0]]):
            continue  # a word with a space in it: GloVe's largest file has some, our captions have none
        if numbers == 0 or numbers != width:
            raise UserError(
                f"embedding_file: {path}, line {number}: {numbers} numbers where there should be {width or 'some'}; "
                "it must be a text file in the format of word2vec, GloVe or fastText"
            )
        if word in ids and ids[word] not in found:
            values = rest.split(" ")
            if not _are_numbers(values):
                raise UserError(
                    f"embedding_file: {path}, line {number}: the values of {word!r} are not numbers; "
                    "fetch the file again"
                )
            found[ids[word]] = np.asarray(values, dtype=np.float32)
    if announced not in (None, count):
        raise UserError(f"embedding_file: {path} announces {announced} words and holds {count}; fetch it again")
    return found, width


def _are_numbers(values: Sequence[str]) -> bool:
    """Whether all ``values`` are finite numbers."""
    try:
        return bool(np.isfinite(np.asarray(values, dtype=np.float32)).all())
    except ValueError:
        return False
