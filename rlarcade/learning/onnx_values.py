"""An agent's Q-network in onnxruntime: it plays as the agent does, without torch.

It values one observation several times faster than torch. Its sums are in another order, so its
values differ from the agent's in the last bits: the promise of equal bits does not hold for it.

onnxruntime comes with the extra `onnx` and is imported where it is used.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlarcade.checked import path_of, reason
from rlarcade.errors import CheckpointError, ConfigError
from rlarcade.files import read_bounded
from rlarcade.foreign import from_extra
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import MOST_ACTIONS, SCREEN, STACK, Protocol
from rlarcade.learning.acting import require_observations
from rlarcade.text import printable, shown_path

if TYPE_CHECKING:
    from rlarcade.learning.policy import DQNAgent

INPUT, Q_VALUES, ACTION = "observation", "q_values", "action"
"""Names of a model's input, uint8 (N, 4, 84, 84), and outputs, float32 (N, A) and int64 (N,)."""
DESCRIPTION = "rlarcade"
"""Key of the `OnnxDescription` in a model's metadata."""

_ROWS = 64  # observations in one call; more take memory and no less time
_LARGEST = 2_000_000_000  # bytes of a file; protobuf has no larger messages


class OnnxDescription(BaseModel):
    """What an ONNX file says of the agent in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    game: str
    """ROM id."""
    protocol: Protocol
    version: str = Field(pattern=r"^[0-9a-f]{64}$")
    """sha256 of the agent's weights: the version of its checkpoint."""
    actions: tuple[str, ...] = Field(min_length=1, max_length=MOST_ACTIONS)
    """Name of each action, such as ("NOOP", "FIRE", …)."""
    rlarcade: str
    """Version of the rlarcade that wrote the file."""


class OnnxValues:
    """An agent's Q-network in onnxruntime, on one CPU thread.

        evaluate_agent(OnnxValues.load("agent.onnx"))

    Attributes:
        description: what the model says of the agent.
        game: ROM id.
        protocol: the protocol under which the agent plays.
        num_actions: actions of the game under the protocol.
        name: name in results: the file's path, or the agent's name.
        version: the agent's version with "+onnx", since the values are not the same bits.
    """

    def __init__(self, model: bytes, name: str = "onnx") -> None:
        """Reads a model.

        Args:
            model: content of an ONNX file that `export_onnx` wrote.
            name: name in results and in messages.

        Raises:
            ConfigError: onnxruntime is not installed.
            CheckpointError: the model is damaged, or another program wrote it.
        """
        self.name = name
        self._session = _session_of(model, name)
        written = self._session.get_modelmeta().custom_metadata_map.get(DESCRIPTION, "{}")
        try:
            self.description = OnnxDescription.model_validate_json(written)
            self.game = resolve_game(self.description.game)
        except (ValidationError, ConfigError) as error:
            raise _unusable(name, f"its description of an agent: {reason(error)}") from error
        self.protocol, self.num_actions = self.description.protocol, len(self.description.actions)
        self.version = f"{self.description.version}+onnx"
        self._try()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads an ONNX file that `export_onnx` wrote.

        Raises:
            ConfigError: onnxruntime is not installed, or `path` is no path.
            CheckpointError: the file does not exist or is damaged, or another program wrote it.
        """
        path = path_of(path, "an ONNX file")
        try:
            model = read_bounded(path, _LARGEST)
        except OSError as error:
            raise CheckpointError(f"cannot read {shown_path(path)}: {error.strerror}.") from error
        return cls(model, str(path))

    @classmethod
    def of(cls, agent: "DQNAgent") -> Self:
        """Converts an agent in some seconds, without the check of `export_onnx`.

        Raises:
            ConfigError: the extra `onnx` is not installed, or `agent` is no `DQNAgent`.
            ExportError: the network cannot be converted.
        """
        from rlarcade.learning.onnx_file import onnx_model  # here, because it imports torch

        return cls(onnx_model(agent), agent.name)

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns Q(s, ·), float32 (B, A), of observations uint8 (B, 4, 84, 84), newest frame last.

        Raises:
            ValueError: `observation` has another shape or dtype.
        """
        require_observations(observation)
        values = np.empty((len(observation), self.num_actions), dtype=np.float32)
        for first in range(0, len(observation), _ROWS):
            some = np.ascontiguousarray(observation[first : first + _ROWS])
            values[first : first + _ROWS] = self._session.run([Q_VALUES], {INPUT: some})[0]
        return values

    def _try(self) -> None:
        """Requires the input and the outputs that `export_onnx` writes, and values of two rows."""
        parts = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {part.name: (part.type, list(part.shape)[1:]) for part in parts}
        wanted = {
            INPUT: ("tensor(uint8)", [STACK, SCREEN, SCREEN]),
            Q_VALUES: ("tensor(float)", [self.num_actions]),
            ACTION: ("tensor(int64)", []),
        }
        if found != wanted:
            raise _unusable(self.name, f"its inputs and outputs are {found}")
        frames = np.zeros((2, STACK, SCREEN, SCREEN), dtype=np.uint8)
        try:
            (values,) = self._session.run([Q_VALUES], {INPUT: frames})
        except Exception as error:  # see `_session_of`
            raise _unusable(self.name, str(error)) from error
        if values.shape != (2, self.num_actions):  # what a file declares need not be true
            raise _unusable(self.name, f"its values of two observations are {values.shape}")


def require_onnx(*modules: str) -> list[Any]:
    """Imports libraries of the extra `onnx`.

    Args:
        modules: names of the libraries.

    Raises:
        ConfigError: one is not installed.
    """
    with from_extra("onnx", "ONNX needs"):
        return [import_module(name) for name in modules]


def require_exporter() -> None:
    """Requires all of the extra `onnx`, and imports nothing: onnxscript takes 60 MB.

    Raises:
        ConfigError: a library is not installed.
    """
    with from_extra("onnx", "ONNX needs"):
        for name in ("onnx", "onnxscript", "onnxruntime"):
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


def _session_of(model: bytes, name: str) -> Any:
    (onnxruntime,) = require_onnx("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal ones; errors are raised, so they need not be printed
    try:
        return onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # it would print the error and try the same once more
        )
    except Exception as error:  # onnxruntime has an exception for each of its codes, and no base
        raise _unusable(name, str(error)) from error


def _unusable(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{shown_path(name)} is no ONNX file of rlarcade, or it is damaged "
        f"({printable(why, 200).rstrip('.')}). Write it again with rlarcade export."
    )
