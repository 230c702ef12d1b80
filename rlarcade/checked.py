"""Values that pydantic checks; what is wrong with one is said in our words, in one line."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from rlarcade.errors import ConfigError
from rlarcade.text import printable, quoted

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
"""What other libraries, or people, call a setting or a flag."""


class Checked(BaseModel):
    """A value that says itself what is wrong with it, as a `ConfigError`, when it is made."""

    if not TYPE_CHECKING:  # type checkers see the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigError(_in_words(error, type(self).model_fields)) from None

        # For pydantic it is its own: only who writes TrainConfig(…) passes here, and an error deep
        # in a document keeps its place.
        __init__.__pydantic_base_init__ = True


def validated(model: type[_Model], values: Mapping[str, Any]) -> _Model:
    """Makes a checked value; the first thing wrong becomes one clear line.

    Raises:
        ConfigError: a wrong type, a value out of range, or values that do not go together.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_in_words(error)) from error


def reason(error: Exception) -> str:
    """Returns what an error says in one line: of pydantic's the first thing that is wrong."""
    if isinstance(error, ValidationError):
        return _in_words(error)
    return printable(getattr(error, "strerror", None) or error, 300)


def _in_words(error: ValidationError, known: Iterable[str] = ()) -> str:
    """The first thing wrong, as a sentence; of `known` settings one may be suggested."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if part != "")
    message = first["msg"].removeprefix("Value error, ")
    if not name or first["type"] == "value_error":
        return message.rstrip(".") + "."
    if first["type"] == "extra_forbidden" and known:
        return f"unknown setting {quoted(name)}. {did_you_mean(name, known)}".strip()
    if first["type"] == "missing":
        return f"setting {name}: field required."
    value = quoted(first["input"])
    return f"setting {name}: {message[0].lower() + message[1:]}, got {value}."


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Returns what a setting that does not exist may have been meant to be, likeliest first.

    Args:
        name: the setting, with underscores.
        known: settings that are a possible answer.
    """
    known = list(known)
    if _ALSO_CALLED.get(name) in known:
        return [_ALSO_CALLED[name]]
    return difflib.get_close_matches(name, known, n=2, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the question that follows an unknown setting; empty if nothing is like it."""
    near = similar(name, known)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
