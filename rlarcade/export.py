"""`python -m rlarcade.export CHECKPOINT --onnx FILE | --card DIR`: a checkpoint for others."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel, ConfigDict

from rlarcade.cards import card_name, check_card_folder, check_own_game, evaluation_of, write_card
from rlarcade.checkpoint import Checkpoint
from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import EXIT_OK, run_command, say, say_lines, write_json
from rlarcade.errors import ConfigError, RecordingError, RlarcadeError
from rlarcade.evaluation import Evaluation, evaluate_agent
from rlarcade.evaluation.documents import recordings_of, short_version
from rlarcade.games.names import display_name
from rlarcade.learning.onnx_file import OnnxCheck, export_onnx
from rlarcade.learning.policy import DQNAgent
from rlarcade.outputs import check_outputs
from rlarcade.play_commands import RegistryFlag, check_seed
from rlarcade.playing.players import AgentPlayer
from rlarcade.playing.recordings import verified
from rlarcade.playing.references import load_named
from rlarcade.playing.schedule import check_count
from rlarcade.progress import ProgressLine
from rlarcade.reports.lines import score_lines

_GAMES = 20


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A checkpoint, a run folder (its newest checkpoint), a version of a registry (7,
    champion@pong), or an agent that comes with rlarcade (zoo:SpaceInvaders)."""
    onnx: Path | None = None
    """Write the network to this file (.onnx), if it computes what torch computes on frames of a
    game. It needs the extra `onnx`."""
    card: Path | None = None
    """Write a folder for a model hub or a colleague: the checkpoint, a model card, its scores with
    their games, and a clip. The folder must not exist. `rlarcade watch DIR --verify` confirms what
    it claims."""
    games: int | None = None
    """Number of games to play for the card's scores. Unset: 20."""
    seed: int | None = None
    """Seed of these games, as in `evaluate`. Unset: 0."""
    evaluation: Path | None = None
    """Take the card's scores from this file, which `evaluate --json` wrote, or from a run's
    result.json. Every game in it is replayed first."""
    registry: RegistryFlag = None
    json_file: JsonFlag = None
    """Write what was exported to this file: the comparison with torch, and the card's files."""


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_export_command, argv)


def _export_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade export", description=__doc__)
    _check(flags)
    checkpoint = load_named(flags.checkpoint, flags.registry)
    agent = DQNAgent.load(checkpoint)
    converted = None if flags.onnx is None else _converted(agent, flags.onnx)
    say(f"{display_name(agent.game)}, protocol {agent.protocol.name}")
    say(f"  {agent.name}, version {short_version(agent.version)}")
    told: dict[str, Any] = {
        "checkpoint": agent.name,
        "version": agent.version,
        "game": agent.game,
    }
    if converted is not None and flags.onnx is not None:
        _tell_converted(converted, flags.onnx)
        told |= {"onnx": str(flags.onnx)} | converted.model_dump(mode="json")
    if flags.card is not None:
        told |= _export_card(flags, flags.card, checkpoint, agent)
    write_json(flags.json_file, told)
    return EXIT_OK


def _check(flags: _Flags) -> None:
    """Finds invalid flags before any work."""
    if flags.onnx is None and flags.card is None:
        raise ConfigError("nothing was asked for. Add --onnx FILE, --card DIR, or both.")
    of_a_card = {
        "--games": flags.games,
        "--seed": flags.seed,
        "--evaluation": flags.evaluation,
    }
    given = [name for name, value in of_a_card.items() if value is not None]
    if flags.card is None and given:
        raise ConfigError(f"{given[0]} is for a card. Add --card DIR, or leave {given[0]} out.")
    if flags.evaluation is not None and len(given) > 1:
        raise ConfigError(
            f"{given[0]} is for games that are played now, but --evaluation takes games that were "
            "played before. Leave one of them out."
        )
    if flags.games is not None:
        check_count("games", flags.games)
    if flags.seed is not None:
        check_seed(flags.seed)
    read = {} if flags.evaluation is None else {"--evaluation": flags.evaluation}
    check_outputs({"--onnx": flags.onnx, "--json": flags.json_file}, read)
    if flags.card is not None:
        check_card_folder(flags.card)


def _converted(agent: DQNAgent, path: Path) -> OnnxCheck:
    try:
        return export_onnx(agent, path)
    except OSError as error:
        raise RlarcadeError(
            f"--onnx {path} cannot be written: {error.strerror}. Choose another file."
        ) from error


def _tell_converted(check: OnnxCheck, path: Path) -> None:
    say(f"  compared with torch on {check.observations} observations of a game:")
    say(
        f"  Q-values differ by at most {check.largest_difference:.2g} "
        f"({check.allowed_difference:.2g} allowed), {check.equal_actions:.1%} of actions are equal"
    )
    say(f"onnx: {path} ({check.file_bytes / 1e6:.2f} MB)")
    say("note: the last bits differ, so its games are not always those of the checkpoint")


def _export_card(
    flags: _Flags, path: Path, checkpoint: Checkpoint, agent: DQNAgent
) -> dict[str, Any]:
    """Writes the card; returns what `--json` says about it."""
    if flags.evaluation is None:
        evaluation = _played(agent, card_name(checkpoint.manifest), flags)
    else:
        evaluation = _taken(checkpoint, agent, flags.evaluation)
    say_lines(score_lines([evaluation]))
    sizes = write_card(path, checkpoint, agent, evaluation)
    say(f"card: {path} ({len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB)")
    return {"card": str(path), "files": sizes, "games": len(evaluation.episodes)}


def _played(agent: DQNAgent, name: str, flags: _Flags) -> Evaluation:
    games = _GAMES if flags.games is None else flags.games
    with ProgressLine(games, f"playing {name}", unit="games") as line:
        return evaluate_agent(
            AgentPlayer(agent, name=name),
            episodes=games,
            seed=flags.seed or 0,
            on_episode=lambda _, done, total: line.update(done, total=total),
        )


def _taken(checkpoint: Checkpoint, agent: DQNAgent, path: Path) -> Evaluation:
    """Reads an evaluation, and replays every game of it."""
    evaluation, problems = evaluation_of(checkpoint, path)
    if problems:
        raise RecordingError(
            f"--evaluation {path} cannot be believed: {problems[0]}. The document was altered, or "
            "games were removed."
        )
    recordings = list(recordings_of(evaluation))
    with ProgressLine(len(recordings), "verifying", unit="games") as line:
        for done, wrong in enumerate(verified(recordings, partial(check_own_game, agent)), start=1):
            if wrong is not None:
                raise RecordingError(f"--evaluation {path} cannot be believed: {wrong}")
            line.update(done)
    return evaluation


if __name__ == "__main__":
    sys.exit(main())
