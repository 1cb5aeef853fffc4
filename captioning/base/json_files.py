"""The one reader of JSON that this software or others have written: damaged and hostile text gives a clear error.

``json.loads`` alone raises errors of five kinds, and it takes numbers that nothing else can hold. No Keras.
"""

import json
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from captioning.base.errors import UserError

MAX_BYTES = 512 << 20  # of a file; the index of a million pictures has a fifth of it
MAX_DEPTH = 32  # lists and objects within one another; ours have at most five
_LARGEST = 2**63 - 1  # whole number: int64 holds it

T = TypeVar("T")
_LONG_NUMBER = re.compile(r"9[2-9]\d{17}|\d{20}")  # what may be above _LARGEST
_LARGE_POWER = re.compile(r"\d[eE]\+?\d{2}")


def read_json(path: Path, advice: str, kind: type[T], max_bytes: int = MAX_BYTES) -> T:
    """``load_json``, and UserError in place of ValueError. The error names ``path`` and ends in ``advice``."""
    try:
        return load_json(path, kind, max_bytes)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {advice}") from None


def load_json(path: Path, kind: type[T], max_bytes: int = MAX_BYTES) -> T:
    """The JSON value in the file ``path``, which is of type ``kind``: dict or list.

    Raises FileNotFoundError if there is no such file. Raises ValueError if it is damaged, too large or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with NUL
        raise ValueError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than the {max_bytes >> 20} MiB that such a file may have")
    return from_json(data, kind)


def parse_json(text: str | bytes, source: str, advice: str, kind: type[T]) -> T:
    """``from_json``, and UserError in place of ValueError. The error begins with ``source`` and ends in ``advice``."""
    try:
        return from_json(text, kind)
    except ValueError as error:
        raise UserError(f"{source}: damaged ({error}); {advice}") from None


def from_json(text: str | bytes, kind: type[T]) -> T:
    """The JSON value ``text``, which is of type ``kind``: dict or list. ``bytes`` are UTF-8.

    Raises ValueError for text that is no JSON, more than ``MAX_DEPTH`` levels, whole numbers that int64 does not hold,
    and numbers that are not finite.
    """
    try:
        value = _parse(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"expected a JSON {_NAMES[kind]}, found {_NAMES.get(type(value), type(value).__name__)}")
    return value


_NAMES: dict[type, str] = {dict: "object", list: "list", str: "text", bool: "true or false", type(None): "null"}


def _parse(text: str) -> Any:
    # The hooks cost time, so they are only there where a long number may be.
    value = json.loads(
        text,
        parse_int=_whole if _LONG_NUMBER.search(text) else None,
        parse_float=_finite if _LARGE_POWER.search(text) or _LONG_NUMBER.search(text) else None,
        parse_constant=_refuse,
    )
    level, depth = [value], 0
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise RecursionError
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > _LARGEST:
        raise ValueError(f"the number {digits[:20]} is too large")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def as_written(value: Any) -> Any:
    """``value`` as a JSON file gives it back, with lists in place of tuples."""
    return json.loads(json.dumps(value))


def take(found: dict[str, Any], name: str, kind: type[T], check: Callable[[T], bool] | None = None) -> T:
    """``found[name]``, which is of type ``kind`` and passes the ``check``. A float may be written as a whole number.

    Raises ValueError that names ``name``.
    """
    if name not in found:
        raise ValueError(f"{name} is missing")
    value = found[name]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (check and not check(value)):
        raise ValueError(f"{name} may not be {reprlib.repr(value)}")
    return value
