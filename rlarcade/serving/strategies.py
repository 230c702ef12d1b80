"""The strategies of a rollout: its plan at each step, and what to do next.

A rollout hands the games of the champion over to a candidate, step by step. `plan_of` says who
plays at a step; `judge` says whether the rollout stays there, advances, succeeds, rolls back or
pauses. Both are functions of the settings, the step and the games (`evidence_of`), without memory
or a clock. So a controller that is killed and started again decides the same.

The rules of every strategy:

- An alarm rolls back, at any step: too many errors, too many slow sessions, or (with a control)
  proof that the candidate is worse. Each kind is false with probability at most `alpha_alarm`.
- Only positive evidence advances: enough sessions without an alarm and, before a canary reaches
  100 %, proof that the candidate is better (or not worse by `non_inferiority`).
- Whatever is unknown stays or pauses: too little traffic, or a test that is not decided.

A candidate that is proven to be not *usefully* better (`Rule` rejects it) is no danger, so this is
no alarm. It may be as good as the champion, or worse, and a few pairs cannot tell which: five lost
ones are enough for this proof, an alarm takes eleven. So such a candidate holds its step until an
alarm rolls it back, it is proven better after all, or `max_pairs` pauses the rollout: the operator
decides. With non-inferiority it is welcome, and nothing holds it.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlarcade.serving.assignment import Plan, Role, Variant
from rlarcade.serving.evidence import Evidence, Health, health, role_evidence, sample_ratio
from rlarcade.serving.pairing import Game, first_games, in_order, matched, scored
from rlarcade.serving.settings import RolloutSpec as RolloutSpec
from rlarcade.text import counted

_ROLES: tuple[Role, ...] = ("champion", "control", "candidate")


Finding = Literal["undecided", "better", "worse"]
"""What the test of an experiment says of the candidate. `undecided`: there are not enough data."""


class Decision(BaseModel):
    """What the rollout does next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["stay", "advance", "succeed", "roll_back", "pause"]
    """`succeed`: the candidate becomes the champion. `roll_back`: new games go to the champion."""
    why: str
    """One sentence with the numbers."""


def plan_of(spec: RolloutSpec, step: int, champion: int, candidate: int, salt: str) -> Plan:
    """Returns who plays at a step.

    A canary and an A/B experiment have a control, which is as large as the candidate as long as
    there is room for it. A parallel candidate has no share: it plays beside the champion.

    Args:
        spec: settings of the rollout.
        step: index of the step, from 0.
        champion: number of the champion's version.
        candidate: number of the candidate's version.
        salt: as in `Plan`; another one for each rollout.

    Raises:
        ValueError: the rollout has no such step.
    """
    share, control = _shares(spec, step)
    shares = {"champion": max(1 - share - control, 0.0), "control": control, "candidate": share}
    return Plan(
        variants=tuple(
            Variant(
                role=role,
                version=candidate if role == "candidate" else champion,
                share=shares[role],
            )
            for role in _ROLES
            if role != "control" or control > 0
        ),
        salt=salt,
        groups=spec.phases[: step + 1] or None,
    )


def evidence_of(spec: RolloutSpec, step: int, games: Iterable[Game]) -> Evidence:
    """Returns what the games show at a step.

    Args:
        spec: settings of the rollout.
        step: index of the current step, from 0.
        games: all games of the rollout, in any order, the champion's as well.

    Raises:
        ValueError: the rollout has no such step, or two twins have different seeds.
    """
    games = in_order(games)
    share, control = _shares(spec, step)
    assigned = matched(games, claims=spec.gate_on_claims)
    counting = scored(assigned)
    own = [game for game in games if game.role == "candidate"]
    first = first_games(games)
    new = Counter(game.role for game in first if game.step == step)
    return Evidence(
        rule=spec.rule,
        alpha_alarm=spec.alpha_alarm,
        step=step,
        roles=tuple(role_evidence(games, role) for role in _ROLES),
        outcomes=tuple(pair.outcome for pair in counting),
        waiting=len(assigned) - len(counting),
        repeated=0
        if spec.mode == "twin"
        else sum(game.role != "champion" for game in games)
        - sum(game.role != "champion" for game in first),
        mixed=sum(game.mixed for game in games),
        tried=_tried(spec, step, own, assigned),
        errors=health([game.errors for game in own], spec.error_rate, spec.alpha_alarm),
        slowness=None
        if spec.slow_seconds is None
        else health([game.slow for game in own], spec.slow_rate, spec.alpha_alarm),
        sample_ratio=1.0
        if control == 0
        else sample_ratio(
            [new["candidate"], new["control"]],
            [share / (share + control), control / (share + control)],
        ),
    )


def judge(
    spec: RolloutSpec,
    evidence: Evidence,
    paused: bool = False,
    *,
    quiet_for: float = 0.0,
    resumed_after: int = 0,
) -> Decision:
    """Decides what the rollout does next.

    A pause that comes from here holds as long as its reason: the next call says so again, or
    something else once the reason has gone, such as when games come again.

    Args:
        spec: settings of the rollout.
        evidence: what its games show at the current step; see `evidence_of`.
        paused: whether an operator paused the rollout. Then only an alarm moves it.
        quiet_for: seconds since the last game was assigned.
        resumed_after: pairs that counted when an operator last resumed a rollout whose test was
            undecided; 0: never. From then on, as many pairs may follow as `max_pairs` says.
    """
    step = evidence.step
    alarm = _alarm(spec, evidence)
    if alarm is not None:
        touched = counted(evidence.touched, "game")
        return Decision(kind="roll_back", why=f"{alarm}; the candidate touched {touched}.")
    if paused:
        return Decision(kind="stay", why="An operator paused the rollout.")
    doubt = _doubt(spec, step, evidence, resumed_after)
    if doubt is not None:
        return Decision(kind="pause", why=f"{doubt}.")
    lacking = _lacking(spec, step, evidence)
    if lacking is not None:
        if quiet_for >= spec.quiet_seconds:
            quiet = f"No game has come for {quiet_for:,.0f} seconds"
            return Decision(kind="pause", why=f"{quiet}: {lacking}.")
        return Decision(kind="stay", why=f"{lacking[0].upper()}{lacking[1:]}.")
    last = step == spec.num_steps - 1
    return Decision(kind="succeed" if last else "advance", why=f"{_passed(spec, step, evidence)}.")


def finding_of(evidence: Evidence) -> Finding:
    """Returns what the two-sided test of an experiment (ab) says; whatever it said first, stays."""
    reached = evidence.reached
    better, worse = (math.inf if n is None else n for n in (reached.better, reached.futile))
    if better == worse:  # neither was reached: no pair can reach both
        return "undecided"
    return "better" if better < worse else "worse"


def _shares(spec: RolloutSpec, step: int) -> tuple[float, float]:
    """The candidate's share of the sessions at a step, and the control's."""
    if not 0 <= step < spec.num_steps:
        raise ValueError(f"a rollout of {counted(spec.num_steps, 'step')} has no step {step}")
    match spec.strategy:
        case "canary":
            share = spec.steps[step] / 100
            return share, min(share, 1 - share)
        case "ab":
            return spec.share, min(spec.share, 1 - spec.share)
        case "rolling":
            return (step + 1) / spec.replicas, 0.0
        case "parallel":
            return 0.0, 0.0
        case _:
            return 1.0, 0.0


def _tried(spec: RolloutSpec, step: int, own: list[Game], assigned: list[tuple[Game, Game]]) -> int:
    """Counts the candidate's sessions of a step that have ended, one per key or pair of twins.

    In a step with a control, only games that are matched with a game of the control count. So
    whether a pair exists never depends on how long its own games last. Otherwise a quick loss could
    end the step before it gets a partner, and would never count.
    """
    if _shares(spec, step)[1] > 0:
        own = [candidate for candidate, _ in assigned]
    if spec.phases:
        own = [game for game in own if game.group == spec.phases[step]]
    ended = [game for game in own if game.step == step and game.state == "ended"]
    return len({game.key if game.pair is None else game.pair for game in ended})


def _alarm(spec: RolloutSpec, evidence: Evidence) -> str | None:
    """Why the candidate must not go on, or None."""
    if evidence.errors.alarm:
        return _too_many(evidence.errors, "had errors")
    if evidence.slowness is not None and evidence.slowness.alarm:
        return _too_many(evidence.slowness, f"took more than {spec.slow_seconds:g} seconds a step")
    if spec.has_scores and evidence.reached.worse is not None:
        return (
            f"The candidate is worse than the champion: it {_record(evidence)}, and the e-value "
            f"reached {max(evidence.history_worse):,.0f} (alarm at {1 / spec.alpha_alarm:,.0f})"
        )
    return None


def _doubt(spec: RolloutSpec, step: int, evidence: Evidence, resumed_after: int) -> str | None:
    """Why an operator should look at the rollout, or None."""
    if evidence.sample_ratio >= 1 / spec.alpha_alarm:
        return (
            "Sessions do not reach the candidate and the control with the planned shares, so they "
            f"cannot be compared: the e-value is {evidence.sample_ratio:,.0f} (pause at "
            f"{1 / spec.alpha_alarm:,.0f})"
        )
    asked = _needs_scores(spec, step) or _holds(spec, evidence)
    if not asked or evidence.reached.better is not None:
        return None
    if evidence.pairs < resumed_after + spec.max_pairs:
        return None
    return (
        f"The test is inconclusive: the candidate {_record(evidence)}, and the e-value is "
        f"{evidence.e_value:,.3g} ({1 / spec.alpha:,.0f} is needed); the champion may stay"
    )


def _lacking(spec: RolloutSpec, step: int, evidence: Evidence) -> str | None:
    """What the rollout waits for, or None if it can move on."""
    if spec.strategy in ("big-bang", "rolling"):  # whoever starts the versions moves these on
        return None
    if spec.strategy == "ab":
        return f"the experiment goes on until somebody decides; {_found(evidence)}"
    if spec.mode == "shadow":
        return "a shadow has no scores, so the rollout goes on until somebody ends it"
    if evidence.tried < spec.min_sessions:
        return (
            f"{evidence.tried} of {counted(spec.min_sessions, 'candidate session')} of different "
            f"players that step {step + 1} needs have ended"
            f"{_not_counting(evidence) if _shares(spec, step)[1] > 0 else ''}"
        )
    if _holds(spec, evidence):
        return (
            f"the candidate is not usefully better so far: it {_record(evidence)}"
            f"{_not_counting(evidence)}"
        )
    if _needs_scores(spec, step) and evidence.reached.better is None:
        return (
            f"the candidate needs an e-value of {1 / spec.alpha:,.0f}: it {_record(evidence)}, "
            f"with an e-value of {evidence.e_value:,.3g}{_not_counting(evidence)}"
        )
    return None


def _passed(spec: RolloutSpec, step: int, evidence: Evidence) -> str:
    """Why the rollout moves on."""
    if spec.strategy == "big-bang":
        return "The candidate is ready"
    if spec.strategy == "rolling":
        return f"{step + 1} of {counted(spec.replicas, 'replica')} are replaced"
    why = f"{counted(evidence.tried, 'candidate session')} of step {step + 1} ended without alarm"
    if _needs_scores(spec, step):
        why += (
            f"; the candidate {_record(evidence)}, and the e-value reached "
            f"{max(evidence.history):,.3g} ({1 / spec.alpha:,.0f} is needed)"
        )
    return why


def _needs_scores(spec: RolloutSpec, step: int) -> bool:
    """Whether a step passes only with proof of quality: it leads to 100 %, or is there."""
    return spec.has_scores and step >= spec.num_steps - 2


def _holds(spec: RolloutSpec, evidence: Evidence) -> bool:
    """Whether the candidate is proven to be not usefully better, so that it holds its step."""
    reached = evidence.reached
    return (
        spec.has_scores
        and spec.non_inferiority is None
        and reached.futile is not None
        and reached.better is None
    )


def _found(evidence: Evidence) -> str:
    finding = finding_of(evidence)
    if finding == "undecided":
        return f"not enough data: the candidate {_record(evidence)}{_not_counting(evidence)}"
    return f"enough data: the candidate is {finding}, it {_record(evidence)}"


def _record(evidence: Evidence) -> str:
    wins, ties, losses = evidence.counts
    return f"won {wins}, tied {ties} and lost {losses} of {counted(evidence.pairs, 'pair')}"


def _not_counting(evidence: Evidence) -> str:
    if not evidence.repeated:
        return ""
    return f" ({counted(evidence.repeated, 'game')} of returning players do not count)"


def _too_many(found: Health, what: str) -> str:
    return (
        f"{found.bad} of {counted(found.sessions, 'candidate session')} {what}: the e-value "
        f"against a share of at most {found.rate:.3g} reached {found.largest:,.0f} (alarm at "
        f"{1 / found.alpha:,.0f})"
    )
