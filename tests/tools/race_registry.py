"""Eight processes register, promote and roll back at once; nobody's move may be lost.

    python tests/tools/race_registry.py --seconds 60 --json docs/results/registry-race.json

With `--registry postgresql://…?blobs=…`, an empty database, they race there.

Each process looks at a champion, thinks, and moves it on or back by compare-and-swap, or registers
a version that only it has. Afterwards the moves that processes were told of must be exactly those
that the audit log has: generations without a gap, each told to one process; whoever lost was told
so; and every registered version is there.
"""

import argparse
import json
import os
import platform
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy

from rlarcade.checkpoint import Counters, save_checkpoint
from rlarcade.errors import RegistryError, StaleError
from rlarcade.games.protocols import get_protocol
from rlarcade.outputs import output_file
from rlarcade.registry.documents import Alias
from rlarcade.registry.registry import Registry

_GAMES = ("space_invaders", "pong")
_ACTIONS = ("register", "promote", "roll back")
_WEIGHTS = (1, 3, 2)


@dataclass
class Account:
    """What one process did, and what it was told."""

    attempts: Counter[str] = field(default_factory=Counter)
    successes: Counter[str] = field(default_factory=Counter)
    stale: Counter[str] = field(default_factory=Counter)
    nothing_before: int = 0
    """Roll backs refused because there was nothing to go back to."""
    moves: list[tuple[str, int, int]] = field(default_factory=list)
    """Game, generation and version of each move that it was told had been made."""
    versions: list[tuple[int, str]] = field(default_factory=list)
    """Number and digest of each version that it was told had been registered."""
    errors: list[str] = field(default_factory=list)
    """Anything else: a database that stayed locked, say."""


def main() -> int:
    """Races, looks what came of it; exit code 1 if anything was lost, or anybody not told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of what they do")
    parser.add_argument("--registry", help="address of an empty database; unset: a new folder")
    parser.add_argument("--json", type=output_file, help="write the outcome to this file")
    asked = parser.parse_args()

    # Not forked: each opens the registry as a command would.
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        address = asked.registry or str(folder / "registry")
        with Registry.open(address) as registry:
            for number, game in enumerate(_GAMES):
                first = registry.register(_write_checkpoint(folder / game, game, number))
                registry.move_alias(
                    game, "champion", first.number, expected_generation=0, kind="promote"
                )
        start = context.Barrier(asked.processes)
        with context.Pool(asked.processes, _remember, (start,)) as pool:
            work = [
                (address, folder, place, asked.seed, asked.seconds)
                for place in range(asked.processes)
            ]
            running = pool.starmap_async(_race, work, chunksize=1)
            accounts = running.get(timeout=asked.seconds * 3 + 120)  # a deadlock ends here
        problems = _problems(address, accounts)
    document = _document(asked, accounts, problems)
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    print("\n".join(problems))
    told = ("attempts", "successes", "told_stale", "nothing_lost")
    print(json.dumps({name: document[name] for name in told}))
    return 1 if problems else 0


# A process


_start: Any = None


def _remember(barrier: Any) -> None:
    global _start  # noqa: PLW0603 (a barrier can only be inherited)
    _start = barrier


def _race(address: str, folder: Path, place: int, seed: int, seconds: float) -> Account:
    account, rng = Account(), random.Random(f"{seed} {place}")
    with Registry.open(address, create=False, busy_seconds=30) as registry:
        _start.wait()
        until = time.monotonic() + seconds
        for turn in range(10**9):
            if time.monotonic() > until:
                break
            action = rng.choices(_ACTIONS, weights=_WEIGHTS)[0]
            account.attempts[action] += 1
            try:
                if action == "register":
                    path = folder / f"agent-{place}"
                    number = 1000 * seed + place + 100 * (turn + 1)
                    made = registry.register(_write_checkpoint(path, rng.choice(_GAMES), number))
                    account.versions.append((made.number, made.digest))
                else:
                    game = rng.choice(_GAMES)
                    move = _promote if action == "promote" else _roll_back
                    done = move(registry, game, rng)
                    account.moves.append((game, done.generation, done.version))
                account.successes[action] += 1
            except StaleError:
                account.stale[action] += 1
            except RegistryError as error:
                if "to roll back to" in str(error):
                    account.nothing_before += 1
                else:
                    account.errors.append(f"{action}: {error}")
    return account


def _promote(registry: Registry, game: str, rng: random.Random) -> Alias:
    known = registry.generation(game)
    candidate = rng.choice(registry.versions(game)[-10:])
    time.sleep(rng.uniform(0, 0.01))  # thinks, while others may move it
    done = registry.move_alias(
        game, "champion", candidate.number, expected_generation=known, kind="promote"
    )
    return _moved(done, known, candidate.number)


def _roll_back(registry: Registry, game: str, rng: random.Random) -> Alias:
    if rng.random() < 0.5:  # in one step, whoever is champion
        return registry.rollback(game)
    known = registry.generation(game)
    time.sleep(rng.uniform(0, 0.01))
    done = registry.rollback(game, expected_generation=known)
    return _moved(done, known, done.version)


def _moved(done: Alias | None, known: int, version: int) -> Alias:
    if done is None or (done.generation, done.version) != (known + 1, version):
        raise RegistryError(f"moved to version {version} from generation {known}, but told {done}")
    return done


def _write_checkpoint(path: Path, game: str, number: int) -> Path:
    """Writes a checkpoint whose weights no other has."""
    save_checkpoint(
        path,
        {"weights": np.full(64, number, dtype=np.int64)},
        game=game,
        protocol=get_protocol("v5"),
        num_actions=6,
        network={},
        counters=Counters(),
        config={},
    )
    return path


# What came of it


def _problems(address: str, accounts: list[Account]) -> list[str]:
    found = [error for account in accounts for error in account.errors]
    with Registry.open(address, create=False) as registry:
        wrong = [registry.verify_audit(), *registry.verify()]
        found += [f"{one.where}: {one.what}" for one in wrong if one is not None]
        for game in _GAMES:
            logged = [(m.generation, m.version) for m in registry.history(game)][1:]
            told = sorted(move[1:] for one in accounts for move in one.moves if move[0] == game)
            if [generation for generation, _ in logged] != list(range(2, len(logged) + 2)):
                found.append(f"{game}: generations have gaps")
            if told != logged:
                found.append(f"{game}: {len(told)} moves were told, {len(logged)} are logged")
            now = registry.alias(game)
            if now is None or (logged and (now.generation, now.version) != logged[-1]):
                found.append(f"{game}: the champion is {now}, the last move {logged[-1:]}")
        there = {(one.number, one.digest) for one in registry.versions()}
        told_versions = [one for account in accounts for one in account.versions]
        if len(there) != len(told_versions) + len(_GAMES) or not there.issuperset(told_versions):
            found.append(f"{len(told_versions)} versions were told of, {len(there)} are there")
    for place, account in enumerate(accounts):
        answers = _sum(account.successes) + _sum(account.stale) + account.nothing_before
        if answers + len(account.errors) != _sum(account.attempts):
            found.append(f"process {place} was not told what came of each attempt")
    return found


def _sum(counts: Counter[str]) -> int:
    return sum(counts.values())


def _total(accounts: list[Account], which: Callable[[Account], Counter[str]]) -> dict[str, int]:
    total = sum((which(account) for account in accounts), Counter[str]())
    return {action: total[action] for action in _ACTIONS}


def _document(
    asked: argparse.Namespace, accounts: list[Account], problems: list[str]
) -> dict[str, Any]:
    return {
        "attempts": _total(accounts, lambda one: one.attempts),
        "successes": _total(accounts, lambda one: one.successes),
        "told_stale": _total(accounts, lambda one: one.stale),
        "told_nothing_to_roll_back_to": sum(one.nothing_before for one in accounts),
        "nothing_lost": not problems,
        "problems": problems,
        "attempts_by_process": [_sum(one.attempts) for one in accounts],
        "errors": sum(len(one.errors) for one in accounts),
        "processes": asked.processes,
        "seconds": asked.seconds,
        "seed": asked.seed,
        "store": "PostgreSQL" if asked.registry else "SQLite",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "sqlalchemy": sqlalchemy.__version__,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
