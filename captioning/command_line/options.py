"""The options of every script: one per setting."""

import argparse
from typing import Any

from config import (
    PRESETS,
    STAGES,
    AlignmentSettings,
    BatchSettings,
    CaptionSettings,
    Config,
    DataSettings,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    MachineSettings,
    OptimizerSettings,
    TrainingSettings,
    own_fields,
)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting, in groups, each left unset unless typed. The help states default and meaning."""
    for group in (
        DataSettings,
        CaptionSettings,
        EncoderSettings,
        DecoderSettings,
        AlignmentSettings,
        TrainingSettings,
        BatchSettings,
        OptimizerSettings,
        DecodingSettings,
        MachineSettings,
    ):
        section = parser.add_argument_group(f"settings: {group.__doc__}")
        for name in own_fields(group):
            field = group.model_fields[name]
            text = f"{field.description} [default: {_shown_default(name)}]"
            kwargs: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS, "dest": f"setting:{name}"}
            if field.annotation is bool:
                kwargs["action"] = argparse.BooleanOptionalAction
            else:
                kwargs["metavar"] = name.split("_")[-1].upper()
            section.add_argument(f"--{name.replace('_', '-')}", **kwargs)


def _shown_default(name: str) -> str:
    """The default of a setting as the help shows it, with those of the stages that have another."""
    default = Config.model_fields[name].default
    own = "".join(
        f"; stage={stage}: {changes[name]}"
        for stage, changes in STAGES.items()
        if changes.get(name, default) != default
    )
    default = ",".join(default) if isinstance(default, tuple) else default
    return f"{default if default not in ('', None) else 'unset'}{own}"


def typed_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed on the command line, by name."""
    typed = {key.split(":", 1)[1]: value for key, value in vars(args).items() if key.startswith("setting:")}
    for name, value in typed.items():
        if isinstance(Config.model_fields[name].default, tuple):
            typed[name] = [part for part in value.split(",") if part]
        elif name == "captions_file" and value.lower() == "none":
            typed[name] = None
    return typed


def make_parser(description: str, trained: bool = False) -> argparse.ArgumentParser:
    """A parser with the options that every script shares. ``description`` is the script's docstring.

    A script that works with a ``trained`` captioner starts from that one's settings, so it offers no others.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if not trained:
        parser.add_argument("--preset", help=f"start from these settings: {', '.join(PRESETS)}")
        parser.add_argument("--config", metavar="FILE", help="start from this JSON file of settings")
    add_settings(parser)
    return parser


def add_views(parser: argparse.ArgumentParser) -> None:
    """Offer ``--views``, of ``images.view``, to a script that captions with trained captioners."""
    parser.add_argument(
        "--views",
        type=int,
        choices=[1, 4],
        default=1,
        help="4: average what is predicted from four looks at each picture, the whole, its middle, and both mirrored, which takes four times as long [default: 1]",
    )
