"""What the commands that play share: flags with one help text each, and what they say."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rlarcade.console import say, say_error, say_warning
from rlarcade.errors import ConfigError
from rlarcade.playing.named import told_unkept
from rlarcade.playing.players import Player
from rlarcade.playing.schedule import check_count
from rlarcade.reports import write_report
from rlarcade.text import counted

GameFlag = Annotated[str | None, Field(description="Game to play, if no checkpoint determines it.")]
ProtocolFlag = Annotated[
    str | None,
    Field(description="Protocol: v5, machado or nature. Unset: as the checkpoint was trained."),
]
SeedFlag = Annotated[
    int, Field(description="Seed of the games. The same seed gives the same games.")
]
DeviceFlag = Annotated[Literal["auto", "cpu", "cuda"], Field(description="Device of the networks.")]
RegistryFlag = Annotated[
    str | None,
    Field(
        description="Folder of the registry with the versions, or a database: "
        "postgresql://USER@HOST/DATABASE. Unset: checkpoints/registry."
    ),
]
EngineFlag = Annotated[
    Literal["local", "ray"],
    Field(description="Where games are played. ray: on a Ray cluster (extra `ray`)."),
]
AddressFlag = Annotated[
    str | None,
    Field(
        description="With --engine ray: HOST:PORT of the cluster's head node, or auto for a "
        "cluster that runs on this machine. Unset: a cluster of this machine alone is started."
    ),
]
WorkersFlag = Annotated[
    int | None,
    Field(description="With --engine ray: most workers, one CPU each. Unset: one for each CPU."),
]
ReportFlag = Annotated[Path | None, Field(description="Write a report to this file (.html).")]


@contextmanager
def playing_on(engine: str, address: str | None, workers: int | None) -> Iterator[None]:
    """Plays all games in the block where `--engine`, `--address` and `--workers` say.

    Raises:
        ConfigError: the flags contradict each other, or the cluster cannot be used.
    """
    if engine == "local":
        for flag, value in (("--address", address), ("--workers", workers)):
            if value is not None:
                raise ConfigError(
                    f"{flag} is for games on a cluster. Add --engine ray, or leave {flag} out."
                )
        yield
        return
    from rlarcade.cluster.connection import RayCluster
    from rlarcade.cluster.games import RayGames

    if workers is not None:
        check_count("workers", workers)
    with RayCluster(address) as cluster:
        say(f"playing on a Ray cluster of {counted(cluster.cpus(), 'CPU')}")
        with RayGames(cluster, workers=workers, warn=say_warning) as games, games.used():
            yield


def check_seed(seed: int) -> None:
    """Requires a valid `--seed`.

    Raises:
        ConfigError: the seed is negative, or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed must be 0 to {2**32 - 1}, got {seed}.")


def can_keep(players: Sequence[Player]) -> bool:
    """Whether finished games can be kept for a later command. Warns if a policy has no version."""
    unkept = told_unkept(players)
    if unkept is not None:
        say_warning(unkept)
    return unkept is None


@contextmanager
def resumable(things: str, *, kept: bool = True) -> Iterator[None]:
    """On Ctrl-C, tells that the same command resumes.

    Args:
        things: what the work consists of, in the plural.
        kept: whether finished ones are kept. If they are not, nothing is told.
    """
    try:
        yield
    except KeyboardInterrupt:
        if kept:
            say_error(f"finished {things} are kept; the same command resumes from there.")
        raise


def tell_taken(path: Path, number: int, thing: str) -> None:
    """Tells that games were not played but taken from a record."""
    say(f"{counted(number, thing)} taken from {path}, played again from the recorded actions")


def tell_report(path: Path, page: str) -> None:
    """Writes `--report FILE`, and tells where it is."""
    write_report(path, page)
    say(f"report: {path}")
