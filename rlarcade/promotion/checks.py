"""The checks of a gate."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlarcade.config import NetworkSettings
from rlarcade.errors import CheckpointError, DamagedPartError, PolicyError, RunFolderError
from rlarcade.evaluation import Comparison, Rule, compare_agents
from rlarcade.evaluation.sequential import LARGEST_LOG, log_e_value
from rlarcade.files import UnfitFileError, own_folder
from rlarcade.games.protocols import SCREEN, STACK
from rlarcade.learning.playable import load_agent
from rlarcade.playing import RandomPlayer, play_steps
from rlarcade.playing.players import AgentPlayer, Player
from rlarcade.promotion.gate import (
    Attempt,
    Check,
    Gate,
    GateVerdict,
    LatencyCheck,
    MatchCheck,
    Outcome,
    RandomCheck,
)
from rlarcade.registry.documents import Alias, Version
from rlarcade.registry.registry import Registry
from rlarcade.seeding import SeedUse

if TYPE_CHECKING:
    from rlarcade.learning.policy import DQNAgent

CheckBegins = Callable[[str], None]
"""Called with a check's name before it runs."""
PairDone = Callable[[Comparison], None]
"""Called after each pair of a match, with the match so far."""

_PERCENTILE = 95  # other processes on the machine cause the slowest few decisions
_OUTCOMES: dict[str | None, Outcome] = {"promote": "pass", "reject": "fail"}

Finding = tuple[Outcome, str, dict[str, object]]
"""Outcome, evidence and details of a check."""


def make_verdict(
    registry: Registry,
    version: Version,
    champion: Alias | None,
    gate: Gate,
    *,
    attempt: Attempt | None = None,
    on_check: CheckBegins | None = None,
    on_pair: PairDone | None = None,
) -> GateVerdict:
    """Runs a gate's checks in order, until one does not pass.

    Matches are recorded in the registry's folder. An interrupted match is resumed, and a finished
    one is not played again, so a second call gives the version no second chance.

    Args:
        registry: the registry that holds both versions.
        version: the candidate.
        champion: the current champion's alias; None: the game has no champion yet.
        gate: the checks and their limits.
        attempt: the share of the gate's α for the match; None: all of α.
        on_check: called before each check.
        on_pair: called after each pair of games.

    Raises:
        RunFolderError: the record of a match is in use or damaged.
        OSError: the disk is full.
    """
    generation = champion.generation if champion else registry.generation(version.game)
    subject = _Subject(registry, version, champion, gate, attempt, on_pair)
    made: list[Check] = []
    stopped: str | None = None
    for name, check in _checks(gate):
        if stopped is not None:
            evidence = f"not run, because {stopped} did not pass"
            made.append(Check(name=name, outcome="unknown", evidence=evidence))
            continue
        if on_check is not None:
            on_check(name)
        started = time.perf_counter()
        outcome, evidence, details = check(subject)
        seconds = round(time.perf_counter() - started, 3)
        made.append(
            Check(name=name, outcome=outcome, evidence=evidence, details=details, seconds=seconds)
        )
        stopped = None if outcome == "pass" else name
    return GateVerdict(
        version=version.digest,
        number=version.number,
        game=version.game,
        champion=champion.digest if champion else None,
        champion_generation=generation,
        gate=gate,
        attempt=attempt,
        checks=tuple(made),
    )


@dataclass
class _Subject:
    """The input of the checks, and results that later checks use."""

    registry: Registry
    version: Version
    champion: Alias | None
    gate: Gate
    attempt: Attempt | None
    on_pair: PairDone | None
    agent: "DQNAgent | None" = None
    """The version's agent; set by the check of the files."""
    match: Comparison | None = None
    """Match against the champion; None: not played yet."""

    @property
    def loaded(self) -> "DQNAgent":
        assert self.agent is not None, "the first check loads the agent"
        return self.agent

    @property
    def player(self) -> AgentPlayer:
        """The version's agent, under the version's number in results."""
        return AgentPlayer(self.loaded, name=_name(self.version.number))

    def records(self, rule: Rule) -> Path:
        # A match keeps its rule to the end. So a gate with another rule needs a new match; a gate
        # that only allows more pairs continues the old one.
        digest = hashlib.sha256(rule.model_dump_json().encode()).hexdigest()
        folder = self.registry.matches
        try:
            return own_folder(own_folder(folder) / digest[:12])
        except UnfitFileError as error:
            raise RunFolderError(
                f"matches cannot be kept in {error.filename}: {error.strerror}."
            ) from error


def _checks(gate: Gate) -> list[tuple[str, Callable[[_Subject], Finding]]]:
    optional: list[tuple[str, bool, Callable[[_Subject], Finding]]] = [
        # A version that is too large or too slow is rejected before any game is played.
        ("size", gate.size.enabled, _size),
        ("latency", gate.latency.enabled, _latency),
        ("smoke", gate.smoke.enabled, _smoke),
        ("random", gate.random.enabled, _random),
        ("match", gate.match.enabled, _match),
        ("guard", gate.guard.enabled and gate.match.enabled, _guard),
    ]
    always: list[tuple[str, Callable[[_Subject], Finding]]] = [
        ("files", _files),
        ("contract", _contract),
    ]
    return always + [(name, check) for name, enabled, check in optional if enabled]


def _files(subject: _Subject) -> Finding:
    version = subject.version
    try:
        agent = load_agent(subject.registry.load(version.number))
    except (DamagedPartError, CheckpointError) as error:  # not what may be read next time
        return "fail", str(error), {}
    subject.agent = agent
    network = NetworkSettings.model_validate(agent.network)
    return (
        "pass",
        f"sha256 {version.digest[:12]} holds; {network.torso} torso, {network.head} head load",
        {},
    )


def _contract(subject: _Subject) -> Finding:
    version, alias = subject.version, subject.champion
    if alias is None:
        return "pass", f"{version.game} has no champion to compare with", {}
    champion = subject.registry.version(alias.version)
    if champion.contract == version.contract:
        return (
            "pass",
            f"protocol {version.protocol} and {version.num_actions} actions, as the champion, "
            f"version {champion.number}",
            {},
        )
    ours = version.protocol.model_dump() | {"game": version.game, "actions": version.num_actions}
    theirs = champion.protocol.model_dump() | {
        "game": champion.game,
        "actions": champion.num_actions,
    }
    unlike = [f"{key} {theirs[key]} and {ours[key]}" for key in ours if ours[key] != theirs[key]]
    return (
        "fail",
        f"the champion, version {champion.number}, and this one differ: {', '.join(unlike)}",
        {},
    )


def _name(number: int) -> str:
    """Returns the name of a version in results."""
    return f"version {number}"


def _smoke(subject: _Subject) -> Finding:
    wanted, most = subject.gate.smoke.steps, subject.gate.smoke.max_seconds
    played, score, started = 0, 0.0, time.monotonic()
    try:
        for step in play_steps(subject.player, episodes=wanted, use=SeedUse.CALIBRATION):
            played, score = played + 1, score + step.reward
            if played == wanted:
                break
            if time.monotonic() - started > most:
                return "unknown", f"{played} of {wanted} steps played in {most:g} s", {}
    except PolicyError as error:
        return "fail", str(error), {}
    return "pass", f"{wanted} steps played, {score:g} points", {}


def _size(subject: _Subject) -> Finding:
    megabytes = subject.version.weights_bytes / 1e6
    allowed = subject.gate.size.max_megabytes
    outcome: Outcome = "pass" if megabytes <= allowed else "fail"
    return outcome, f"{megabytes:.3g} MB of weights, {allowed:g} allowed", {}


def _latency(subject: _Subject) -> Finding:
    part = subject.gate.latency
    taken = _decision_times(subject.loaded, part)
    middle, slow = (float(one) for one in np.percentile(taken, [50, _PERCENTILE]))
    details: dict[str, object] = {"p50_ms": middle, "p95_ms": slow}
    allowed = f"{part.max_milliseconds:g} allowed"
    if _too_slow(taken, part):
        over = sum(one > part.max_milliseconds for one in taken)
        evidence = (
            f"{over} of {len(taken)} decisions took longer than {part.max_milliseconds:g} ms, the "
            f"slowest {max(taken):.3g} ms; at most {100 - _PERCENTILE} of 100 may"
        )
        return "fail", evidence, details
    if len(taken) < part.decisions:
        evidence = (
            f"{len(taken)} of {part.decisions} decisions in {part.max_seconds:g} s; {allowed}"
        )
        return "unknown", evidence, details
    evidence = (
        f"a decision takes {middle:.3g} ms, {_PERCENTILE} of 100 at most {slow:.3g} ms; {allowed}"
    )
    return "pass" if slow <= part.max_milliseconds else "fail", evidence, details


def _decision_times(agent: "DQNAgent", part: LatencyCheck) -> list[float]:
    """Times decisions, in ms, until all are made, the limit is missed or the time is over."""
    dice, started = np.random.default_rng(0), time.monotonic()
    taken: list[float] = []
    for count in range(part.decisions + 1):
        frame = dice.integers(0, 256, (1, STACK, SCREEN, SCREEN), dtype=np.uint8)
        begun = time.perf_counter()
        agent.q_values(frame)
        if count:  # not the first one, which allocates memory
            taken.append((time.perf_counter() - begun) * 1e3)
        if taken and (_too_slow(taken, part) or time.monotonic() - started > part.max_seconds):
            break
    return taken


def _too_slow(taken: Sequence[float], part: LatencyCheck) -> bool:
    """Whether the 95th percentile exceeds the limit, however fast the remaining decisions are."""
    allowed = part.decisions - int((part.decisions - 1) * _PERCENTILE / 100) - 1
    return sum(one > part.max_milliseconds for one in taken) > allowed


def _random(subject: _Subject) -> Finding:
    part = subject.gate.random
    if subject.champion is None and not part.first_champion:
        return "pass", f"the first champion of {subject.version.game} needs no match", {}
    player = RandomPlayer(subject.version.game, subject.version.protocol)
    return _judged(subject, _played(subject, player, Rule(alpha=part.alpha), part))


def _match(subject: _Subject) -> Finding:
    part = subject.gate.match
    if subject.champion is None:
        return "pass", f"the first champion of {subject.version.game} needs no match", {}
    if subject.champion.digest == subject.version.digest:
        return "unknown", "it is the champion already", {}
    # If the champion is damaged, this raises: it is no verdict on the candidate.
    stored = subject.registry.load(subject.champion.version)
    try:
        champion = load_agent(stored)
    except CheckpointError as error:
        return "unknown", f"the champion cannot be loaded: {error}", {}
    margin = part.non_inferiority
    alpha = part.alpha if subject.attempt is None else subject.attempt.alpha
    rule = (
        Rule.non_inferiority(margin, alpha=alpha, beta=part.beta)
        if margin
        else Rule(alpha=alpha, beta=part.beta)
    )
    player = AgentPlayer(champion, name=_name(subject.champion.version))
    subject.match = _played(subject, player, rule, part)
    return _judged(subject, subject.match)


class _TimeIsUpError(Exception):
    """A match has reached `max_seconds`; carries the match so far."""

    def __init__(self, match: Comparison) -> None:
        super().__init__()
        self.match = match


def _played(
    subject: _Subject, opponent: Player, rule: Rule, part: RandomCheck | MatchCheck
) -> Comparison:
    """Plays a match, but begins no pair after `max_seconds`; a stopped match has no verdict."""
    started = time.monotonic()

    def pair_done(match: Comparison) -> None:
        if subject.on_pair is not None:
            subject.on_pair(match)
        if match.verdict is None and time.monotonic() - started > part.max_seconds:
            raise _TimeIsUpError(match)

    try:
        return compare_agents(
            opponent,
            subject.player,
            rule=rule,
            max_pairs=part.max_pairs,
            record=subject.records(rule),
            on_pair=pair_done,
        )
    except _TimeIsUpError as stop:
        note = f"stopped after {part.max_seconds:g} s (max_seconds)"
        return stop.match.model_copy(update={"notes": (*stop.match.notes, note)})


def _judged(subject: _Subject, match: Comparison) -> Finding:
    rule, (low, high) = match.rule, match.interval
    notes = "".join(f"; {note}" for note in match.notes)
    evidence = (
        f"against {match.champion.checkpoint}: {match.wins} won, {match.ties} tied, {match.losses} "
        f"lost of {match.pairs} pairs, e-value {match.e_value:.4g} (promote from "
        f"{1 / rule.alpha:.4g}), futility {match.e_value_futility:.4g} (reject from "
        f"{1 / rule.beta:.4g}){notes}"
    )
    details: dict[str, object] = {
        "wins": match.wins,
        "ties": match.ties,
        "losses": match.losses,
        "e_value": match.e_value,
        "e_value_futility": match.e_value_futility,
        "improvement_probability": match.improvement_probability,
        "interval": [low, high],
        "verdict": match.verdict,
        "comparison": subject.registry.put_document(match),
    }
    return _OUTCOMES.get(match.verdict, "unknown"), evidence, details


def _guard(subject: _Subject) -> Finding:
    """Requires proof that the version is not worse by the margin in its game.

    A version plays one game today; `e_values` has room for several.
    """
    game, match = subject.version.game, subject.match
    if match is None:
        return "pass", f"{game} has no champion to compare with", {}
    margin = subject.gate.guard.margin
    e_value = math.exp(min(log_e_value(match.counts, 0.5 - margin), LARGEST_LOG))
    needed = 1 / match.rule.alpha
    outcome: Outcome = "pass" if e_value >= needed else "unknown"
    evidence = (
        f"{game}: e-value {e_value:.4g} that it is not worse by {margin:g} (proven from "
        f"{needed:.4g})"
    )
    return outcome, evidence, {"e_values": {game: e_value}}
