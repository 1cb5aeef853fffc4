"""How a setting is declared, and what follows: who reads it, and how long it stays as it is.

``config.py`` declares every setting with ``setting``. The command line, the checks and the help ask here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Discriminator, Field, Tag

T = TypeVar("T")


def _how_many(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


# The type of a setting with a value, or with one for each of several data sets. The discriminator keeps errors short.
OneOrMore = Annotated[Annotated[T, Tag("one")] | Annotated[tuple[T, ...], Tag("several")], Discriminator(_how_many)]

# In a condition, in place of values: any value but the default.
ON: Literal["on"] = "on"
# Other settings, and the values with which the condition holds. All of them must fit.
Condition = Mapping[str, tuple[str, ...] | Literal["on"]]
Fixed = Literal["", "training", "decoder", "model"]


@dataclass(frozen=True)
class Rules:
    """What a setting says about itself besides default, type, bounds and meaning (see ``setting``)."""

    only: tuple[Condition, ...] = ()
    never: Condition | None = None
    tolerated: bool = False
    fixed: Fixed = ""
    resumable: bool = False
    taken_for: str = ""


def setting(
    default: Any,
    meaning: str,
    *,
    only: Condition | tuple[Condition, ...] = (),
    never: Condition | None = None,
    tolerated: bool = False,
    fixed: Fixed = "",
    resumable: bool = False,
    taken_for: str = "",
    **bounds: Any,
) -> Any:
    """Declare a setting: a pydantic field that also says who reads it and when it may change.

    only: The setting is read only while these other settings have one of these values. A tuple holds alternatives.
    never: The setting is not read while one of these other settings has one of these values.
    tolerated: Where nothing reads the setting, it may have any value. Otherwise it must have its default there.
    fixed: What keeps the setting as it is.
        ""          nothing: every command may change it
        "training"  a trained model keeps it; a next stage (``--init``) may choose it anew
        "decoder"   the decoder was built for it; a next stage keeps it, except align, which has no decoder
        "model"     the encoder and the vocabulary were made for it; every next stage keeps it
    resumable: ``--resume`` may change it.
    taken_for: Another setting, for which people take this one by its name. The error names it.
    bounds: ``ge``, ``le``, ``gt``, ``lt`` and ``multiple_of`` of pydantic.
    """
    conditions = only if isinstance(only, tuple) else (only,)
    rules: dict[str, Any] = {"rules": Rules(conditions, never, tolerated, fixed, resumable, taken_for)}
    return Field(default, description=meaning, json_schema_extra=rules, **bounds)


def of_each(group: type[BaseModel], name: str) -> Any:
    """Declare a setting that has one value, or one for each of several data sets: the setting ``name`` of ``group``.

    Default, meaning and rules are those of ``group``. Its bounds are not checked here but where ``group`` is made.
    """
    field = group.model_fields[name]
    return Field(field.default, description=field.description, json_schema_extra=field.json_schema_extra)


def listed(value: Any) -> list[Any]:
    """The values of a setting of type ``OneOrMore``."""
    return list(value) if isinstance(value, list | tuple) else [value]


def shown(value: Any) -> str:
    """A value of a setting as the user types it."""
    return " ".join(map(str, listed(value)))


def takes_several(group: type[BaseModel], name: str) -> bool:
    """Whether the setting ``name`` of ``group`` is of type ``OneOrMore``."""
    return any(isinstance(part, Discriminator) for part in group.model_fields[name].metadata)


def choices(group: type[BaseModel], name: str) -> tuple[str, ...]:
    """The values that the setting ``name`` of ``group`` may have; none if any text or number will do."""
    kind = single_type(group, name)
    return get_args(kind) if get_origin(kind) is Literal else ()


def single_type(group: type[BaseModel], name: str) -> Any:
    """The type of a single value of the setting ``name`` of ``group``."""
    kind = group.model_fields[name].annotation
    return get_args(get_args(kind)[0])[0] if takes_several(group, name) else kind


def own_fields(group: type[BaseModel]) -> list[str]:
    """The names of the settings that ``group`` declares itself, without those of the groups that it extends."""
    return [name for name in group.model_fields if name in group.__annotations__]


def rules_of(group: type[BaseModel], name: str) -> Rules:
    """The rules of the setting ``name`` of ``group``."""
    extra = group.model_fields[name].json_schema_extra
    rules = extra.get("rules") if isinstance(extra, dict) else None
    return rules if isinstance(rules, Rules) else Rules()


def read_by_choice(settings: BaseModel, group: type[BaseModel], other: str) -> dict[str, Any]:
    """The settings of ``group`` that only some values of ``other`` read, among them the chosen value, by name."""
    return {
        name: getattr(settings, name)
        for name in own_fields(group)
        if any(
            other in condition and _fits(settings, other, condition[other]) for condition in rules_of(group, name).only
        )
    }


def holds(settings: BaseModel, condition: Condition) -> bool:
    """Whether ``condition`` holds with ``settings``."""
    return not _unmet(settings, condition)


def unread(settings: BaseModel, name: str, subject: str = "it") -> str:
    """Why nothing reads the setting ``name`` with ``settings``; empty if something does.

    A setting that depends on an unread setting is unread too. ``subject`` is what the answer calls the setting.
    """
    rules = rules_of(type(settings), name)
    for other, values in (rules.never or {}).items():
        if _fits(settings, other, values):
            return f"{other}={shown(getattr(settings, other))} does not use {subject}"
    reasons = [_unmet(settings, condition) for condition in rules.only]
    if not reasons or not all(reasons):
        return ""
    return f"{subject} is read only with {readers(rules)}, and {' and '.join(reasons)}"


def _unmet(settings: BaseModel, condition: Condition) -> str:
    """Why ``condition`` does not hold with ``settings``; empty if it does."""
    for other, values in condition.items():
        if not _fits(settings, other, values):
            return f"{other} is {shown(getattr(settings, other))}"
        if reason := unread(settings, other, other):
            return reason
    return ""


def _fits(settings: BaseModel, other: str, values: tuple[str, ...] | Literal["on"]) -> bool:
    """Whether the setting ``other`` has one of ``values``."""
    chosen = getattr(settings, other)
    if values == ON:
        # Compared as text, because the command line gives text.
        return str(chosen) != str(type(settings).model_fields[other].default)
    return any(part in values for part in listed(chosen))


def readers(rules: Rules) -> str:
    """Who reads a setting with these rules, as the help and the errors say it: ``decoder=merge or inject``."""
    return " or with ".join(" and with ".join(_values(*item) for item in one.items()) for one in rules.only)


def not_readers(rules: Rules) -> str:
    """Who does not read a setting with these rules: ``stage=scst or align``."""
    return " or with ".join(_values(*item) for item in (rules.never or {}).items())


def _values(other: str, values: tuple[str, ...] | Literal["on"]) -> str:
    if values == ON:
        return other
    *first, last = values
    return f"{other}={', '.join(first)} or {last}" if first else f"{other}={last}"


def refusal(settings: BaseModel, name: str) -> str:
    """Why ``settings`` must not have the value of ``name`` that they have, and what to do; empty if they may."""
    default, rules = type(settings).model_fields[name].default, rules_of(type(settings), name)
    if getattr(settings, name) == default or rules.tolerated:
        return ""
    reason = unread(settings, name)
    if not reason:
        return ""
    hint = f", or give --{rules.taken_for.replace('_', '-')} if you meant that" if rules.taken_for else ""
    if default is None:
        return f"{reason}; --{name.replace('_', '-')} none unsets it{hint}"
    return f"{reason}; leave it {'out' if default in ('', ()) else f'at {default}, the default'}{hint}"
