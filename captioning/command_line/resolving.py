"""The command line turned into settings: options, resolving, what a stage changes, settings of earlier releases."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.command_line.options import typed_settings
from config import (
    CROP_SETTINGS,
    KEPT_SETTINGS,
    PRESETS,
    SHAPING_SETTINGS,
    STAGE_SETTINGS,
    STAGES,
    TRAINED_SETTINGS,
    Config,
    json_object,
    validated,
)


def preset(name: str) -> Config:
    """The settings of a named preset. Raises UserError when there is no such preset."""
    if name not in PRESETS:
        raise UserError(f"preset: there is no {name!r}; choose from {', '.join(PRESETS)}")
    return validated(PRESETS[name], f"preset {name}")


def resolve(args: argparse.Namespace) -> Config:
    """Defaults, then preset, then file, then command line, each over the one before; init replaces the first three.

    What a typed stage changes (``STAGES``) goes between these and the rest of the command line. Sets ``KERAS_BACKEND`` when
    the backend setting asks for one. Raises UserError.
    """
    typed = typed_settings(args)
    settings = preset(args.preset) if args.preset else Config()
    if args.config:
        settings = _over(settings, Path(args.config))
    stage = {"stage": typed.get("stage", settings.stage)}
    if typed.get("init"):
        if args.preset or args.config:
            raise UserError("--init: the run brings its own settings; leave out --preset and --config")
        fixed = sorted(set(typed) & (KEPT_SETTINGS if stage["stage"] == "align" else SHAPING_SETTINGS))
        if fixed:
            raise UserError(f"--init: {', '.join(fixed)} cannot change now; the run's weights were made for its own")
        stage["init"] = typed["init"]
        settings = _over(settings, Path(typed["init"]) / "config.json")
        # What an earlier stage alone has read starts afresh; how crops are made stays while there are any.
        forgotten = [name for names in STAGE_SETTINGS.values() for name in names]
        forgotten += [] if settings.crops and str(typed.get("crops", "")) != "0" else CROP_SETTINGS
        fresh = {name: Config.model_fields[name].default for name in forgotten}
        trained, settings = settings, settings.with_overrides(fresh | _stage_changes(settings, stage["stage"]) | stage)
        if stage["stage"] != "align":
            refuse_longer(trained, settings.with_overrides(typed))
    elif stage["stage"] != settings.stage:
        settings = settings.with_overrides(_stage_changes(settings, stage["stage"]) | stage)
    settings = settings.with_overrides(typed)
    refuse_idle_consensus([settings])
    settle_backend(settings.backend)
    return settings


def _stage_changes(settings: Config, stage: str) -> dict[str, Any]:
    """What beginning ``stage`` changes in ``settings``: ``STAGES``, and the BERT of an embedding that is not used any more."""
    changes = STAGES.get(stage, {})
    if stage == "align" and settings.vocabulary != "wordpieces":
        changes = changes | {"bert": Config.model_fields["bert"].default}
    return changes


def _over(settings: Config, path: Path) -> Config:
    """``settings`` with those of the JSON file ``path`` over them. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read these settings: {error}") from None
    return validated({**settings.model_dump(), **json_object(text, str(path))}, str(path), strict=True)


def resolve_trained(args: argparse.Namespace, trained: Config) -> Config:
    """The settings of a trained captioner with those of the command line over them.

    Raises UserError when that would change what training has fixed.
    """
    settings = trained.with_overrides(typed_settings(args))
    for name in sorted(TRAINED_SETTINGS):
        was, wanted = getattr(trained, name), getattr(settings, name)
        if was != wanted:
            raise UserError(f"{name}: the model was trained with {was!r}; {wanted!r} needs a training of its own")
    refuse_longer(trained, settings)
    return settings


def refuse_idle_consensus(searches: Sequence[Config], option: str = "--beam-size") -> None:
    """Raise UserError when consensus is wanted and none of ``searches`` has captions enough. ``option`` sets their beams."""
    if any(search.consensus for search in searches) and not any(search.votes for search in searches):
        sizes = " and ".join(str(search.beam_size) for search in searches)
        raise UserError(
            f"consensus: needs captions to choose from, and beam_size is {sizes}; give {option} 20 (3 at least), or "
            "--no-consensus"
        )


def refuse_longer(trained: Config, settings: Config) -> None:
    """Raise UserError when ``settings`` want longer captions than the ``trained`` captioner can keep in mind."""
    keeps = "transformer" if trained.decoder == "transformer" else "bert-prefix"
    if keeps in (trained.decoder, trained.embedding) and settings.max_caption_length > trained.max_caption_length:
        raise UserError(
            f"max_caption_length: this {keeps} was built for {trained.max_caption_length} words and cannot go beyond"
        )


def settle_backend(backend: str | None) -> None:
    """Make ``backend`` the one that Keras will load, unless it is empty. Comes before the first ``import keras``.

    Raises UserError when there is no such backend.
    """
    if backend:
        os.environ["KERAS_BACKEND"] = Config().with_overrides({"backend": backend}).backend
