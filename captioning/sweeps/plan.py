"""A sweep: rows of settings over a common base, each trained with several seeds and scored in the same way. No Keras.

A sweep file is a JSON object:

    base        settings that all rows share, by name; also "preset" and "config", a file of settings
    rows        a list of {"name": ..., "settings": {...}}; these settings take the place of those of the base
    seeds       a list of seeds; [0] if there are none
    evaluate    what evaluate.py is asked for: "split" (dev if it is not named), "beam_sizes", "views", and settings
                that training has not fixed, such as length_penalty
    baseline    the name of the row that the others are compared with; the first row if there is none
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from captioning.base.errors import UserError
from captioning.base.json_files import read_json
from captioning.base.settings import listed, takes_several
from captioning.command_line.options import make_parser, typed_settings
from captioning.command_line.resolving import fixed_settings, resolve
from captioning.data.records import SPLIT_NAMES
from config import Config

_KEYS = ("base", "rows", "seeds", "evaluate", "baseline")
_SOURCES = ("preset", "config")
# The options of train.py that the sweep gives itself, and where they come from.
_OURS = {
    "seed": "the seeds are those of seeds",
    "name": "runs are called by row and seed",
    "run_dir": "--output names the folder of the sweep",
    "resume": "the sweep resumes by itself",
}
_SCORING = ("split", "beam_sizes", "views")  # the options of evaluate.py that are no settings
_MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Training:
    """One row with one seed. ``train`` and ``evaluate`` are the options of the scripts, without names of folders."""

    row: str
    seed: int
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"{folder_name(self.row)}-seed{self.seed}"


@dataclass(frozen=True)
class Sweep:
    """A whole sweep: its rows in order, the row that the others are compared with, and the split that is scored."""

    trainings: tuple[Training, ...]
    baseline: str
    split: str

    @property
    def rows(self) -> list[str]:
        """The names of the rows."""
        return list(dict.fromkeys(training.row for training in self.trainings))

    def of_row(self, row: str) -> list[Training]:
        """The trainings of a row, one for each seed."""
        return [training for training in self.trainings if training.row == row]


def folder_name(row: str) -> str:
    """``row`` as a part of the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", row).strip("-.")


def read_sweep(path: Path, changes: Mapping[str, Any] | None = None) -> Sweep:
    """The sweep of a file. ``changes``: what takes the place of the file's; what ``base`` and ``evaluate`` hold joins.

    Raises UserError.
    """
    try:
        found = read_json(path, "write a JSON object as captioning/sweeps/plan.py describes it", dict)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such sweep file; name a JSON file such as sweeps/demo.json") from None
    changes = dict(changes or {})
    for key in ("base", "evaluate"):
        own = found.get(key, {})
        if key in changes and isinstance(own, dict):
            changes[key] = own | changes[key]
    return make_sweep(found | changes, str(path))


def make_sweep(described: Mapping[str, Any], source: str) -> Sweep:
    """The sweep that ``described`` describes, checked. Raises UserError that names ``source`` and the row."""
    if unknown := [key for key in described if key not in _KEYS]:
        raise UserError(f"{source}: {unknown[0]}: unknown; a sweep has {', '.join(_KEYS)}")
    base = _settings(described.get("base", {}), f"{source}: base")
    rows = _rows(described.get("rows"), source)
    seeds = _seeds(described.get("seeds", [0]), source)
    baseline = described.get("baseline", next(iter(rows)))
    if baseline not in rows:
        raise UserError(f"{source}: baseline: there is no row {baseline!r}; name one of {', '.join(rows)}")
    scoring = _scoring(described.get("evaluate", {}), f"{source}: evaluate")
    trainings: list[Training] = []
    known: dict[str, Config] = {}
    for row, own in rows.items():
        where = f"{source}: row {row!r}"
        config = _resolved(base | own, where)
        for other, settings in known.items():
            if settings == config:
                raise UserError(f"{where}: has the same settings as row {other!r}; leave one of them out")
        known[row] = config
        _check_scoring(config, scoring, f"{where}: evaluate")
        options = (*to_options(base | own), "--seed")
        evaluate = tuple(to_options(scoring))
        trainings += [Training(row, seed, (*options, str(seed)), evaluate, config) for seed in seeds]
    return Sweep(tuple(trainings), baseline, str(scoring["split"]))


def to_options(settings: Mapping[str, Any]) -> list[str]:
    """``settings`` as they are typed on the command line. Those that name a start come first."""
    options: list[str] = []
    for name in sorted(settings, key=lambda name: name not in _SOURCES):
        value, option = settings[name], f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            options.append(option if value else f"--no-{option[2:]}")
            continue
        values = [_text(part) for part in listed(value)]
        if not (name in Config.model_fields and takes_several(Config, name)):
            values = [",".join(values)]
        # A value that begins with - would be taken for an option.
        options += [f"{option}={values[0]}"] if values[0].startswith("-") else [option, *values]
    return options


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _rows(found: Any, source: str) -> dict[str, dict[str, Any]]:
    """The settings of each row, by its name."""
    if not isinstance(found, list) or not found:
        raise UserError(f'{source}: rows: expected a list of {{"name": ..., "settings": {{...}}}}, one at least')
    rows: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(found, 1):
        where = f"{source}: row {number}"
        if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str) or not folder_name(name):
            raise UserError(f"{where}: needs a name with a letter or a digit")
        if unknown := [key for key in entry if key not in ("name", "settings")]:
            raise UserError(f"{where}: {unknown[0]}: unknown; a row has name and settings")
        for other in rows:
            if folder_name(other).lower() == folder_name(name).lower():
                raise UserError(f"{where}: {name!r} is the name of another row ({other!r}); give it one of its own")
        rows[name] = _settings(entry.get("settings", {}), f"{source}: row {name!r}")
    return rows


def _seeds(found: Any, source: str) -> list[int]:
    seeds = found if isinstance(found, list) else [found]
    if not seeds or any(type(seed) is not int or not 0 <= seed <= _MOST_SEED for seed in seeds):
        raise UserError(f"{source}: seeds: expected whole numbers from 0 on, such as [0, 1]; found {found!r}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{source}: seeds: {found!r} names a seed twice; name each seed once")
    return seeds


def _settings(found: Any, where: str) -> dict[str, Any]:
    """Settings of train.py by name, each of a kind that can be typed. Raises UserError."""
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected an object of settings; found {found!r}")
    for name, value in found.items():
        if name in _OURS:
            raise UserError(f"{where}: {name}: cannot be set here; {_OURS[name]}")
        if name not in (*Config.model_fields, *_SOURCES):
            near = get_close_matches(name, [*Config.model_fields, *_SOURCES], n=1)
            raise UserError(
                f"{where}: {name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
            )
        _check_value(name, value, where)
    return dict(found)


def _check_value(name: str, value: Any, where: str) -> None:
    is_switch = name in Config.model_fields and Config.model_fields[name].annotation is bool
    if is_switch and not isinstance(value, bool):
        raise UserError(f"{where}: {name}: expected true or false; found {value!r}")
    kinds = (str, int, float, type(None))
    parts = value if isinstance(value, list) else [value]
    if not parts or any(not isinstance(part, kinds) or (isinstance(part, bool) and not is_switch) for part in parts):
        raise UserError(f"{where}: {name}: expected a text, a number, or a list of them; found {value!r}")


def _scoring(found: Any, where: str) -> dict[str, Any]:
    """The options of evaluate.py by name. Raises UserError."""
    if not isinstance(found, dict):
        raise UserError(f'{where}: expected an object such as {{"split": "test"}}; found {found!r}')
    scoring = {"split": "dev"} | found
    settings = {name: value for name, value in scoring.items() if name not in _SCORING}
    _settings(settings, where)
    if refused := [name for name in settings if name in _SOURCES or name in fixed_settings()]:
        raise UserError(f"{where}: {refused[0]}: training has fixed it; set it in base or in a row")
    for name in _SCORING:
        if name in scoring:
            _check_value(name, scoring[name], where)
    if scoring["split"] not in SPLIT_NAMES:
        raise UserError(f"{where}: split: there is no {scoring['split']!r}; choose dev or test")
    if str(scoring.get("views", 1)) not in ("1", "4"):
        raise UserError(f"{where}: views: may be 1 or 4; found {scoring['views']!r}")
    return scoring


def _check_scoring(config: Config, scoring: Mapping[str, Any], where: str) -> None:
    """Raise UserError when a captioner of ``config`` cannot be scored so."""
    if config.stage == "align":
        raise UserError(f"{where}: stage=align trains no captioner, and evaluate.py scores captioners; leave it out")
    own = config.with_overrides({name: value for name, value in scoring.items() if name not in _SCORING}, where)
    for size in ",".join(map(_text, listed(scoring.get("beam_sizes", own.beam_size)))).split(","):
        own.with_overrides({"beam_size": size}, f"{where}: beam_sizes")


def _resolved(settings: Mapping[str, Any], where: str) -> Config:
    """The settings that train.py would train with. Raises UserError."""
    backend = os.environ.get("KERAS_BACKEND")
    try:
        return resolve(make_parser(None).parse_args(to_options(settings)))
    except UserError as error:
        told = str(error).removeprefix("bad settings in the command line:\n").strip()
        raise UserError(f"{where}: {told}") from None
    finally:  # a row with a backend of its own must not choose that of the others
        if backend is None:
            os.environ.pop("KERAS_BACKEND", None)
        else:
            os.environ["KERAS_BACKEND"] = backend


def typed_base(args: Any) -> dict[str, Any]:
    """The settings on the command line of a sweep, which join those of the base."""
    own = {name: value for name in _SOURCES if (value := getattr(args, name))}
    return own | typed_settings(args)


def grid(options: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a grid, one for each combination of ``options`` such as "decoder=merge,m2". Raises UserError."""
    rows: list[tuple[list[str], dict[str, Any]]] = [([], {})]
    for option in options:
        name, equals, values = option.partition("=")
        name = name.replace("-", "_")
        if not equals or not all(parts := values.split(",")):
            raise UserError(f"--rows: {option!r}: expected a setting and its values, such as decoder=merge,attention")
        is_switch = name in Config.model_fields and Config.model_fields[name].annotation is bool
        switches = {"true": True, "false": False}
        rows = [
            (
                [*names, part if len(options) == 1 else f"{name} {part}"],
                own | {name: switches.get(part, part) if is_switch else part},
            )
            for names, own in rows
            for part in parts
        ]
    return [{"name": ", ".join(names), "settings": own} for names, own in rows]
