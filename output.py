"""What scripts leave behind: Markdown tables, and whole files or none. No Keras."""

from collections.abc import Sequence
from pathlib import Path

from config import UserError
from feature_store import write_atomically


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table of rows that all have the same columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(path: Path, text: str) -> None:
    """Write a text file, and its folder if there is none. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
