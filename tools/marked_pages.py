"""Pages of docs/ whose parts between two marks are written by a tool."""

import re
from collections.abc import Sequence
from pathlib import Path

from captioning.base.errors import UserError


def filled(page: Path, text: str, marks: tuple[str, str], ours: Sequence[str]) -> str:
    """The ``text`` of ``page`` with ``ours`` between its ``marks``, part by part.

    Raises UserError unless the two marks stand in it in turn, as often as there are parts.
    """
    begin, end = marks
    parts = re.split(f"({re.escape(begin)}|{re.escape(end)})", text)
    if parts[1::2] != [begin, end] * len(ours):
        raise UserError(
            f"{page}: the lines {begin.strip()} and {end.strip()} must stand in it in turn, as often as there are parts: "
            f"{len(ours)}"
        )
    parts[2::4] = ours
    return "".join(parts)
