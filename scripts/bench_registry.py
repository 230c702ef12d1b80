"""How long the registry takes, in process: register, promote, roll back, list 10,000 versions.

    python scripts/bench_registry.py --json docs/results/registry-speed.json
    python scripts/bench_registry.py --versions 200 --rounds 5  # that it runs

`register` is measured beside copying the same two files and waiting until they are on the disk;
what counts is the difference. Promoting and rolling back are the moves of an alias by which every
promotion ends, checks not among them. Both happen in a registry with all the versions. These are
put in beforehand: rows and audit entries by the function that `register` uses, in one transaction,
without files, so `verify` would miss these.
"""

import argparse
import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy
from bench_training import OTHERS_ALLOWED, busy_seconds, cpu_facts

from rlarcade.checkpoint import Counters, Manifest, library_versions, save_checkpoint
from rlarcade.files import sync_folder
from rlarcade.games.protocols import get_protocol
from rlarcade.outputs import output_file
from rlarcade.registry import registration, versions
from rlarcade.registry.blobs import sha256
from rlarcade.registry.registry import Registry

_GOALS = {"register beyond copying": 100, "promote": 50, "roll back": 50, "list": 300}  # ms
_GAME = "space_invaders"


def main() -> int:
    """Measures, prints a table and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=100, help="of each; the list: a fifth of it")
    parser.add_argument(
        "--megabytes", type=float, default=6.75, help="of weights: Nature's network"
    )
    parser.add_argument("--json", type=output_file, help="write the figures to this file")
    asked = parser.parse_args()
    if asked.versions < 2 or asked.rounds < 5:
        parser.error("at least 2 versions and 5 rounds")

    ours, others, started = os.times(), busy_seconds(), time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as name,
        Registry.open(Path(name) / "registry") as registry,
    ):
        fill(registry, asked.versions)
        figures = measure_register(registry, Path(name), asked.rounds, asked.megabytes)
        figures |= measure_moves(registry, asked.rounds)
        figures["list"] = [taken(registry.versions) for _ in range(max(5, asked.rounds // 5))]
        listed = len(registry.versions())
    used = os.times()
    mine = used.user + used.system - ours.user - ours.system
    busy = max(0.0, (busy_seconds() - others - mine) / (time.perf_counter() - started))
    document = _document(asked, figures, listed, busy)
    print("\n".join(_table(document)))
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def fill(registry: Registry, count: int) -> None:
    """Puts versions in, as `register` does, but in one transaction and without their files."""
    document, libraries = {"versions": count}, library_versions()
    with registry.change("benchmark") as change:
        for number in range(count):
            manifest = Manifest(
                game=_GAME,
                protocol=get_protocol("v5"),
                num_actions=6,
                network={},
                counters=Counters(steps=number, frames=4 * number),
                config={},
                libraries=libraries,
                created="2000-01-01T00:00:00+00:00",
                weights_sha256=sha256(f"weights {number}".encode()),
            )
            record = versions.described(manifest, sha256(f"manifest {number}".encode()))
            record |= {"weights_bytes": 1, "source": f"run/checkpoints/step-{number:012d}"}
            registration.add(change._connection, record, "benchmark")
        change.record("benchmark.filled", document)


def measure_register(
    registry: Registry, folder: Path, rounds: int, megabytes: float
) -> dict[str, list[float]]:
    """Returns seconds of registering, of copying the same bytes, and of the one beyond it."""
    dice = np.random.default_rng(0)
    registering: list[float] = []
    copying: list[float] = []
    for number in range(rounds):
        path = folder / "checkpoint"
        weights = dice.standard_normal(round(megabytes * 1e6 / 4), dtype=np.float32)
        save_checkpoint(
            path,
            {"weights": weights},
            game=_GAME,
            protocol=get_protocol("v5"),
            num_actions=6,
            network={},
            counters=Counters(steps=number),
            config={},
        )
        copying.append(taken(lambda path=path: _copy(path, folder / "copy")))
        registering.append(taken(lambda path=path: registry.register(path, actor="benchmark")))
        shutil.rmtree(folder / "copy")
    beyond = [one - other for one, other in zip(registering, copying, strict=True)]
    return {"copying": copying, "register": registering, "register beyond copying": beyond}


def _copy(path: Path, to: Path) -> None:
    to.mkdir()
    for file in path.iterdir():
        shutil.copyfile(file, to / file.name)
        descriptor = os.open(to / file.name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    sync_folder(to)


def measure_moves(registry: Registry, rounds: int) -> dict[str, list[float]]:
    """Returns seconds of moving the champion on, and of moving it back."""
    numbers = [one.number for one in registry.versions()]
    whole = numbers[-rounds:]  # a roll back reads the files of where it goes

    def promote(number: int) -> None:
        registry.move_alias(
            _GAME,
            "champion",
            number,
            expected_generation=registry.generation(_GAME),
            kind="promote",
            actor="benchmark",
        )

    promote(whole[0])
    found: dict[str, list[float]] = {"promote": [], "roll back": []}
    for turn in range(rounds):
        number = whole[1 + turn % (len(whole) - 1)]
        found["promote"].append(taken(lambda number=number: promote(number)))
        found["roll back"].append(taken(lambda: registry.rollback(_GAME, actor="benchmark")))
    return found


def taken(work: Callable[[], object]) -> float:
    """Returns how many seconds something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _document(
    asked: argparse.Namespace, figures: dict[str, list[float]], listed: int, busy: float
) -> dict[str, Any]:
    def in_ms(seconds: list[float]) -> dict[str, float]:
        p50, p95 = np.percentile(seconds, [50, 95]) * 1e3
        return {"median": float(p50), "p95": float(p95), "rounds": len(seconds)}

    return {
        "milliseconds": {name: in_ms(seconds) for name, seconds in figures.items()},
        "goals_for_medians": _GOALS,
        "versions": listed,
        "versions_put_in_without_files": asked.versions,
        "megabytes_of_weights": asked.megabytes,
        "other_cores_busy": busy,
        "quotable": busy <= OTHERS_ALLOWED,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            **cpu_facts(1, None),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "sqlalchemy": sqlalchemy.__version__,
        },
    }


def _table(document: dict[str, Any]) -> Iterator[str]:
    yield f"{document['versions']:,} versions, {document['megabytes_of_weights']:g} MB of weights"
    yield f"{'milliseconds':<28}{'median':>9}{'p95':>9}{'rounds':>8}{'goal':>7}"
    for name, figure in document["milliseconds"].items():
        goal = document["goals_for_medians"].get(name)
        row = f"{name:<28}{figure['median']:9.1f}{figure['p95']:9.1f}{figure['rounds']:8}"
        yield row + (f"{f'≤ {goal}':>7}" if goal else "")
    if not document["quotable"]:
        busy = document["other_cores_busy"]
        yield f"note: other programs kept {busy:.1f} cores busy, so these are not to be quoted"


if __name__ == "__main__":
    sys.exit(main())
