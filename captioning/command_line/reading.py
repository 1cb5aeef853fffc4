"""Settings read from JSON text: of a file, a run folder or a bundle, also of earlier releases."""

from typing import Any

from captioning.base.json_files import parse_json
from config import Config, validated

_ADVICE = "write a JSON object of settings, as python config.py prints it"


def read_settings(text: str, source: str, over: Config | None = None) -> Config:
    """The settings in ``text``, which ``Config.to_json`` or a user wrote.

    Missing settings are those of ``over``, or else the defaults. Raises UserError that names ``source``.
    """
    start = over.model_dump() if over else {}
    return validated(start | _settings_of_today(parse_json(text, source, _ADVICE, dict)), source, strict=True)


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
    if "distinct_weight" in values:  # what similar_weight was called; similar_images could be set without it
        values.setdefault("similar_weight", values.pop("distinct_weight"))
        if not values["similar_weight"]:
            values.pop("similar_images", None)
    for name, (stage, default) in _FORMER_DEFAULTS.items():
        if values.get(name) == default and values.get("stage") != stage:
            del values[name]
    return values
