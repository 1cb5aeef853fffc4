"""Settings read from JSON text: of a file, a run folder or a bundle, also of earlier releases."""

import json
from typing import Any

from captioning.base.errors import UserError
from config import Config, validated


def read_settings(text: str, source: str, over: Config | None = None) -> Config:
    """The settings in ``text``, which ``Config.to_json`` or a user wrote.

    Missing settings are those of ``over``, or else the defaults. Raises UserError that names ``source``.
    """
    start = over.model_dump() if over else {}
    return validated(start | _settings_of_today(_json_object(text, source)), source, strict=True)


def _json_object(text: str, source: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected a JSON object of settings, found {type(values).__name__}")
    return values


# Settings that only one stage reads, with that stage and the default that an earlier release had. Runs of other stages
# hold this default too, although nothing read it. In such a run the setting takes today's default.
_FORMER_DEFAULTS = {
    "xe_share": ("scst", 0.2),
    "tuned_layers": ("finetune", 29),
    "encoder_learning_rate": ("finetune", 1e-5),
}


def _settings_of_today(values: dict[str, Any]) -> dict[str, Any]:
    """``values``, which an earlier release may have written, under today's names."""
    values = dict(values)
    if isinstance(values.get("mixed_precision"), bool) and "precision" not in values:
        values["precision"] = "float16" if values.pop("mixed_precision") else "float32"
    for name, (stage, default) in _FORMER_DEFAULTS.items():
        if values.get(name) == default and values.get("stage") != stage:
            del values[name]
    return values
