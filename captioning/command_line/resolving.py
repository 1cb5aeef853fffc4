"""The settings of a run: from defaults, presets, files, runs, stages and the command line."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.base.keras_settings import settle_keras
from captioning.base.settings import Fixed, choices, holds, listed, own_fields, refusal, rules_of
from captioning.base.trained import read_trained
from captioning.command_line.options import typed_settings
from captioning.command_line.reading import read_settings
from config import (
    PRESETS,
    STAGE_CHANGES,
    CaptionSettings,
    Config,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    MixtureSettings,
    settings_of,
    validated,
)


def preset(name: str) -> Config:
    """The settings of a named preset. Raises UserError when there is no such preset."""
    if name not in PRESETS:
        raise UserError(f"preset: there is no {name!r}; choose from {', '.join(PRESETS)}")
    return validated(PRESETS[name].settings, f"preset {name}")


def resolve(args: argparse.Namespace) -> Config:
    """The settings of a new run. Raises UserError.

    Each source overrides the one before: defaults, preset, file, what the stage changes (``STAGE_CHANGES``), command
    line. With ``--init`` the settings of that captioner take the place of the first three. Sets ``KERAS_BACKEND`` if
    a backend is chosen.
    """
    typed = typed_settings(args)
    if typed.get("init"):
        if args.preset or args.config:
            raise UserError("--init: the captioner brings its own settings; leave out --preset and --config")
        settings = _continued(typed)
    else:
        settings = preset(args.preset) if args.preset else Config()
        if args.config:
            settings = _read_file(Path(args.config), over=settings)
        if typed.get("stage", settings.stage) != settings.stage:
            settings = _at_stage(settings, typed["stage"])
    if typed.get("features") and not settings.init:
        settings = _without_unread(settings.model_copy(update={"features": typed["features"]}))
    settings = settings.with_overrides(_choose_data(typed, settings))
    _refuse_idle_beam(typed, settings)
    refuse_idle_consensus([settings])
    settle_backend(settings.backend)
    return settings


def _choose_data(typed: Mapping[str, Any], settings: Config) -> dict[str, Any]:
    """The ``typed`` settings, completed for the data sets that they name. They will override ``settings``.

    Where ``settings`` have several data sets, their names in tables choose among them. Other data sets in place of
    several bring all of their settings, and so do several in place of one. One data set in place of one keeps what was
    not typed. Raises UserError for an unknown name.
    """
    wanted, names, layouts = listed(typed.get("dataset", [])), settings.data_names(), choices(Config, "dataset")
    if not wanted or len(wanted) == len(names) == 1:
        return dict(typed)
    if len(names) > 1 and set(wanted) <= set(names):
        own = dict(zip(names, settings.data_sets(), strict=True))
        chosen = settings_of([own[name] for name in wanted])
        return chosen | {name: value for name, value in typed.items() if name != "dataset"}
    for name in wanted:
        if len(names) > 1 and name not in layouts:
            raise UserError(
                f"dataset: there is no {name!r}; name some of {', '.join(names)}, which are there, or others by "
                f"their layouts: {', '.join(layouts)}"
            )
    return {name: Config.model_fields[name].default for name in own_fields(MixtureSettings)} | dict(typed)


def without_data(typed: Mapping[str, Any]) -> dict[str, Any]:
    """The ``typed`` settings but for those of data sets."""
    return {name: value for name, value in typed.items() if name not in own_fields(MixtureSettings)}


def _continued(typed: Mapping[str, Any]) -> Config:
    """The settings with which a stage goes on from the run or bundle ``typed["init"]``. Raises UserError."""
    trained = read_settings(*read_trained(Path(typed["init"]), "config.json"))
    refuse_other_source(trained, typed)
    stage = typed.get("stage", Config().stage)
    fixed = fixed_settings("model") if stage == "align" else fixed_settings("model", "decoder")
    if typed.get("extend_vocabulary"):
        fixed.discard("vocab_threshold")  # it chooses the new words
    if refused := sorted(set(typed) & fixed):
        raise UserError(
            f"--init: {', '.join(refused)} cannot change now, because the weights of the captioner "
            "were made for its own; leave them out"
        )
    changes = {"init": typed["init"], "extend_vocabulary": False}  # each training asks for new words anew
    settings = _at_stage(trained, stage, changes | _fresh(trained, typed))
    if stage != "align":
        refuse_longer(trained, settings.with_overrides(_choose_data(typed, settings)))
    return settings


def _fresh(trained: Config, typed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a new stage does not take over from the ``trained`` captioner, with their defaults.

    These are the settings that only some stages read. ``crop``, ``colour_jitter`` and ``erase`` are taken over if
    ``crops`` is above 0 before and now, because every stage reads them then.
    """
    wanted = trained.model_copy(update={**typed, "stage": trained.stage})
    fresh = {}
    for name in settings_of_stages():
        others = [condition for condition in rules_of(Config, name).only if "stage" not in condition]
        if not any(holds(trained, condition) and holds(wanted, condition) for condition in others):
            fresh[name] = Config.model_fields[name].default
    return fresh


def _at_stage(settings: Config, stage: str, changes: Mapping[str, Any] | None = None) -> Config:
    """``settings`` with ``changes`` and with what ``stage`` changes. Raises UserError.

    Settings that the stage does not read go back to their defaults.
    """
    changed = {**(changes or {}), **STAGE_CHANGES.get(stage, {}), "stage": stage}
    return _without_unread(settings.model_copy(update=changed), changed)


def _without_unread(settings: Config, changed: Mapping[str, Any] | None = None) -> Config:
    """``settings``, not checked yet, where those that nothing reads are at their defaults, but for ``changed`` ones.

    Raises UserError.
    """
    unread = [name for name in Config.model_fields if refusal(settings, name) and name not in settings_of_stages()]
    return settings.with_overrides({name: Config.model_fields[name].default for name in unread} | dict(changed or {}))


def settings_of_stages() -> list[str]:
    """The settings that only some stages read."""
    return [
        name for name in Config.model_fields if any("stage" in condition for condition in rules_of(Config, name).only)
    ]


def _read_file(path: Path, over: Config | None = None) -> Config:
    """The settings of the JSON file ``path``, over others. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read these settings: {error}") from None
    return read_settings(text, str(path), over)


def fixed_settings(*kinds: Fixed) -> set[str]:
    """The settings that something of these kinds keeps as they are (see ``setting``): all kinds unless named."""
    return {
        name
        for name in Config.model_fields
        if (fixed := rules_of(Config, name).fixed) and (not kinds or fixed in kinds)
    }


def resolve_trained(args: argparse.Namespace, trained: Config) -> Config:
    """The settings of a trained captioner with those of the command line over them.

    Raises UserError when that would change what training has fixed.
    """
    typed = typed_settings(args)
    refuse_other_source(trained, typed)
    settings = trained.with_overrides(_choose_data(typed, trained))
    _refuse_idle_beam(typed, settings)
    for name in sorted(fixed_settings()):
        was, wanted = getattr(trained, name), getattr(settings, name)
        if was != wanted:
            raise UserError(f"{name}: the model was trained with {was!r}; {wanted!r} needs a training of its own")
    refuse_longer(trained, settings)
    return settings


def resumable_settings() -> list[str]:
    """The settings that may change when a run goes on, in alphabetical order."""
    return sorted(name for name in Config.model_fields if rules_of(Config, name).resumable)


def resolve_resumed(args: argparse.Namespace, begun: Config) -> Config:
    """The settings of a run that goes on, with those of the command line over them.

    Sets ``KERAS_BACKEND`` if a backend is chosen. Raises UserError when a setting cannot change now.
    """
    typed = typed_settings(args)
    if fixed := sorted(set(typed) - set(resumable_settings())):
        raise UserError(f"--resume: {', '.join(fixed)} cannot change now; only {', '.join(resumable_settings())} can")
    refuse_other_source(begun, typed)
    settings = begun.with_overrides(typed)
    settle_backend(settings.backend)
    return settings


def refuse_idle_consensus(searches: Sequence[DecodingSettings], option: str = "--beam-size") -> None:
    """Raise UserError when consensus is wanted and every one of ``searches`` has too few captions for a vote.

    ``option`` is the option that sets their beams.
    """
    if any(search.consensus for search in searches) and not any(search.votes for search in searches):
        sizes = " and ".join(str(search.beam_size) for search in searches)
        raise UserError(
            f"consensus: needs captions to choose from, and beam_size is {sizes}; give {option} 20 (3 at least), or "
            "--no-consensus"
        )


def _refuse_idle_beam(typed: Mapping[str, Any], settings: DecodingSettings) -> None:
    """Raise UserError when a beam was ``typed`` and captions are drawn. A trained captioner may bring its own beam."""
    if settings.do_sample and "beam_size" in typed:
        raise UserError(
            "beam_size: do_sample draws captions and keeps no beam; leave it out, and num_captions says how many are "
            "drawn"
        )


def refuse_variety(settings: DecodingSettings, what: str, *names: str) -> None:
    """Raise UserError when one of the settings ``names`` is not at its default, because ``what`` cannot follow it."""
    for name in names:
        default = DecodingSettings.model_fields[name].default
        if getattr(settings, name) != default:
            option = f"--no-{name.replace('_', '-')}" if default is False else f"--{name.replace('_', '-')} {default}"
            raise UserError(f"{name}: {what}; leave it out, or give {option}")


def refuse_longer(trained: DecoderSettings, settings: CaptionSettings) -> None:
    """Raise UserError when ``settings`` want longer captions than the ``trained`` captioner can process."""
    kind = trained.decoder if trained.decoder in ("transformer", "m2") else "bert-prefix"
    if kind in (trained.decoder, trained.embedding) and settings.max_caption_length > trained.max_caption_length:
        raise UserError(
            f"max_caption_length: this {kind} was built for {trained.max_caption_length} words and cannot go beyond; "
            "choose a smaller number"
        )


def refuse_other_source(trained: EncoderSettings, typed: Mapping[str, Any]) -> None:
    """Raise UserError if the ``typed`` settings give features to a captioner with an encoder, or take them away."""
    if "features" in typed and bool(typed["features"]) != bool(trained.features):
        raise UserError(
            "features: this captioner reads stored features and has no encoder; name a source of them"
            if trained.features
            else "features: this captioner has an encoder of its own, which makes its features; leave this out"
        )


def refuse_stored_features(settings: EncoderSettings, what: str) -> None:
    """Raise UserError if a captioner with these settings has no encoder for pictures. ``what``: what needs one."""
    if settings.features:
        raise UserError(
            f"{what}: this captioner reads stored features ({settings.features}) and has no encoder for pictures. "
            "evaluate.py captions the images of a data set whose features are stored; for other pictures take a "
            "captioner with an encoder"
        )


def settle_backend(backend: str | None) -> None:
    """Make ``backend`` the one that Keras will load, unless it is empty. Comes before the first ``import keras``.

    It also keeps the settings of somebody's keras.json away. Raises UserError when there is no such backend, or when it
    is not installed.
    """
    if backend:
        os.environ["KERAS_BACKEND"] = Config().with_overrides({"backend": backend}).backend
    settle_keras("backend" if backend else "KERAS_BACKEND")
