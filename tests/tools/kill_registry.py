"""Kills the registry's commands again and again and checks that nothing comes of it.

    python tests/tools/kill_registry.py --kills 500 --played 1 \\
        --json docs/results/registry-kills.json

A round takes fourteen commands (`rlarcade promote …`) that register, pass and fail the gate, are
approved and denied, promote and roll back. Once they are left alone; then again and again each is
killed (SIGKILL) and given anew until it ends: just before the nth time that it touches the disk or
the database, a random while after that, or a random while after its start. After every kill the
registry must open, its audit log hold, `verify` find nothing, each game have the champion that the
audit log tells, and every version be there that a command told of. When the command has ended, all
must be as it is without kills: versions, aliases and their moves, submissions, verdicts, approvals.

Commands are forked from one process that has imported everything, so a kill costs no second. In
most rounds scores are made up; with `--played N` the first N play real games on emulators.
"""

import argparse
import gc
import hashlib
import json
import mmap
import os
import platform
import random
import re
import select
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

# Set before numpy and torch are loaded: a process with threads cannot be forked safely.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sqlalchemy
import torch
from sqlalchemy.engine import Engine

import rlarcade.evaluation.match
import rlarcade.promote
from rlarcade.config import TrainConfig
from rlarcade.learning.policy import DQNAgent
from rlarcade.outputs import output_file
from rlarcade.playing import EpisodeResult, RandomPlayer
from rlarcade.promote import submissions
from rlarcade.promotion import checks, pipeline
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.aliases import MOVES
from rlarcade.registry.change import Change
from rlarcade.registry.registry import Registry
from rlarcade.registry.states import Submission
from rlarcade.runs.folder import code_commit

PHASES = ("opening", "register", "submission", "checks", "match", "approve", "alias move")
PHASES += ("rollback", "elsewhere")
_WAYS = ("at", "after", "time")
_AGAIN = 0.4  # share of repetitions that are killed as well
_GAME = "space_invaders"

# What agents are: strength where scores are made up; the one action that they choose where they
# play (4: right and fire; it beats standing still, and a twin ties with it).
_AGENTS = {"first": (10, 0), "better": (20, 4), "worse": (5, 2), "equal": (20, 4), "best": (30, 4)}
_PAIR_SECONDS = 0.004  # of a made-up game, so that a match lasts
_MADE_UP_GATE = """\
smoke.enabled = false
latency = { decisions = 20, max_milliseconds = 60000 }
random.max_pairs = 30
match.max_pairs = 40
"""
_PLAYED_GATE = """\
smoke.steps = 20
latency = { decisions = 20, max_milliseconds = 60000 }
random.enabled = false
match = { alpha = 0.5, beta = 0.5, max_pairs = 4 }
"""
_SHORT_GAME = 800  # frames


class Command(NamedTuple):
    """A command of the round."""

    name: str
    arguments: str
    code: int
    """Its exit code."""
    done_already: str | None = None
    """What it says, if it had been done when it was killed and is given again."""


_APPROVED, _DENIED = (
    rf"awaits no approval: its last submission is {x}" for x in ("promoted", "denied")
)
ROUND = (
    Command("register", "register {first}", 0),
    Command("first champion", "pipeline run {first} --mode deployment {gate}", 0),
    Command("another game", "pipeline run {pong} --mode deployment {gate}", 0),
    Command("delivery", "pipeline run {better} --mode delivery {gate}", 5),
    Command("approve", "approve 3 --by ada --note good", 0, _APPROVED),
    Command("rejected", "pipeline run {worse} --mode deployment {gate}", 3),
    Command("inconclusive", "pipeline run {equal} --mode ci {gate}", 4),
    Command("rollback", f"rollback --game {_GAME} --to 1", 0, "cannot roll back to version 1"),
    Command("register another", "register {best}", 0),
    Command("promote", "promote 6 {gate}", 0),
    Command("rollback again", f"rollback --game {_GAME} --to 1", 0, "cannot roll back to version"),
    Command("delivery again", "pipeline run {better} --mode delivery {gate}", 5),
    Command("deny", "deny 3 --by bo --note no", 0, _DENIED),
    Command("force", "promote 5 --force --reason because", 0),
)


@dataclass
class Tally:
    """What happened."""

    phases: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    ended_first: int = 0
    """Commands that had ended when their kill came."""
    done_already: int = 0
    """Repeated commands that said that they had been done."""
    rounds: int = 0
    played_rounds: int = 0
    problem: str | None = None

    @property
    def kills(self) -> int:
        """How often a command was killed."""
        return sum(self.phases.values())


class Broken(Exception):
    """Something that a kill must not do."""


def main() -> int:
    """Plays rounds until there were enough kills; exit code 1 if one of them left a trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--played", type=int, default=0, help="rounds that play real games")
    parser.add_argument("--json", type=output_file, help="write the outcome to this file")
    asked = parser.parse_args()

    tally, rng, commit = Tally(), random.Random(asked.seed), code_commit()
    with tempfile.TemporaryDirectory() as folder:
        stages: dict[bool, Stage] = {}
        watch = Watch()
        while tally.kills < asked.kills and tally.problem is None:
            played = tally.rounds < asked.played
            if played not in stages:
                stages[played] = Stage(Path(folder) / f"played-{played}", watch, played)
            try:
                stages[played].play(rng, tally, asked.kills, Path(folder) / f"{tally.rounds}")
            except Broken as error:
                tally.problem = str(error)
            tally.rounds += 1
            tally.played_rounds += played
            told = ", ".join(f"{name} {tally.phases[name]}" for name in PHASES)
            print(f"round {tally.rounds}: {tally.kills} kills ({told})", flush=True)
            if asked.json:  # after every round: what is known is kept
                asked.json.write_text(
                    json.dumps(_document(tally, asked.seed, commit), indent=1) + "\n"
                )
    if tally.problem:
        print(tally.problem, file=sys.stderr)
    print(json.dumps({"kills": tally.kills, "all_whole": tally.problem is None}))
    return 0 if tally.problem is None else 1


# Where a command is


class Watch:
    """Knows what a command is doing, and kills it, or has it killed, at a moment."""

    def __init__(self) -> None:
        self.shared = mmap.mmap(-1, mmap.PAGESIZE)  # outlives the one who is killed
        self.touches: list[tuple[str, float]] | None = None
        """Of a command that is left alone: what it did at each, and when."""
        self.count, self.target, self.tell = 0, 0, -1
        self._within = ["elsewhere"]
        self._instrument()

    @property
    def phase(self) -> str:
        """What the command does or, if it is dead, did."""
        return PHASES[self.shared[0]]

    def _enter(self, phase: str) -> None:
        self._within.append(phase)
        self.shared[0] = PHASES.index(phase)

    def _leave(self) -> None:
        self._within.pop()
        self.shared[0] = PHASES.index(self._within[-1])

    def begin(self, target: int, tell: int, *, timed: bool) -> None:
        """Called in the command's own process; with no `tell` it dies at its target."""
        self.count, self.target, self.tell = 0, target, tell
        self.touches = [("elsewhere", time.monotonic())] if timed else None

    def touch(self, *_: object, **__: object) -> None:
        """The command is about to touch the disk or the database."""
        self.count += 1
        if self.touches is not None:
            self.touches.append((self._within[-1], time.monotonic()))
        if self.count == self.target:
            if self.tell < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(self.tell, b".")

    def _instrument(self) -> None:
        Registry.open = classmethod(self._marked("opening", Registry.open.__func__))
        for where, name, phase in (
            (Registry, "register", "register"),
            (Registry, "move_alias", "alias move"),
            (Change, "move_alias", "alias move"),
            (Registry, "rollback", "rollback"),
            (submissions, "run_pipeline", "submission"),
            (submissions, "approve", "approve"),
            (submissions, "deny", "approve"),
            (pipeline, "make_verdict", "checks"),
            (checks, "compare_agents", "match"),
        ):
            setattr(where, name, self._marked(phase, getattr(where, name)))
        os.fsync = self._touching(os.fsync)
        for name in ("rename", "replace", "mkdir"):
            setattr(Path, name, self._touching(getattr(Path, name)))
        for event in ("before_cursor_execute", "commit"):
            sqlalchemy.event.listen(Engine, event, self.touch)

    def _marked(self, phase: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            self._enter(phase)
            try:
                return real(*positional, **named)
            finally:
                self._leave()

        return call

    def _touching(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            self.touch()
            return real(*positional, **named)

        return call


class Moment(NamedTuple):
    """When a command is killed."""

    way: str
    touch: int = 0
    seconds: float = 0.0
    """After that touch, or after the start."""


def draw_moment(rng: random.Random, touches: list[tuple[str, float]], had: Counter[str]) -> Moment:
    """Draws when to kill a command.

    Args:
        rng: of the moments.
        touches: what it does when it is left alone.
        had: kills so far by phase; those that had fewer are drawn more often.
    """
    way = rng.choices(_WAYS, weights=(2, 2, 1))[0]
    begun, ended = touches[0][1], touches[-1][1]
    if way == "time":
        return Moment(way, seconds=rng.uniform(0, ended - begun))
    phases = sorted({phase for phase, _ in touches[1:-1]})
    phase = rng.choices(phases, weights=[1 / (1 + had[one]) for one in phases])[0]
    nth = rng.choice([n for n, (p, _) in enumerate(touches[:-1]) if n and p == phase])
    return Moment(way, nth, rng.uniform(0, touches[nth + 1][1] - touches[nth][1]))


# Running commands


class Outcome(NamedTuple):
    """How a command ended."""

    code: int | None
    """None: it was killed."""
    said: str
    touches: list[tuple[str, float]]


class Stage:
    """Agents, a gate, and how the round goes that nobody disturbs."""

    def __init__(self, folder: Path, watch: Watch, played: bool) -> None:
        self.watch, self.played = watch, played
        self.paths = {name: folder / name for name in (*_AGENTS, "pong")}
        self.strengths: dict[str | None, float] = {}
        for seed, (name, path) in enumerate(self.paths.items()):
            digest = _write_agent(path, name, seed, played)
            self.strengths[digest] = _AGENTS.get(name, (0, 0))[0]
        gate = folder / "gate.toml"
        gate.write_text(_PLAYED_GATE if played else _MADE_UP_GATE, "utf-8")
        self.words = {name: str(path) for name, path in self.paths.items()}
        self.words["gate"] = f"--gate {gate}"
        self.undisturbed: list[tuple[dict[str, Any], list[tuple[str, float]]]] = []
        registry = folder / "undisturbed"
        for command in ROUND:
            outcome = self.run(command, registry, None)
            if outcome.code != command.code:
                raise Broken(f"{command.name} ended with {outcome.code}: {outcome.said}")
            self.undisturbed.append((_state(registry), outcome.touches))

    def play(self, rng: random.Random, tally: Tally, kills: int, folder: Path) -> None:
        """Plays a round with kills, as long as there are to be more of them.

        Raises:
            Broken: a kill left a trace.
        """
        folder.mkdir()
        registry, known = folder / "registry", Known()
        for command, (state, touches) in zip(ROUND, self.undisturbed, strict=True):
            killed = False
            while True:
                wanted = tally.kills < kills and (not killed or rng.random() < _AGAIN)
                moment = draw_moment(rng, touches, tally.phases) if wanted else None
                outcome = self.run(command, registry, moment)
                known.hear(outcome.said)
                where = f"{command.name}, killed {moment} in {self.watch.phase}"
                if outcome.code is not None:
                    tally.ended_first += moment is not None
                    break
                killed = True
                tally.phases[self.watch.phase] += 1
                tally.ways[moment.way if moment else "time"] += 1
                tally.commands[command.name] += 1
                known.check(registry, state, where)
            done = command.done_already and re.search(command.done_already, outcome.said)
            if outcome.code != command.code and not (killed and done):
                raise Broken(f"{command.name} ended with {outcome.code}: {outcome.said}")
            tally.done_already += bool(killed and done)
            known.check(registry, state, f"{command.name} has ended")
            if (found := _state(registry)) != state:
                raise Broken(f"{command.name} led to\n{found}\nand not to\n{state}")
            known.settle(state)

    def run(self, command: Command, registry: Path, moment: Moment | None) -> Outcome:
        """Forks the command, and kills it at a moment or lets it end."""
        arguments = [*command.arguments.format(**self.words).split(), "--registry", str(registry)]
        _require_no_threads()
        output, timed = registry.with_name("output.txt"), registry.with_name("touches.json")
        output.parent.mkdir(exist_ok=True)
        told, tell = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            self._be_the_command(arguments, moment, tell, output, timed)
        os.close(tell)
        status = _kill(pid, told, moment)
        os.close(told)
        said = output.read_text("utf-8") if output.exists() else ""
        if os.WIFSIGNALED(status):
            return Outcome(None, said, [])
        touches = json.loads(timed.read_text()) if moment is None else []
        return Outcome(os.waitstatus_to_exitcode(status), said, touches)

    def _be_the_command(
        self, arguments: list[str], moment: Moment | None, tell: int, output: Path, timed: Path
    ) -> None:
        code = 99
        try:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            if not self.played:
                rlarcade.evaluation.match.play_games = self._make_up
                # No emulator knows made-up games; rounds of real ones keep their records' check.
                rlarcade.evaluation.match.first_problem = lambda _games: None
            way = moment.way if moment else None
            self.watch.begin(
                moment.touch if moment else 0, tell if way == "after" else -1, timed=moment is None
            )
            try:
                code = rlarcade.promote.main(arguments)
            except SystemExit as error:
                code = int(error.code or 0)
            if self.watch.touches is not None:
                self.watch.touches.append(("elsewhere", time.monotonic()))
                timed.write_text(json.dumps(self.watch.touches))
        finally:
            os._exit(code)

    def _make_up(
        self, schedule: Iterable[Any], num_lanes: int, failures_count: bool = True
    ) -> Iterator[tuple[int, EpisodeResult]]:
        """Plays no games: the stronger agent has more points, mostly."""
        del num_lanes, failures_count
        for place, game in enumerate(schedule):
            time.sleep(_PAIR_SECONDS)
            version = None if isinstance(game.player, RandomPlayer) else game.player.version
            luck = hashlib.sha256(f"{version} {game.seed}".encode()).digest()[0] / 256
            score = round(self.strengths.get(version, 0) + 10 * luck)
            yield place, EpisodeResult(seed=game.seed, score=score, steps=10, ended="terminated")


def _kill(pid: int, told: int, moment: Moment | None) -> int:
    """Kills a process at the moment, unless it ends before; returns its status."""
    if moment is not None and moment.way != "at":
        # The pipe's other end closes with the process, which then need not be waited for.
        ready = moment.way == "time" or os.read(told, 1)
        if ready:
            select.select([told], [], [], moment.seconds)
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id is still its own
    return os.waitpid(pid, 0)[1]


def _require_no_threads() -> None:
    tasks = Path("/proc/self/task")  # threads of C libraries, too
    if tasks.exists() and len(list(tasks.iterdir())) != 1:
        raise RuntimeError("threads run: what is forked now might wait for ever for their locks.")


def _write_agent(path: Path, name: str, seed: int, played: bool) -> str:
    game = "pong" if name == "pong" else _GAME
    config = TrainConfig(game=game, conv_channels=(4, 4, 4), hidden_units=16)
    agent = DQNAgent(config, num_actions=6, seed=seed)
    if played:
        agent.protocol = agent.protocol.model_copy(
            update={"name": "short", "frame_cap": _SHORT_GAME}
        )
        with torch.no_grad():
            agent.q_network.head.values.bias[_AGENTS.get(name, (0, 0))[1]] += 100
    return agent.save(path).weights_sha256


# What must hold


class Known:
    """What commands told, and what so far must be true."""

    def __init__(self) -> None:
        self.versions: dict[int, str] = {}
        self.champions: dict[str, int] = {}

    def hear(self, said: str) -> None:
        """Notes the versions that a command, ended or killed, said it had registered."""
        for number, digest in re.findall(r"^version (\d+) of \w+: (\w{12})$", said, re.MULTILINE):
            self.versions[int(number)] = digest

    def settle(self, state: dict[str, Any]) -> None:
        """Notes what a command that ended has left: from here on it must stay."""
        self.champions = state["champions"]
        self.versions |= {number: digest[:12] for number, digest, *_ in state["versions"]}

    def check(self, folder: Path, ahead: dict[str, Any], where: str) -> None:
        """Checks what must hold after a kill.

        Args:
            folder: the registry's.
            ahead: its state once the command has ended.
            where: for the error.

        Raises:
            Broken: it does not hold.
        """
        with Registry.open(folder) as registry:
            problems = [registry.verify_audit(), *registry.verify()]
            if any(problems):
                raise Broken(f"{where}: {problems}")
            there = {one.number: one.digest for one in registry.versions(archived=True)}
            lost = {n: d for n, d in self.versions.items() if there.get(n, "")[:12] != d}
            if lost:
                raise Broken(f"{where}: versions {lost} are lost; there are {there}")
            events = list(registry.events())
            told = {
                (event.document["game"], event.document["name"]): event.document["version"]
                for event in events
                if event.kind in MOVES
            }
            found = [(one.game, one.name, one.version) for one in registry.aliases()]
            if sorted(found) != sorted((*key, version) for key, version in told.items()):
                raise Broken(f"{where}: aliases {found}, but the audit log says {told}")
            champions = {game: version for game, _, version in found}
            if champions not in (self.champions, ahead["champions"]):
                raise Broken(f"{where}: champions {champions}")
            for number in champions.values():
                registry.load(number)


def _state(folder: Path) -> dict[str, Any]:
    """Returns all of a registry that kills must not change; times and who measured them may."""
    with Registry.open(folder) as registry:
        games = {one.game for one in registry.versions(archived=True)}
        histories = {game: registry.history(game) for game in sorted(games)}
        # A forced promotion is done again if it is asked for again: to where it is already.
        moves = {
            game: [(m.kind, m.version) for m in moves if m.version != m.previous]
            for game, moves in histories.items()
        }
        return {
            "versions": [
                (one.number, one.digest, one.game, one.state, one.aliases)
                for one in registry.versions(archived=True)
            ],
            "registered": sum(event.kind == "register" for event in registry.events()),
            "champions": {one.game: one.version for one in registry.aliases()},
            "moves": moves,
            "gapless": all(
                [m.generation for m in moves] == list(range(1, len(moves) + 1))
                for moves in histories.values()
            ),
            "back": {
                game: [one.number for one in registry.previous_champions(game)]
                for game in sorted(games)
            },
            "submissions": [_submission(registry, one) for one in submissions_of(registry)],
        }


def _submission(registry: Registry, one: Submission) -> dict[str, Any]:
    kept = {"id", "version", "mode", "state", "champion", "champion_generation", "gate"}
    state = one.model_dump(include=kept)
    state["approvals"] = [(a.by, a.decision, a.note, a.version) for a in one.approvals]
    verdict = pipeline.verdict_of(registry, one)
    if verdict is not None:  # with the match that it rests on, but not with measured times
        state["checks"] = [
            (c.name, c.outcome, {k: v for k, v in c.details.items() if not k.endswith("_ms")})
            for c in verdict.checks
        ]
    return state


def _document(tally: Tally, seed: int, commit: str | None) -> dict[str, Any]:
    return {
        "kills": tally.kills,
        "kills_by_phase": {name: tally.phases[name] for name in PHASES},
        "kills_by_way": {name: tally.ways[name] for name in _WAYS},
        "kills_by_command": {one.name: tally.commands[one.name] for one in ROUND},
        "ended_before_the_kill": tally.ended_first,
        "said_it_was_done_already": tally.done_already,
        "rounds": tally.rounds,
        "rounds_with_real_games": tally.played_rounds,
        "all_whole": tally.problem is None,
        "problem": tally.problem,
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.system(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "sqlalchemy": sqlalchemy.__version__,
        },
        "git_commit": commit,
    }


if __name__ == "__main__":
    gc.freeze()  # pages of what is imported stay shared with every command
    sys.exit(main())
