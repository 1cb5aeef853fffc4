"""What is read through KerasHub: presets, and folders that it can read. KerasHub is imported only when it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from captioning.base.errors import UserError


def keras_hub_for(what: str, extra: str) -> ModuleType:
    """KerasHub. Raises UserError if it is not installed: ``what`` needs it, and the ``extra`` of setup.py brings it."""
    try:
        import keras_hub
        import safetensors  # noqa: F401  KerasHub reads Hugging Face's folders with it, and does not install it
    except ImportError as error:
        raise UserError(
            f'{what} is read through KerasHub, which cannot be imported ({error}); pip install -e ".[{extra}]"'
        ) from None
    return keras_hub


@contextmanager
def reading_preset(setting: str, name: str, wanted: str, way_out: str) -> Iterator[None]:
    """Turn every error into a UserError while the preset or folder ``name`` is read as ``wanted``."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # KerasHub, its downloads and its readers raise errors of many kinds
        brief = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{setting}: {name} cannot be fetched, or cannot be read as {wanted}: {brief}; {way_out}"
        ) from None
