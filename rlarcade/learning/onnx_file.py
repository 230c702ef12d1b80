"""Writes an agent's Q-network as an ONNX file, after a comparison with torch on real frames.

onnx and onnxscript come with the extra `onnx`; torch's exporter imports them.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from rlarcade.checked import path_of, require
from rlarcade.checkpoint import library_versions
from rlarcade.errors import ExportError
from rlarcade.files import write_file
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.games.single import make_env
from rlarcade.games.vector import GameVectorEnv
from rlarcade.learning.acting import not_finite, toss
from rlarcade.learning.hardware import one_thread
from rlarcade.learning.networks import QNetwork
from rlarcade.learning.onnx_values import (
    ACTION,
    DESCRIPTION,
    INPUT,
    Q_VALUES,
    OnnxDescription,
    OnnxValues,
    require_onnx,
)
from rlarcade.learning.policy import DQNAgent
from rlarcade.seeding import SeedUse, derived_seed, generator
from rlarcade.text import printable

__all__ = ["OnnxCheck", "OnnxValues", "export_onnx", "onnx_model"]

TOLERANCE = 1e-4
"""Largest accepted difference of Q-values, as a share of the largest Q-value, or of 1 if less."""
LEAST_EQUAL = 0.99
"""Smallest accepted share of observations with the same greedy action."""

_CHECKED = 256  # observations of the comparison
_EVERY = 4  # steps of the game from one of them to the next
_EPSILON = 0.1  # share of random actions in that game


class OnnxCheck(BaseModel):
    """Comparison of an ONNX network with torch on observations of a real game."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    observations: int
    largest_difference: float
    """Largest difference of two Q-values."""
    allowed_difference: float
    equal_actions: float
    """Share of the observations with the same greedy action."""
    file_bytes: int
    """Size of the file."""


def export_onnx(agent: DQNAgent, path: str | Path) -> OnnxCheck:
    """Writes an agent's network as an ONNX file, if it passes a check on real observations.

    The network is that of evaluation: in fp32, noise off, quantile fractions at their midpoints.
    The file has the input `observation`, uint8 (N, 4, 84, 84), and the outputs `q_values`, float32
    (N, A), and `action`, int64 (N,). Its metadata describe the agent. `OnnxValues.load` reads it.

    Args:
        agent: the agent.
        path: the file.

    Raises:
        ConfigError: the extra `onnx` is not installed, `agent` is no `DQNAgent`, or `path` is no
            path.
        ExportError: the network cannot be converted, or differs by more than `TOLERANCE` and
            `LEAST_EQUAL` allow. No file is written.
        OSError: the file cannot be written.
    """
    path = path_of(path, "an ONNX file")
    model = onnx_model(agent)
    check = _checked(agent, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, model)
    return check


def onnx_model(agent: DQNAgent) -> bytes:
    """Converts an agent's network; returns the content of an ONNX file. Nothing is checked.

    Raises:
        ConfigError: the extra `onnx` is not installed, or `agent` is no `DQNAgent`.
        ExportError: the network cannot be converted.
    """
    require(agent, DQNAgent, "agent", "DQNAgent.load('my-agent')")
    require_onnx("onnx", "onnxscript", "onnxruntime")
    description = _described(agent)
    try:
        with _silence():
            traced = torch.export.export(
                _WithAction(_evaluated(agent)),
                (torch.zeros((2, STACK, SCREEN, SCREEN), dtype=torch.uint8),),
                dynamic_shapes={"frames": {0: torch.export.Dim("N")}},
            )
            program = torch.onnx.export(
                traced.run_decompositions(_DECOMPOSITIONS),
                input_names=[INPUT],
                output_names=[Q_VALUES, ACTION],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            model: Any = program.model_proto
    except Exception as error:  # the exporter raises whatever torch's tracer meets
        what = printable(str(error).strip().partition("\n")[0] or type(error).__name__, 200)
        raise ExportError(
            f"torch {torch.__version__} cannot convert {agent.name}'s network to ONNX ({what})."
        ) from error
    _forget_sources(model)
    model.metadata_props.add(key=DESCRIPTION, value=description.model_dump_json())
    written: bytes = model.SerializeToString()
    return written


def _forget_sources(model: Any) -> None:
    """Removes what the exporter notes of each part: stack traces with paths of this machine."""
    graph = model.graph
    for parts in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for part in parts:
            del part.metadata_props[:]


class _WithAction(nn.Module):
    """A Q-network with the greedy action as its second output."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        values = self.network(frames)
        return values, values.argmax(dim=1)


def _max_pooled(x: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max-pooling, which ONNX lacks, as maxima of slices; its indices are not used."""
    for dim, cells in ((2, size[0]), (3, size[1])):
        side = x.shape[dim]
        bounds = [(i * side // cells, -(-(i + 1) * side // cells)) for i in range(cells)]
        maxima = [x.narrow(dim, a, b - a).amax(dim, keepdim=True) for a, b in bounds]
        x = torch.cat(maxima, dim)
    return x, torch.zeros_like(x, dtype=torch.int64)


_DECOMPOSITIONS: dict[Any, Any] = {torch.ops.aten.adaptive_max_pool2d.default: _max_pooled}


def _evaluated(agent: DQNAgent) -> QNetwork:
    """Copies the network, on the CPU and in the arithmetic of evaluation."""
    network = copy.deepcopy(agent.q_network).cpu()
    network.dtype = torch.float32
    return network


def _described(agent: DQNAgent) -> OnnxDescription:
    names = GameVectorEnv(agent.game, 1, protocol=agent.protocol).action_names
    if len(names) != agent.num_actions:
        raise ExportError(
            f"{agent.name} has {agent.num_actions} actions, but {agent.game} has {len(names)} "
            f"under protocol {agent.protocol.name}."
        )
    return OnnxDescription(
        game=agent.game,
        protocol=agent.protocol,
        version=agent.version,
        actions=names,
        rlarcade=library_versions()["rlarcade"],
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Discards what torch's exporter prints, logs and warns of. Its errors are raised."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)


def _checked(agent: DQNAgent, model: bytes) -> OnnxCheck:
    """Compares the values and actions of an agent and its model on observations of a game.

    Raises:
        ExportError: they differ too much, or are not finite.
    """
    exported = OnnxValues(model, agent.name)
    observation = _observations(exported)
    network = _evaluated(agent)
    with one_thread(), torch.no_grad():
        wanted = network(torch.from_numpy(observation)).numpy()
    problem = not_finite(wanted, agent.name)
    if problem is not None:
        raise ExportError(
            f"{problem}. Its weights are damaged, or its training diverged. Export an older "
            "checkpoint."
        )
    found = exported.q_values(observation)
    check = OnnxCheck(
        observations=len(observation),
        largest_difference=float(np.abs(found - wanted).max()),
        allowed_difference=TOLERANCE * max(1.0, float(np.abs(wanted).max())),
        equal_actions=float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean()),
        file_bytes=len(model),
    )
    close = check.largest_difference <= check.allowed_difference  # False for NaN, too
    if not close or check.equal_actions < LEAST_EQUAL:
        raise ExportError(
            f"the ONNX network of {agent.name} computes something else: on {check.observations} "
            f"observations of a game its Q-values differ by up to {check.largest_difference:.2g} "
            f"({check.allowed_difference:.2g} is allowed), and {check.equal_actions:.1%} of its "
            f"actions are equal ({LEAST_EQUAL:.0%} must be). No file was written. Try the versions "
            "of torch and onnxscript in constraints.txt."
        )
    return check


def _observations(player: OnnxValues) -> NDArray[np.uint8]:
    """Returns observations of games that the network plays, uint8 (256, 4, 84, 84)."""
    env = make_env(player.game, protocol=player.protocol)
    rng = generator(0, SeedUse.CALIBRATION)
    seen: list[NDArray[np.uint8]] = []
    over, games, step = True, 0, 0
    while len(seen) < _CHECKED:
        if over:
            observation, _ = env.reset(seed=derived_seed(0, SeedUse.CALIBRATION, games))
            games += 1
        if step % _EVERY == 0:
            seen.append(observation.copy())
        explore, action = toss(1, player.num_actions, _EPSILON, rng)
        greedy = player.q_values(observation[None]).argmax(axis=1)
        observation, _, terminated, truncated, _ = env.step(np.where(explore, action, greedy)[0])
        over, step = terminated or truncated, step + 1
    return np.stack(seen)
