"""Parts of training that a researcher replaces by functions and modules."""

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from rlarcade.checked import require
from rlarcade.config import TrainConfig
from rlarcade.errors import ConfigError
from rlarcade.learning import schedules
from rlarcade.text import quoted

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes predictions and targets, float32 (B,); returns the loss of each, float32 (B,)."""
Schedule = Callable[[int], float]
"""Takes the agent steps so far; returns a value."""


@dataclass(frozen=True)
class Custom:
    """Your own functions and modules. Each replaces what the configuration would choose.

    A `TrainingRun` records their names and the digest of their source, and resumes only with the
    same ones. Values that a function takes from elsewhere, such as a global, are not in the digest.
    """

    torso: nn.Module | None = None
    """Module uint8 (B, 4, 84, 84) to float (B, F), in place of the torso."""
    loss: Loss | None = None
    """Loss of the expected head."""
    exploration: Schedule | None = None
    """Share of random actions, 0 to 1."""
    learning_rate: Schedule | None = None
    """Step size, 0 or more."""

    def check(self, config: TrainConfig) -> None:
        """Tries the parts.

        Raises:
            ConfigError: a part is of the wrong kind, returns something else, or does not go with
                the configuration.
        """
        require(self.torso, nn.Module | None, "torso", "torch.nn.Sequential(…)")
        for name in ("loss", "exploration", "learning_rate"):
            part = getattr(self, name)
            if part is not None and not callable(part):
                raise ConfigError(f"{name} must be a function, not {quoted(part)}.")
        if self.loss is not None:
            self._check_loss(self.loss, config)
        self.epsilon(config, 0)
        self.step_size(config, 0)

    def _check_loss(self, loss: Loss, config: TrainConfig) -> None:
        if config.network.head != "expected":
            raise ConfigError(
                f"a loss of your own goes with head expected, not with {config.network.head}, "
                "which has a loss of its own. Use head expected."
            )
        tried = loss(torch.zeros(2), torch.ones(2))
        if not isinstance(tried, Tensor) or tried.shape != (2,):
            got = tuple(tried.shape) if isinstance(tried, Tensor) else quoted(tried)
            raise ConfigError(
                "loss takes predictions and targets, float32 (B,), and returns the loss of each, "
                f"float32 (B,); for two of them it returned {got}."
            )

    def epsilon(self, config: TrainConfig, steps: int) -> float:
        """Returns the share of random actions after `steps` agent steps."""
        if self.exploration is None:
            return schedules.epsilon(config, steps)
        return _number("exploration", self.exploration(steps), steps, 1.0)

    def step_size(self, config: TrainConfig, steps: int) -> float:
        """Returns the optimizer's step size after `steps` agent steps."""
        if self.learning_rate is None:
            return schedules.learning_rate(config, steps)
        return _number("learning_rate", self.learning_rate(steps), steps, math.inf)

    def identities(self) -> dict[str, str]:
        """Returns name and source digest of each part that is given.

        Raises:
            ConfigError: a part's source cannot be read.
        """
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: _identity(name, part) for name, part in given.items() if part is not None}


NOTHING = Custom()
"""Everything as configured."""


def _number(name: str, value: Any, steps: int, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        bound = "0 to 1" if most == 1 else "a number, 0 or more"
        raise ConfigError(f"{name} must return {bound}; at step {steps:,} it gave {quoted(value)}.")
    return float(value)


def _identity(name: str, part: Any) -> str:
    """Returns `module.name sha256:…` of a function, or of a module's class and structure."""
    # a module or another object is described by its class, and by what it prints of itself
    described = part if inspect.isroutine(part) else type(part)
    try:
        source = inspect.getsource(described)
    except (OSError, TypeError) as error:
        raise ConfigError(
            f"the source of {name}, {quoted(described)}, cannot be read, so a resumed run could "
            "not know it again. Define it in a file or a notebook cell."
        ) from error
    structure = str(part) if isinstance(part, nn.Module) else ""
    digest = hashlib.sha256(f"{source}\0{structure}".encode()).hexdigest()
    return f"{described.__module__}.{described.__qualname__} sha256:{digest[:16]}"
