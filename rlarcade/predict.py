"""`python -m rlarcade.predict CHECKPOINT --input F --output F`: an agent's actions, offline."""

import io
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import EXIT_OK, run_command, say, say_lines, write_json
from rlarcade.errors import ConfigError, PolicyError, RlarcadeError
from rlarcade.evaluation.document_files import load_recordings
from rlarcade.evaluation.documents import short_version
from rlarcade.files import write_file
from rlarcade.games.names import display_name
from rlarcade.games.vector import GameVectorEnv
from rlarcade.learning.hardware import resolve_device
from rlarcade.learning.policy import DQNAgent
from rlarcade.outputs import check_outputs
from rlarcade.play_commands import DeviceFlag, RegistryFlag
from rlarcade.playing.observation_files import ENDINGS, open_observations
from rlarcade.playing.predicting import (
    Predictions,
    PredictionSummary,
    TakenActions,
    agreements,
    predict_batches,
    replayed_batches,
)
from rlarcade.playing.recordings import Recording
from rlarcade.playing.references import load_named
from rlarcade.progress import ProgressLine
from rlarcade.text import counted, shown_path

_DOCUMENTS = (".json", ".jsonl")
_WIDTH = 80
_LARGEST_BATCH = 4096  # 116 MB of observations


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, a run folder (its newest checkpoint), a version of a registry (7,
    champion@pong), or an agent that comes with rlarcade (zoo:SpaceInvaders)."""
    input: Path
    """Observations, uint8 (N, 4, 84, 84): a .npz file with the array `observation`, or a .npy file.
    Or a document with recorded games (.json, .jsonl), which are played again."""
    output: Path
    """Write the arrays `action` and `q_values` to this file (.npz). For recorded games also `game`,
    `step` and the action `taken`."""
    batch_size: int = 64
    """Observations that are read at a time. It never changes a result."""
    device: DeviceFlag = "cpu"
    registry: RegistryFlag = None
    json_file: JsonFlag = None
    """Write the summary to this file."""


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_predict_command, argv)


def _predict_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade predict", description=__doc__)
    if not 1 <= flags.batch_size <= _LARGEST_BATCH:
        raise ConfigError(f"batch-size must be 1 to {_LARGEST_BATCH}, got {flags.batch_size}.")
    check_outputs({"--output": flags.output, "--json": flags.json_file}, {"--input": flags.input})
    _check_kind(flags.input)
    checkpoint = load_named(flags.checkpoint, flags.registry)
    agent = DQNAgent.load(checkpoint, device=resolve_device(flags.device))
    names = _action_names(agent)
    begun = time.monotonic()
    if _is_document(flags.input):
        recordings = _games_of(agent, flags.input)
        taken = TakenActions.of(recordings)
        batches = replayed_batches(recordings.values(), flags.batch_size)
        found = _predicted(agent, batches, len(taken.taken))
        arrays = found._asdict() | taken._asdict()
        games = agreements(recordings, found, taken)
    else:
        with open_observations(flags.input) as frames:
            found = _predicted(agent, frames.batches(flags.batch_size), frames.count)
        arrays, games = found._asdict(), ()
    _write_arrays(flags.output, arrays)
    counts = np.bincount(found.action, minlength=len(names)).tolist()
    summary = PredictionSummary(
        checkpoint=agent.name,
        version=agent.version,
        game=agent.game,
        protocol=agent.protocol,
        input=str(flags.input),
        observations=len(found.action),
        actions=dict(zip(names, counts, strict=True)),
        mean_max_q=float(found.q_values.max(axis=1).mean(dtype=np.float64)),
        games=games,
        seconds=time.monotonic() - begun,
    )
    say_lines(_lines(summary))
    say(f"actions: {flags.output}")
    write_json(flags.json_file, summary)
    return EXIT_OK


def _is_document(path: Path) -> bool:
    return path.suffix.lower() in _DOCUMENTS


def _check_kind(path: Path) -> None:
    if path.suffix.lower() not in (*ENDINGS, *_DOCUMENTS):
        raise ConfigError(
            f"--input {shown_path(path)} must end in {' or '.join(ENDINGS)} (observations), or in "
            f"{' or '.join(_DOCUMENTS)} (recorded games)."
        )


def _action_names(agent: DQNAgent) -> tuple[str, ...]:
    names = GameVectorEnv(agent.game, 1, protocol=agent.protocol).action_names
    if len(names) != agent.num_actions:
        raise PolicyError(
            f"{agent.name} has {agent.num_actions} actions, but {display_name(agent.game)} has "
            f"{len(names)} under protocol {agent.protocol.name}."
        )
    return names


def _games_of(agent: DQNAgent, path: Path) -> dict[int, Recording]:
    """Returns the games of a document that the agent plays, by their index."""
    recordings = load_recordings(path)
    same = {
        place: recording
        for place, recording in enumerate(recordings)
        if recording.game == agent.game
        and recording.protocol.full_action_space == agent.protocol.full_action_space
    }
    game = display_name(agent.game)
    if not any(recording.episode.steps for recording in same.values()):
        raise ConfigError(
            f"{shown_path(path)} has no game of {game} with the {agent.num_actions} actions of "
            f"{agent.name}. Name a document with such games."
        )
    if len(same) < len(recordings):
        others = counted(len(recordings) - len(same), "game")
        say(f"{others} left out, which {agent.name} cannot play: another game or other actions")
    return same


def _predicted(agent: DQNAgent, batches: Iterable[NDArray[np.uint8]], total: int) -> Predictions:
    with ProgressLine(total, "predicting", unit="observations") as line:
        return predict_batches(agent, batches, line.update)


def _write_arrays(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, file.getvalue())
    except OSError as error:
        raise RlarcadeError(
            f"--output {path} cannot be written: {error.strerror}. Choose another file."
        ) from error


def _lines(summary: PredictionSummary) -> list[str]:
    number = summary.observations
    chosen = sorted(summary.actions.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {count / number:.1%}" for name, count in chosen if count)
    lines = [
        f"{display_name(summary.game)}, protocol {summary.protocol.name}, "
        f"{counted(number, 'observation')} of {summary.input}",
        f"  {summary.checkpoint}, version {short_version(summary.version)}",
        *wrap(f"  greedy actions: {shares}", _WIDTH, subsequent_indent="    "),
        f"  mean of the largest Q-value: {summary.mean_max_q:.4g}",
    ]
    lines += [
        f"  game {game.episode:3d}  seed {game.seed:10d}  {game.steps:6,} steps  "
        f"{_share(game.agreed, game.steps)} equal  {game.player}"
        for game in summary.games
    ]
    if summary.agreement is not None:
        lines.append(f"  {summary.agreement:.1%} of the recorded actions are equal")
    lines.append(f"  {number / summary.seconds:,.0f} observations/s")
    return lines


def _share(part: int, whole: int) -> str:
    return f"{part / whole:6.1%}" if whole else "     –"


if __name__ == "__main__":
    sys.exit(main())
