"""`python -m rlarcade.play --server URL`: plays games here with the agents of a server."""

import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import EXIT_ERROR, EXIT_OK, run_command, say, say_error, write_json
from rlarcade.errors import ConfigError
from rlarcade.foreign import from_extra
from rlarcade.games.names import display_name, resolve_game
from rlarcade.outputs import check_outputs
from rlarcade.progress import ProgressLine
from rlarcade.text import counted

if TYPE_CHECKING:
    from rlarcade.games.single import GameEnv
    from rlarcade.serving.client import Played, ServerClient


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    server: str = "http://127.0.0.1:8000"
    """The server's address."""
    game: str | None = None
    """Game to play, if the server has several."""
    games: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Number of whole games."""
    parallel: Annotated[int, Field(ge=1, le=256)] = min(4, os.cpu_count() or 1)
    """Games at the same time."""
    key: str | None = None
    """Plays all games as this user, so that one version plays them all. Unset: each game is a new
    user's."""
    group: str | None = None
    """Group of the user, for phased rollouts."""
    json_file: JsonFlag = None
    """Write the games to this file."""


FLAGS = _Flags


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_play_command, argv)


def _play_command(argv: Sequence[str]) -> int:
    flags: _Flags = parse_flags(_Flags, argv, prog="rlarcade play", description=__doc__)
    check_outputs({"--json": flags.json_file})
    game = None if flags.game is None else resolve_game(flags.game)
    with from_extra("serve", "playing against a server needs"):
        from rlarcade.serving.client import ServerClient
    server = ServerClient(flags.server)
    game = _game_of(server) if game is None else game
    games = _played(server, game, flags)
    _tell(game, games)
    told = [asdict(one) | {"seconds": _median(one.seconds)} for one in games]
    write_json(flags.json_file, {"game": game, "server": server.url, "games": told})
    failures = [one.failure for one in games if one.failure is not None]
    if failures:
        say_error(f"{counted(len(failures), 'game')} failed, the first one: {failures[0]}")
    return EXIT_ERROR if failures else EXIT_OK


def _game_of(server: "ServerClient") -> str:
    """Returns the only game of a server."""
    online = [one["game"] for one in server.get("/v1/deployments")["deployments"]]
    if len(online) == 1:
        return str(online[0])
    found = f"{server.url} has {', '.join(online)}" if online else f"{server.url} has no game"
    raise ConfigError(f"which game? {found}. Name it with --game.")


def _played(server: "ServerClient", game: str, flags: _Flags) -> "list[Played]":
    """Plays all games; returns them in the order in which they ended."""
    emulators = _Emulators()
    done: list[Played] = []
    pool = ThreadPoolExecutor(flags.parallel)
    try:
        with ProgressLine(flags.games, f"playing {display_name(game)}", unit="games") as line:
            waiting = [
                pool.submit(emulators.play, server, game, flags.key, flags.group)
                for _ in range(flags.games)
            ]
            for finished in as_completed(waiting):
                done.append(finished.result())
                line.update(len(done))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return done


def _median(seconds: Sequence[float]) -> float | None:
    return float(np.median(seconds)) if seconds else None


class _Emulators(threading.local):
    """Keeps one emulator for each thread, because starting one is slow."""

    env: "GameEnv | None" = None

    def play(
        self, server: "ServerClient", game: str, key: str | None, group: str | None
    ) -> "Played":
        """Plays one game in this thread's emulator."""
        played, self.env = server.play(game, key=key, group=group, env=self.env)
        return played


def _tell(game: str, games: "list[Played]") -> None:
    versions = Counter(one.version for one in games)
    for version, number in sorted(versions.items()):
        scores = [one.score for one in games if one.version == version]
        say(
            f"{display_name(game)}, version {version}: {counted(number, 'game')}, mean score "
            f"{np.mean(scores):,.1f} ({min(scores):,.0f} to {max(scores):,.0f})"
        )
    seconds = np.concatenate([one.seconds for one in games]) * 1000
    if not len(seconds):
        return
    say(
        f"{counted(len(seconds), 'decision')}: {np.median(seconds):.1f} ms in the median, "
        f"{np.percentile(seconds, 99):.1f} ms at the 99th percentile"
    )


if __name__ == "__main__":
    sys.exit(main())
