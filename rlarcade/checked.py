"""Values checked by pydantic, with one clear line for the first error."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from rlarcade.errors import ConfigError
from rlarcade.text import counted, printable, quoted

_Model = TypeVar("_Model", bound=BaseModel)

_ALSO_CALLED = {
    "algo": "preset",
    "algorithm": "preset",
    "alpha": "learning_rate",
    "batch": "batch_size",
    "checkpoint_dir": "run_dir",
    "cuda": "device",
    "discount": "gamma",
    "env": "game",
    "env_id": "game",
    "envs": "num_envs",
    "eps": "exploration_final_eps",
    "epsilon": "exploration_final_eps",
    "eval_freq": "eval_interval",
    "frames": "total_timesteps",
    "gpu": "device",
    "gradient_clip": "max_grad_norm",
    "log_dir": "run_dir",
    "lr": "learning_rate",
    "max_gradient_norm": "max_grad_norm",
    "memory_size": "buffer_size",
    "minibatch_size": "batch_size",
    "mode": "pipeline",
    "n_envs": "num_envs",
    "n_timesteps": "total_timesteps",
    "name": "run_dir",
    "num_episodes": "episodes",
    "num_timesteps": "total_timesteps",
    "out": "run_dir",
    "output": "run_dir",
    "replay_size": "buffer_size",
    "rom": "game",
    "save_freq": "save_interval",
    "steps": "total_timesteps",
    "tau": "target_tau",
    "threads": "torch_threads",
    "time": "minutes",
    "timesteps": "total_timesteps",
}
"""Other names that people or libraries use for a setting or flag."""


class Checked(BaseModel):
    """A model that raises `ConfigError` with one clear line, instead of `ValidationError`."""

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(_in_words(error, type(self), in_python=True)) from None

        # Tells pydantic that it may bypass this __init__. So only a direct call such as
        # TrainConfig(…) runs it, and an error within a larger document keeps its location.
        __init__.__pydantic_base_init__ = True

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                raise ConfigError(_in_words(error, type(self), in_python=True)) from None


class AsWritten(BaseModel):
    """Settings without type conversions: numbers are not text or booleans, switches only booleans.

    pydantic would convert `true` to 1, "600" to 600 and "yes" to true. Such a value is probably a
    mistake.
    """

    numbers_as_text: ClassVar[bool] = False
    """Accept numbers as text such as "1e6", as on a command line."""

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: object, info: ValidationInfo) -> object:
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if bool in kinds and isinstance(value, str | int | float) and not isinstance(value, bool):
            raise PydanticKnownError("bool_type")
        text = isinstance(value, str) and not cls.numbers_as_text
        if (isinstance(value, bool) or text) and type(value) not in kinds:
            if float in kinds:
                raise PydanticKnownError("float_type")
            if int in kinds:
                raise PydanticKnownError("int_type")
        return value


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Returns the types that an annotation allows."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(parts[0])
    if origin in (Union, UnionType):
        return tuple(kind for part in parts for kind in _kinds(part))
    return (annotation,)


def validated(model: type[_Model], values: Mapping[str, Any] | BaseModel) -> _Model:
    """Makes a model from values.

    Raises:
        ConfigError: a wrong type, a value out of range, or values that do not fit together.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_in_words(error, model)) from error


def reason(error: Exception) -> str:
    """Returns an error's message as one line; for pydantic's errors, that of the first problem."""
    if isinstance(error, ValidationError):
        return _in_words(error)
    return printable(getattr(error, "strerror", None) or error, 300)


_MUST = {
    "bool_parsing": "be true or false",
    "bool_type": "be true or false",
    "dict_type": "be a table",
    "enum": "be {expected}",
    "finite_number": "be a finite number",
    "float_parsing": "be a number",
    "float_type": "be a number",
    "frozen_set_type": "be a list",
    "greater_than": "be above {gt}",
    "greater_than_equal": "be at least {ge}",
    "int_from_float": "be a whole number",
    "int_parsing": "be a whole number",
    "int_parsing_size": "be a whole number of fewer digits",
    "int_type": "be a whole number",
    "is_instance_of": "be of type {class}",
    "less_than": "be below {lt}",
    "less_than_equal": "be at most {le}",
    "list_type": "be a list",
    "literal_error": "be {expected}",
    "model_attributes_type": "be a table",
    "model_type": "be a table",
    "none_required": "be left out",
    "path_type": "be a path",
    "set_type": "be a list",
    "string_pattern_mismatch": "be text of the form {pattern}",
    "string_sub_type": "be text",
    "string_too_long": "have at most {characters}",
    "string_too_short": "have at least {characters}",
    "string_type": "be text",
    "string_unicode": "be text",
    "too_long": "have at most {parts}",
    "too_short": "have at least {parts}",
    "tuple_type": "be a list",
}
"""Completes "VALUE must …", by pydantic's error type; the placeholders come from its context."""


def _in_words(
    error: ValidationError, model: type[BaseModel] | None = None, *, in_python: bool = False
) -> str:
    """Returns a sentence about the first problem.

    Args:
        error: pydantic's error.
        model: the model, to suggest one of its settings for an unknown one.
        in_python: the values were given in Python, not read from a file.
    """
    first = error.errors(include_url=False)[0]
    kind, facts = first["type"], first.get("ctx", {})
    place = [part for part in first["loc"] if str(part).strip()]  # without a union's empty tag
    name = quoted(".".join(map(str, place))) if place else "it"
    message = printable(first["msg"].removeprefix("Value error, "), 300).rstrip(".")
    if kind == "value_error":
        return f"{message}."
    if kind == "extra_forbidden":
        hint = did_you_mean(str(place[-1]), _names_at(model, place[:-1]))
        return f"unknown setting {name}. {hint}".rstrip() if model else f"{name} is unknown."
    if kind == "missing":
        return f"{name} is missing."
    if kind in ("frozen_instance", "frozen_field"):
        return f"{name} cannot be changed afterwards. Make a new {error.title} with it."
    if kind == "json_invalid":
        return f"it is not JSON ({printable(facts.get('error', message), 200)})."
    value = quoted(first["input"])
    if kind == "model_type" and in_python:
        return f"{name} must be of type {facts['class_name']}, not {value}."
    if kind in _MUST:
        known = {k: f"{v:g}" if isinstance(v, float) else v for k, v in facts.items()}
        length = facts.get("max_length", facts.get("min_length", 0))
        known |= {"characters": counted(length, "character"), "parts": counted(length, "part")}
        return f"{name} must {_MUST[kind].format(**known)}, not {value}."
    return f"{name} cannot be {value}: {message[0].lower()}{message[1:]}."


def _names_at(model: type[BaseModel] | None, place: Sequence[object]) -> Iterable[str]:
    """Returns the known settings of the table at a location within a model."""
    entry = False  # the next part is a key or an index, not a setting
    for part in place:
        if not entry:
            field = None if model is None else model.model_fields.get(str(part))
            model, entry = (None, False) if field is None else _model_in(field.annotation)
        else:
            entry = False
    return () if model is None else getattr(model, "setting_names", model.model_fields)


def _model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Returns the model that an annotation allows, and whether it is that of a list's entries."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        model, entries = _model_in(part)
        if model is not None:
            return model, entries or get_origin(annotation) in (dict, list, tuple)
    return None, False


def require(value: object, kind: type | UnionType, name: str, example: str) -> None:
    """Requires that an argument has the right type.

    Args:
        value: the argument.
        kind: its type.
        name: its name in the error message, such as "rule".
        example: a valid value for the message, such as "Rule()".

    Raises:
        ConfigError: the value has another type.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name} cannot be {quoted(value)}. Give one such as {example}.")


def path_of(value: str | Path, name: str) -> Path:
    """Returns a path that may be given as text.

    Raises:
        ConfigError: it is neither text nor a path, or it holds a NUL character.
    """
    require(value, str | Path, name, "'runs/pong'")
    if "\0" in str(value):
        raise ConfigError(f"{name} {quoted(str(value))} holds a NUL character, which no path has.")
    return Path(value)


def number_of(value: float, name: str, above: float, below: float) -> float:
    """Returns a number above one bound and below another.

    Raises:
        ConfigError: the value is not a number, or not between the bounds.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not above < value < below:
        raise ConfigError(
            f"{name} must be a number above {above:g} and below {below:g}, not {quoted(value)}."
        )
    return float(value)


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Returns known settings that an unknown one may mean, likeliest first.

    Args:
        name: the unknown setting, with underscores.
        known: the known settings.
    """
    known = list(known)
    if _ALSO_CALLED.get(name) in known:
        return [_ALSO_CALLED[name]]
    return difflib.get_close_matches(name, known, n=2, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns "Did you mean …?" for an unknown setting; empty if no known one is similar."""
    near = similar(name, known)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
