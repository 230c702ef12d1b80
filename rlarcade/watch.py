"""`python -m rlarcade.watch CHECKPOINT|RECORDING`: shows games, and verifies recorded scores."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rlarcade.cards import check_own_game, is_card, open_card
from rlarcade.command_line import parse_flags
from rlarcade.console import (
    EXIT_ERROR,
    EXIT_OK,
    run_command,
    say,
    say_error,
)
from rlarcade.errors import ConfigError
from rlarcade.evaluation.document_files import load_recorded
from rlarcade.games.names import display_name
from rlarcade.games.protocols import FRAMESKIP
from rlarcade.learning.policy import DQNAgent
from rlarcade.outputs import check_outputs
from rlarcade.play_commands import RegistryFlag, check_seed
from rlarcade.playing.named import named_players
from rlarcade.playing.play import play_steps
from rlarcade.playing.players import AgentPlayer, Player
from rlarcade.playing.recordings import Check, Recording, verified
from rlarcade.playing.references import load_named
from rlarcade.playing.search import SearchPlayer
from rlarcade.progress import ProgressLine
from rlarcade.reports.pictures import (
    Trees,
    agent_that_played,
    saliency_of,
    values_of,
    values_of_its_player,
    write_picture,
    write_video,
)
from rlarcade.search_names import search_name
from rlarcade.zoo import is_zoo_name, zoo_folder

_DOCUMENTS = (".json", ".jsonl")


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    what: Annotated[Path, tyro.conf.Positional]
    """A player: a checkpoint, run folder, version (7, champion@pong) or agent of the zoo
    (zoo:SpaceInvaders); `search:` and one of these, which looks ahead (search:7). Or a document
    with recorded games: a file from `evaluate --json` or `compare --json`, a run's result.json, or
    the record of a match. Or the folder of a card (`export --card`): its games are shown."""
    verify: bool = False
    """Replay every recorded game and verify every point. For a card, as every agent of the zoo is
    one, verify also that its agent chose the actions, and that the figures in its text follow from
    the games."""
    episode: int = 0
    """Index of the game to show. For a checkpoint: the game that `evaluate` plays at this index."""
    seed: int | None = None
    """Seed of a checkpoint's games, as in `evaluate`. Unset: 0."""
    video: Path | None = None
    """Write the game to this file (.mp4, 60 frames a second)."""
    registry: RegistryFlag = None
    picture: Path | None = None
    """Write six moments of the game to this file (.png)."""
    saliency: bool = False
    """Mark in red what the agent looks at: the pixels that change the value of its action most."""


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_watch_command, argv)


def _watch_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade watch", description=__doc__)
    check_seed(flags.seed or 0)
    if flags.episode < 0:
        raise ConfigError(f"episode must be 0 or more, got {flags.episode}.")
    if flags.saliency and flags.video is None and flags.picture is None:
        raise ConfigError(
            "--saliency marks a picture or a video. Add --picture F.png or --video F.mp4."
        )
    check_outputs(
        {"--video": flags.video, "--picture": flags.picture}, {"what is watched": flags.what}
    )
    agent: DQNAgent | None = None
    values: NDArray[np.float32] | None = None
    trees: Trees | None = None
    problems: list[str] = []
    check: Check | None = None
    # An agent of the zoo is a card. It is shown playing a new game; what it claims can be verified.
    folder = zoo_folder(flags.what) if flags.verify and is_zoo_name(flags.what) else flags.what
    if is_card(folder):
        _refuse_seed(flags)
        agent, recordings, problems = open_card(folder)
        check = partial(check_own_game, agent)
    elif flags.what.suffix in _DOCUMENTS and not flags.what.is_dir() and flags.what.exists():
        _refuse_seed(flags)
        recordings, problems = load_recorded(flags.what)
    else:
        agent, player = _player(flags)
        recording, values, trees = _played(player, flags.seed or 0, flags.episode)
        recordings = [recording]
    if flags.verify and not _all_verified(recordings, problems, check):
        return EXIT_ERROR
    if flags.video is None and flags.picture is None:
        _list(recordings)
        return EXIT_OK
    place = 0 if values is not None else flags.episode
    if place >= len(recordings):
        raise ConfigError(
            f"{flags.what} has no episode {place}: it holds 0 to {len(recordings) - 1}."
        )
    recording = recordings[place]
    if values is None:
        values = (
            values_of_its_player(recording, flags.registry)
            if agent is None
            else values_of(agent, recording)
        )
    _show(recording, agent, values, trees, flags)
    return EXIT_OK


def _refuse_seed(flags: _Flags) -> None:
    """Refuses `--seed` for games that are recorded."""
    if flags.seed is not None:
        raise ConfigError(
            f"--seed is for a game that is played now, but the games of {flags.what} are recorded. "
            "Choose one of them by --episode, and leave --seed out."
        )


def _player(flags: _Flags) -> tuple[DQNAgent, Player]:
    """Returns an agent, and the agent as a player, which may look ahead."""
    if search_name(flags.what) is None:
        agent = DQNAgent.load(load_named(flags.what, flags.registry))
        return agent, AgentPlayer(agent)
    (player,) = named_players([str(flags.what)], registry=flags.registry)
    assert isinstance(player, SearchPlayer), "the name says so"
    assert isinstance(player.agent, DQNAgent), "it was loaded from a checkpoint"
    return player.agent, player


def _played(player: Player, seed: int, place: int) -> tuple[Recording, NDArray[np.float32], Trees]:
    """Plays the game that `evaluate --seed` plays at this index; with values and trees."""
    values, trees = [], []
    most = player.protocol.frame_cap // FRAMESKIP
    with ProgressLine(most, f"playing {player.name}", at_most=True) as line:
        for step in play_steps(player, first=place, seed=seed):
            values.append(step.q_values)
            trees.append(step.tree)
            line.update(step.number + 1, partial("score {:,.0f}".format, step.score))
    assert step.episode is not None, "a game has a last step"
    recording = Recording(player.game, player.protocol, player.name, player.version, step.episode)
    return recording, np.array(values), trees


def _all_verified(recordings: list[Recording], problems: list[str], check: Check | None) -> bool:
    """Replays every game on all cores, and reports the games that do not reproduce."""
    for problem in problems:
        say_error(f"{problem}. The document was altered, or games were removed.")
    bad = 0
    with ProgressLine(len(recordings), "verifying", unit="games") as line:
        for done, wrong in enumerate(verified(recordings, check), start=1):
            if wrong is not None:
                bad += 1
                say_error(str(wrong))
            line.update(done)
    say(f"{len(recordings) - bad} of {len(recordings)} games reproduced to the point")
    if failed := sum(recording.episode.ended == "failed" for recording in recordings):
        say(f"{failed} of them say that the player failed; only the player itself can confirm that")
    return not bad and not problems


def _list(recordings: list[Recording]) -> None:
    for place, recording in enumerate(recordings):
        episode = recording.episode
        say(
            f"episode {place:3d}  {display_name(recording.game)}  seed {episode.seed:10d}  score "
            f"{episode.score:8,.0f}  {episode.steps:6,} steps  {episode.ended}  {recording.player}"
        )
    say()
    say("to look at one: --episode N --video F.mp4, or --picture F.png; to verify all: --verify")


def _show(
    recording: Recording,
    agent: DQNAgent | None,
    values: NDArray[np.float32] | None,
    trees: Trees | None,
    flags: _Flags,
) -> None:
    looked = None
    if flags.saliency:
        agent = agent or agent_that_played(recording, flags.registry)
        if agent is None:
            raise ConfigError(
                f"--saliency needs the agent that played, and {recording.player} is not found, or "
                "is another version now. Name its checkpoint instead of the document."
            )
        looked = saliency_of(agent, recording)
    if flags.video is not None:
        with ProgressLine(recording.episode.steps, "drawing") as line:
            write_video(
                flags.video,
                recording,
                values,
                lambda done, total: line.update(done, total=total),
                looked,
                trees,
            )
        say(f"video: {flags.video}")
    if flags.picture is not None:
        write_picture(flags.picture, recording, values, looked, trees)
        say(f"picture: {flags.picture}")


if __name__ == "__main__":
    sys.exit(main())
