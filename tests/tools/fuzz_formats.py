"""Reads thousands of altered files of every format, and counts what comes of it.

    python tests/tools/fuzz_formats.py --inputs 300 --seed 0 --json docs/results/fuzz.json

Every file that rlarcade reads is altered: bytes, JSON nodes, TOML values, rows of the database. A
digest that stands beside the altered data is made to fit, because a stranger can do that as well.
Each file must then be read, or refused with an error that rlarcade raises on purpose. Anything else
is a fault: another exception, a started process, a file written elsewhere, more than a gigabyte of
memory or more than twenty seconds.
"""

import argparse
import hashlib
import io
import json
import os
import random
import resource
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rlarcade import DQNAgent, Registry, RlarcadeError
from rlarcade.config import load_preset, make_settings, shipped_config
from rlarcade.evaluation.document_files import load_recorded
from rlarcade.learning.onnx_file import OnnxValues, onnx_model
from rlarcade.outputs import output_file
from rlarcade.playing.observation_files import open_observations
from rlarcade.promotion.gate import load_gate
from rlarcade.runs.folder import RunFolder
from rlarcade.runs.metrics_file import read_metrics
from rlarcade.runs.state_store import StateStore

DATA = Path(__file__).parents[1] / "data"
OLD = DATA / "written-by-0.1.0"
LATE = DATA / "space-invaders-late"

LONGEST_SECONDS, MOST_BYTES = 20.0, 1_000_000_000
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class")
STRANGE: list[Any] = [
    *(None, True, -1, 0, 1, 7, 2**31, 2**53, 2**63, 10**30, 1e308, float("nan"), float("inf")),
    *(
        "",
        "x" * 10_000,
        "\x1b[31m",
        "a\nb",
        "[red]x[/red]",
        "\u202eabc",
        "../../etc/passwd",
        "\ud800",
    ),
    *([], {}, [[]], {"a": 1}, [0] * 1000, "1", "true"),
]
"""What may stand where something else is expected."""


def main() -> int:
    """Returns 1 if a file made a fault."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--inputs", type=int, default=100, help="altered files of each format")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", choices=[*FORMATS], help="one format")
    arguments.add_argument("--json", type=output_file)
    asked = arguments.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        watch = _Watch(Path(folder))
        sys.addaudithook(watch.audit)
        for name, format_ in FORMATS.items():
            if asked.only in (None, name):
                watch.counts = Counter()
                tried = _tried(format_, asked.inputs, f"{asked.seed}/{name}", watch)
                found[name] = tried.document(watch.counts)
                print(f"{name}: {json.dumps(found[name])}", flush=True)
    faults = sum(one["faults"] for one in found.values())
    inputs = sum(one["inputs"] for one in found.values())
    print(f"{inputs} altered files, {faults} faults")
    if asked.json is not None:
        document = {"seed": asked.seed, "inputs": inputs, "faults": faults, "formats": found}
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if faults else 0


@dataclass
class _Tried:
    """What came of the altered files of a format."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    most_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def document(self, forbidden: Counter[str]) -> dict[str, Any]:
        faults = [*self.faults, *(f"{what}, {count} times" for what, count in forbidden.items())]
        return {
            "inputs": self.read + self.refused + len(self.faults),
            "read": self.read,
            "refused": self.refused,
            "faults": len(faults),
            "examples": faults[:5],
            "slowest_seconds": round(self.slowest, 2),
            "most_memory_mb": round(self.most_bytes / 1e6),
        }


class _Watch:
    """Notices what reading a file must never do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.active = False
        self.counts: Counter[str] = Counter()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event.startswith(FORBIDDEN):
            self.counts[event] += 1
        if event == "open" and arguments[2] and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
            if path and not path.startswith((str(self.folder), "/dev/")):
                self.counts[f"wrote {path}"] += 1


@dataclass(frozen=True)
class _Format:
    """A kind of file: how a good one is made, altered, and read."""

    make: Callable[[Path], None]
    """Puts a good one into an empty folder."""
    alter: Callable[[Path, random.Random], None]
    read: Callable[[Path], object]


def _tried(format_: _Format, inputs: int, seed: str, watch: _Watch) -> _Tried:
    tried = _Tried()
    good = watch.folder / "good"
    for number in range(-1, inputs):  # the first one is left as it is, and must be read
        shutil.rmtree(good, ignore_errors=True)
        good.mkdir()
        format_.make(good)
        if number >= 0:
            format_.alter(good, random.Random(f"{seed}/{number}"))
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        fault = None
        watch.active = True
        try:
            format_.read(good)
            tried.read += number >= 0
        except RlarcadeError as error:
            if number < 0:
                raise
            tried.refused += 1
            str(error).encode("utf-8", "surrogatepass")
        except Exception as error:
            if number < 0:
                raise
            fault = f"input {number}: {type(error).__name__}: {str(error)[:200]}"
        watch.active = False
        seconds = time.monotonic() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if number >= 0:
            tried.slowest, tried.most_bytes = (
                max(tried.slowest, seconds),
                max(tried.most_bytes, grown),
            )
            if fault is None and seconds > LONGEST_SECONDS:
                fault = f"input {number}: {seconds:.0f} s"
            if fault is None and grown > MOST_BYTES:
                fault = f"input {number}: {grown:,} bytes"
            tried.faults += [fault] if fault else []
    return tried


# Ways to alter


def _bytes(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed) + 1)
        way = dice.randrange(5)
        if way == 0 and changed:
            changed[at - 1] ^= 1 << dice.randrange(8)
        elif way == 1:
            del changed[at:]
        elif way == 2:
            changed[at:at] = dice.randbytes(dice.randint(1, 64))
        elif way == 3:
            changed[at : at + dice.randint(1, 64)] = b""
        else:
            changed[at : at + 8] = dice.choice([0, 2**63 - 1, 2**64 - 1, 10**6]).to_bytes(
                8, "little"
            )
    return bytes(changed)


def _nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every container in a JSON value with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value))
    for key in [*keys] if isinstance(value, dict | list) else ():
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _nodes(value[key])


def _json(value: Any, dice: random.Random) -> Any:
    value = json.loads(json.dumps(value))
    for _ in range(dice.randint(1, 3)):
        nodes = list(_nodes(value))
        if not nodes:
            break
        holder, key = dice.choice(nodes)
        way = dice.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[dice.choice(["x", "", "format_version", "\x1b[0m", "a" * 1000])] = holder[key]
        elif way == 2 and isinstance(holder, list):
            holder.extend([holder[key]] * dice.choice([1, 50]))
        else:
            holder[key] = json.loads(json.dumps(dice.choice(STRANGE)))
    return value


def _json_text(value: Any, dice: random.Random) -> bytes:
    way = dice.randrange(10)
    if way == 0:
        return dice.choice([b"[" * 20_000, b'{"a":' * 20_000, b"9" * 5_000, b"", b"null", b"\xff"])
    text = json.dumps(_json(value, dice) if way < 9 else value).encode("utf-8", "surrogatepass")
    return _bytes(text, dice) if way in (1, 9) else text


def _json_file(path: Path, dice: random.Random) -> None:
    path.write_bytes(_json_text(json.loads(path.read_text()), dice))


def _lines_file(path: Path, dice: random.Random) -> None:
    lines = path.read_bytes().splitlines()
    place = dice.randrange(len(lines))
    if dice.random() < 0.8:
        lines[place] = _json_text(json.loads(lines[place]), dice)
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(_bytes(path.read_bytes(), dice))


def _toml_file(path: Path, dice: random.Random) -> None:
    lines = path.read_text().splitlines()
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(lines))
        name = lines[place].partition("=")[0].strip() or "x"
        way = dice.randrange(7)
        values = [
            "nan",
            "-inf",
            "9" * 5_000,
            "[" * 20_000,
            "'\\u001b[31m'",
            "{a={b={c=1}}}",
            "1e400",
        ]
        values += [json.dumps(one) for one in STRANGE if one is not None and one == one]
        if way < 4:
            lines[place] = f"{name} = {dice.choice(values)}"
        elif way == 4:
            lines[place] = lines[place].replace(
                name, dice.choice(["y", '"\\u001b"', "a.b.c", "[z]"])
            )
        elif way == 5:
            del lines[place]
            lines = lines or [""]
        else:
            lines.insert(place, lines[place])
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))


# Formats


def _sealed_weights(folder: Path, dice: random.Random) -> None:
    weights = folder / "weights.safetensors"
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if dice.random() < 0.7:
        header = _json_text(json.loads(data[8 : 8 + length]), dice)
        data = len(header).to_bytes(8, "little") + header + data[8 + length :]
    else:
        data = _bytes(data, dice)
    weights.write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights_sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _resealed_state(folder: Path, dice: random.Random) -> None:
    path = folder / "run" / "state" / "step-000000001200" / "state.json"
    body = _json(json.loads(path.read_text())["body"], dice)
    seal = hashlib.sha256(json.dumps(body, sort_keys=True).encode("utf-8", "surrogatepass"))
    path.write_text(json.dumps({"sha256": seal.hexdigest(), "body": body}))


def _registry(folder: Path) -> None:
    shutil.copytree(OLD / "registry", folder / "registry")
    for name in ("early", "late"):
        data = (DATA / f"space-invaders-{name}" / "weights.safetensors").read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        path = folder / "registry" / "blobs" / "sha256" / digest[:2] / digest
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _altered_rows(folder: Path, dice: random.Random) -> None:
    path = folder / "registry" / "registry.sqlite"
    if dice.random() < 0.3:
        path.write_bytes(_bytes(path.read_bytes(), dice))
        return
    with sqlite3.connect(path) as database:
        names = [
            row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        table = dice.choice(names)
        columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
        column = dice.choice(columns)
        value = dice.choice([v for v in STRANGE if not isinstance(v, list | dict)] + [b"\xff" * 20])
        way = dice.randrange(6)
        with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
            if way < 4:
                database.execute(f'UPDATE "{table}" SET "{column}" = ?', (value,))
            elif way == 4:
                database.execute(f'DELETE FROM "{table}" WHERE rowid % 2 = 0')
            else:
                database.execute(f'ALTER TABLE "{table}" ADD COLUMN z')
    database.close()


def _read_registry(folder: Path) -> None:
    with Registry.open(folder / "registry", create=False) as registry:
        registry.verify()
        registry.verify_audit()
        list(registry.events())
        for version in registry.versions(archived=True):
            registry.load(version.number)
        registry.aliases()
        registry.history("space_invaders", "champion")


def _export(folder: Path) -> None:
    _registry(folder)
    with Registry.open(folder / "registry", create=False) as registry:
        registry.export(folder / "export.tar")


def _altered_export(folder: Path, dice: random.Random) -> None:
    path = folder / "export.tar"
    if dice.random() < 0.5:
        path.write_bytes(_bytes(path.read_bytes(), dice))
        return
    with tarfile.open(path) as old:
        members = [(member, old.extractfile(member)) for member in old.getmembers()]
        with tarfile.open(folder / "new.tar", "w", format=tarfile.USTAR_FORMAT) as new:
            victim = dice.randrange(len(members))
            for place, (member, file) in enumerate(members):
                if place == victim:
                    member.name = dice.choice(
                        [member.name, "../x", "/etc/x", "blobs/../../x", "a" * 90]
                    )
                    member.type = dice.choice([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
                    member.linkname = "/etc/passwd" if member.type == tarfile.SYMTYPE else ""
                new.addfile(member, file if member.isreg() else None)
    (folder / "new.tar").replace(path)


def _byte_file(path: Path, dice: random.Random) -> None:
    path.write_bytes(_bytes(path.read_bytes(), dice))


def _observations(folder: Path) -> None:
    dice = np.random.default_rng(0)
    frames = dice.integers(0, 2, (3, 4, 84, 84), dtype=np.uint8)
    np.savez_compressed(folder / "frames.npz", observation=frames)


def _read_observations(folder: Path) -> None:
    with open_observations(folder / "frames.npz") as frames:
        list(frames.batches(2))


@cache
def _late_model() -> bytes:
    return onnx_model(DQNAgent.load(LATE))


def _text(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def _copied(source: Path, name: str) -> Callable[[Path], None]:
    def copy(folder: Path) -> None:
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)

    return copy


def _files(change: Callable[[Path, random.Random], None], name: str) -> Any:
    return lambda folder, dice: change(folder / name, dice)


def _read_run(folder: Path) -> None:
    run = RunFolder(folder / "run")
    try:
        record = run.record()
        run.finished()
    finally:
        run.close()
    if record is not None:
        StateStore(folder / "run" / "state").load(record.train)


def _ran(verb: str, *words: object) -> None:
    """Runs a command; one that ends by an error that nobody foresaw has made a fault."""
    told, printed = io.StringIO(), io.StringIO()
    with redirect_stderr(told), redirect_stdout(printed):
        code = import_module(f"rlarcade.{verb}").main([*map(str, words)])
    if "shows where it happened" in told.getvalue():
        raise AssertionError(told.getvalue())
    if code in (1, 2):
        raise RlarcadeError(told.getvalue())


SWEEP = """name = "s"
jobs = 1
[settings]
preset = "quick"
game = "Pong"
[grid]
seed = [0, 1]
learning_rate = [1e-3, 5e-4]
"""
SUITE = """guard = "prove"
margin = 0.1
[[games]]
champion = "random"
candidate = "random"
game = "Pong"
"""
MATCH = OLD / "matches" / "space_invaders-a29f843c878d-1a93b0ca1a48-seed0.jsonl"

FORMATS = {
    "manifest": _Format(
        _copied(LATE, "c"), _files(_json_file, "c/manifest.json"), lambda f: DQNAgent.load(f / "c")
    ),
    "weights": _Format(
        _copied(LATE, "c"),
        lambda folder, dice: _sealed_weights(folder / "c", dice),
        lambda f: DQNAgent.load(f / "c"),
    ),
    "comparison": _Format(
        _copied(OLD / "comparison.json", "d.json"),
        _files(_json_file, "d.json"),
        lambda f: load_recorded(f / "d.json"),
    ),
    "evaluation": _Format(
        _copied(OLD / "evaluation.json", "d.json"),
        _files(_json_file, "d.json"),
        lambda f: load_recorded(f / "d.json"),
    ),
    "match record": _Format(
        _copied(MATCH, "d.jsonl"),
        _files(_lines_file, "d.jsonl"),
        lambda f: load_recorded(f / "d.jsonl"),
    ),
    "run.json": _Format(_copied(OLD / "run", "run"), _files(_json_file, "run/run.json"), _read_run),
    "result.json": _Format(
        _copied(OLD / "run", "run"), _files(_json_file, "run/result.json"), _read_run
    ),
    "training state": _Format(_copied(OLD / "run", "run"), _resealed_state, _read_run),
    "metrics": _Format(
        _copied(OLD / "run", "run"),
        _files(_lines_file, "run/metrics.jsonl"),
        lambda f: read_metrics(f / "run"),
    ),
    "registry": _Format(_registry, _altered_rows, _read_registry),
    "export": _Format(
        _export,
        _altered_export,
        lambda f: Registry.import_(f / "export.tar", f / "imported").close(),
    ),
    "gate": _Format(
        _text("g.toml", shipped_config("gate.toml")),
        _files(_toml_file, "g.toml"),
        lambda f: load_gate(f / "g.toml"),
    ),
    "preset": _Format(
        _text("p.toml", shipped_config("rainbow.toml") + '\ngame = "Pong"\n'),
        _files(_toml_file, "p.toml"),
        lambda f: make_settings(*load_preset(str(f / "p.toml"))),
    ),
    "suite": _Format(
        _text("s.toml", SUITE),
        _files(_toml_file, "s.toml"),
        lambda f: _ran("compare", "--suite", f / "s.toml", "--max-pairs", 1, "--dir", f / "m"),
    ),
    "sweep": _Format(
        _text("s.toml", SWEEP),
        _files(_toml_file, "s.toml"),
        lambda f: _ran("sweep", f / "s.toml", "--list"),
    ),
    "observations": _Format(_observations, _files(_byte_file, "frames.npz"), _read_observations),
    "ONNX": _Format(
        lambda f: (f / "late.onnx").write_bytes(_late_model()) and None,
        _files(_byte_file, "late.onnx"),
        lambda f: OnnxValues.load(f / "late.onnx"),
    ),
}

if __name__ == "__main__":
    sys.exit(main())
