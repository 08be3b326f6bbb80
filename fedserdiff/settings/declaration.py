"""Declaration of settings: name, type, default, range and one sentence, all at one field of a group's class."""

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

_BOUNDS = (("ge", "at least {:g}"), ("gt", "more than {:g}"), ("le", "at most {:g}"), ("lt", "less than {:g}"))
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def setting(
    default: Any,
    sentence: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    one_machine: bool = False,
    after_first_stage: bool = False,
) -> Any:
    """Declare a setting as a field of a `Group`.

    Parameters
    ----------
    default : object
        Value used if neither the profile nor the user sets one.
    sentence : str
        What the setting does, for help texts and the reference page.
    ge, gt, le, lt : float, optional
        Bounds of the value: at least, more than, at most, less than.
    one_machine : bool
        Whether the coordinator and each hospital may use different values. True for a setting that decides where or for
        how long something runs and does not change any result.
    after_first_stage : bool
        Whether the setting has no effect in stage 1, because it concerns keeping what earlier stages learned.
    """
    marks: JsonDict = {"one_machine": one_machine, "after_first_stage": after_first_stage}
    return Field(default, description=sentence, ge=ge, gt=gt, le=le, lt=lt, json_schema_extra=marks)


class Group(BaseModel):
    """A frozen group of settings on one subject. Lists become tuples and 1 becomes 1.0; no other value is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


@dataclass(frozen=True)
class Declared:
    """The declaration of one setting.

    Attributes
    ----------
    name : str
        ``group.name``, or a name without a group, such as ``seed``.
    default : object
    sentence : str
    allowed : str
        The allowed values in words.
    one_machine, after_first_stage : bool
        As in `setting`.
    """

    name: str
    default: Any
    sentence: str
    allowed: str
    one_machine: bool
    after_first_stage: bool


def declared(group: type[BaseModel], prefix: str) -> Iterator[Declared]:
    """Yield a group's declarations in order, each name with a prefix such as ``training.``."""
    for name, field in group.model_fields.items():
        marks = field.json_schema_extra
        if isinstance(marks, dict):  # other fields are not settings, such as a method's name
            yield Declared(
                prefix + name,
                field.default,
                field.description or "",
                allowed(field),
                bool(marks["one_machine"]),
                bool(marks["after_first_stage"]),
            )


def allowed(field: FieldInfo) -> str:
    """Return the values a field accepts in words, such as "a whole number of at least 1"."""
    return _kind(field.annotation) + _range(field.metadata)


def _range(metadata: Iterable[Any]) -> str:
    bounds = {name: getattr(mark, name) for mark in metadata for name, _ in _BOUNDS if hasattr(mark, name)}
    words = [text.format(bounds[name]) for name, text in _BOUNDS if bounds.get(name) is not None]
    return f" of {' and '.join(words)}" if words else ""


def _kind(annotation: Any) -> str:
    if annotation in _KINDS:
        return _KINDS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0]) + _range(mark for part in arguments[1:] for mark in getattr(part, "metadata", ()))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is dict:
        return "a table"
    if origin in (Union, types.UnionType):
        kinds = (_kind(argument) for argument in arguments if argument is not type(None))
        return " or ".join(kind.removeprefix("one of ") for kind in kinds)
    if origin is tuple:
        item = _kind(arguments[0]).removeprefix("a ")
        word, _, rest = item.partition(" of ")
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{word}s{f', each {rest}' if rest else ''}"
    return str(getattr(annotation, "__name__", annotation))
