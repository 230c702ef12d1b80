"""`python -m rlarcade.evaluate CHECKPOINT`: plays whole games and reports raw scores."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict

from rlarcade.checkpoint import load_checkpoint
from rlarcade.console import EXIT_OK, ProgressLine, check_seed, run_command, say, write_json
from rlarcade.errors import ConfigError
from rlarcade.evaluation import EpisodeResult, Evaluation, evaluate_agent
from rlarcade.evaluation.table import score_lines
from rlarcade.learning.agent import DQNAgent
from rlarcade.learning.hardware import resolve_device


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Policy checkpoints, or run folders, which mean their newest."""
    episodes: int = 100
    """Whole games with each."""
    seed: int = 0
    """The same seed means the same games."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where the network runs."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Write the evaluations to this file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_evaluate_command, argv)


def _evaluate_command(argv: Sequence[str]) -> int:
    flags = tyro.cli(_Flags, args=list(argv), prog="rlarcade evaluate", description=__doc__)
    if not flags.checkpoints:
        raise ConfigError("no checkpoint was named. Name at least one, or the folder of a run.")
    check_seed(flags.seed)
    if flags.episodes < 1:
        raise ConfigError(f"episodes must be at least 1, got {flags.episodes}.")
    device = resolve_device(flags.device)
    # all are read before the first game: a bad one is told at once
    checkpoints = [load_checkpoint(path) for path in flags.checkpoints]
    agents = [DQNAgent.load(checkpoint, device=device) for checkpoint in checkpoints]
    evaluations: list[Evaluation] = []
    for checkpoint, agent in zip(checkpoints, agents, strict=True):
        with ProgressLine(flags.episodes, f"playing {checkpoint.path}", unit="games") as line:
            evaluations.append(
                evaluate_agent(
                    agent,
                    episodes=flags.episodes,
                    seed=flags.seed,
                    name=str(checkpoint.path),
                    weights_sha256=checkpoint.manifest.weights_sha256,
                    on_episode=partial(_show, line),
                )
            )
        for text in score_lines(evaluations[-1:]):
            say(text)
    write_json(flags.json_file, {"evaluations": [e.model_dump(mode="json") for e in evaluations]})
    return EXIT_OK


def _show(line: ProgressLine, result: EpisodeResult, done: int, total: int) -> None:
    del result
    line.update(done, total=total)


if __name__ == "__main__":
    sys.exit(main())
