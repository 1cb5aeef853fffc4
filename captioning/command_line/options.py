"""The options of every script: one per setting."""

import argparse
import difflib
import re
from collections.abc import Collection
from typing import Any, NoReturn

from pydantic import BaseModel

from captioning.base.script import be_quiet
from captioning.base.settings import (
    choices,
    listed,
    not_readers,
    own_fields,
    readers,
    rules_of,
    single_type,
    takes_several,
)
from config import PRESETS, STAGE_CHANGES, Config


def add_settings(
    parser: argparse.ArgumentParser, trained: bool = False, several: bool = True, own: Collection[str] = ()
) -> None:
    """Add one option per setting, in groups, each left unset unless typed.

    The help states meaning, default and who reads the setting. With ``trained`` it also marks what training has fixed.
    With ``several`` an option takes a value for each of several data sets where the setting does. There are none for
    the settings ``own``.
    """
    groups = [group for group in reversed(Config.__mro__) if issubclass(group, BaseModel) and own_fields(group)]
    for group in groups:
        section = parser.add_argument_group(f"settings: {group.__doc__}")
        for name in own_fields(group):
            if name in own:
                continue
            kwargs: dict[str, Any] = {"help": _help(name, trained), "default": argparse.SUPPRESS}
            if Config.model_fields[name].annotation is bool:
                kwargs["action"] = argparse.BooleanOptionalAction
            else:
                kwargs["metavar"] = _metavar(name)
                kwargs["nargs"] = "+" if several and takes_several(Config, name) else None
            section.add_argument(f"--{name.replace('_', '-')}", dest=f"setting:{name}", **kwargs)


def _metavar(name: str) -> str:
    """What stands for a value in the help: its choices, N or X for a number, or else the end of the setting's name."""
    annotation = single_type(Config, name)
    if found := choices(Config, name):
        return f"{{{','.join(filter(None, found))}}}"
    return "N" if annotation is int else "X" if annotation is float else name.split("_")[-1].upper()


def _help(name: str, trained: bool) -> str:
    rules = rules_of(Config, name)
    notes = [f"default: {_shown_default(name)}"]
    notes += [f"only with {readers(rules)}"] if rules.only else []
    notes += [f"not with {not_readers(rules)}"] if rules.never else []
    notes += ["fixed by training"] if trained and rules.fixed else []
    # argparse formats the text with %.
    return f"{Config.model_fields[name].description} [{'; '.join(notes)}]".replace("%", "%%")


def _shown_default(name: str) -> str:
    """The default of a setting as the help shows it, with those of the stages that have another."""
    default = Config.model_fields[name].default
    own = "".join(
        f"; stage={stage}: {changes[name]}"
        for stage, changes in STAGE_CHANGES.items()
        if changes.get(name, default) != default
    )
    default = ",".join(default) if isinstance(default, tuple) else default
    return f"{default if default not in ('', None) else 'unset'}{own}"


def typed_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed on the command line, by name."""
    typed = {key.split(":", 1)[1]: value for key, value in vars(args).items() if key.startswith("setting:")}
    for name, value in typed.items():
        value = typed[name] = value[0] if isinstance(value, list) and len(value) == 1 else value
        default = Config.model_fields[name].default
        if isinstance(default, tuple):
            typed[name] = [part for part in value.split(",") if part]
        elif default is None:
            found = [None if part.lower() == "none" else part for part in listed(value)]
            typed[name] = found if isinstance(value, list) else found[0]
    return typed


class _Quiet(argparse.Action):
    """The option ``--quiet``, which holds for all that follows."""

    def __call__(self, parser, namespace, values, option_string=None):
        be_quiet()


# What ``generate`` of Hugging Face's transformers calls options that have another name here.
_OF_GENERATE = {
    "num-beams": "beam-size",
    "num-return-sequences": "captions",
    "num-beam-groups": "beam-groups",
    "no-repeat-ngram-size": "no-repeat-ngram",
    "min-new-tokens": "min-length",
    "max-new-tokens": "max-caption-length",
    "max-length": "max-caption-length",
    "bad-words-ids": "exclude-words",
    "force-words-ids": "include",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose error about an unknown option names the one that may be meant."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            known = [option for action in self._actions for option in action.option_strings]
            for wrong in re.findall(r"(?<!\S)--[\w-]+", message):
                name = wrong[2:].replace("_", "-")
                near = [f"--{_OF_GENERATE.get(name, name)}"]
                if near[0] not in known:
                    near = difflib.get_close_matches(f"--{name}", known, n=1)
                message += "".join(f"; for {wrong} take {option}" for option in near)
        super().error(message)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help whose usage names the options of the script only. Those of the settings have sections of their own."""

    def add_usage(self, usage, actions, groups, prefix=None):
        shown = [action for action in actions if not action.dest.startswith("setting:")]
        settings = argparse.Action([], "settings", nargs="*", metavar="--SETTING VALUE")
        super().add_usage(usage, [*shown, settings], groups, prefix)


def make_parser(
    description: str | None, trained: bool = False, several: bool = True, own: Collection[str] = ()
) -> argparse.ArgumentParser:
    """A parser with the options that every script shares. ``description`` is the script's docstring.

    A script that works with a ``trained`` captioner starts from that captioner's settings, so it offers no others. A
    script whose command line holds more than options is not for ``several`` data sets, because the last option before
    these words would take them for its values. ``own``: settings that the script does not read, and whose names it
    gives to options of its own.
    """
    parser = _Parser(description=description, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument(
        "--quiet", action=_Quiet, nargs=0, help="show no progress; results, notes and errors are printed as ever"
    )
    if not trained:
        parser.add_argument("--preset", help=f"start from these settings: {', '.join(PRESETS)}")
        parser.add_argument("--config", metavar="FILE", help="start from this JSON file of settings")
    add_settings(parser, trained, several, own)
    return parser


def add_views(parser: argparse.ArgumentParser) -> None:
    """Offer ``--views`` (see ``view`` of ``captioning/pictures/loading.py``) to a script that captions pictures."""
    parser.add_argument(
        "--views",
        type=int,
        choices=[1, 4],
        default=1,
        help="4: average what is predicted from four looks at each picture: the whole, its middle, and both mirrored. "
        "This takes four times as long [default: 1]",
    )
