"""Formats versions, aliases, submissions and verdicts for the terminal."""

from collections.abc import Sequence

from rlarcade.games.names import display_name
from rlarcade.promotion.gate import Attempt, Check, GateVerdict
from rlarcade.registry.documents import Alias, AliasMove, Event, Version
from rlarcade.registry.states import Submission

_MARKS = {"pass": "pass   ", "fail": "FAIL   ", "unknown": "unknown"}


def version_lines(versions: Sequence[Version]) -> list[str]:
    """Returns a table with a line for each version, below a header."""
    if not versions:
        return ["no versions yet. Register one: promote register CHECKPOINT"]
    rows = [("no.", "digest", "game", "protocol", "steps", "aliases")] + [
        (
            str(one.number),
            one.digest[:12],
            one.game,
            one.protocol.name,
            f"{one.steps:,}",
            " ".join([*one.aliases, *([] if one.state == "ok" else [one.state.upper()])]) or "–",
        )
        for one in versions
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        for row in rows
    ]


def version_details(version: Version) -> list[str]:
    """Returns all facts about one version, one a line."""
    lines = [
        f"version {version.number} of {display_name(version.game)}"
        + (f", {' and '.join(version.aliases)}" if version.aliases else "")
    ]
    shown = {
        "state": version.state + (f": {version.broken_reason}" if version.broken_reason else ""),
        "digest": version.digest,
        "protocol": f"{version.protocol}, {version.num_actions} actions, contract "
        f"{version.contract[:12]}",
        "training": f"{version.steps:,} steps = {version.frames:,} frames, {version.updates:,} "
        "updates",
        "preset": f"{version.preset or '–'}, seed {'–' if version.seed is None else version.seed}",
        "parent": version.parent or "random weights",
        "from": version.source,
        "registered": version.registered,
        "commit": version.git_commit or "–",
        "libraries": ", ".join(f"{name} {one}" for name, one in version.libraries.items()),
    }
    return lines + [f"  {name:<11} {value}" for name, value in shown.items()]


def alias_lines(aliases: Sequence[Alias]) -> list[str]:
    """Returns a line for each alias."""
    return [
        f"{one.name}@{one.game}  version {one.version} ({one.digest[:12]}), generation "
        f"{one.generation}"
        for one in aliases
    ] or ["no aliases yet"]


def history_lines(moves: Sequence[AliasMove]) -> list[str]:
    """Returns a line for each move of an alias, oldest first."""
    return [
        f"{one.generation:>4}  {one.time}  {one.kind:<8}  "
        f"{'–' if one.previous is None else one.previous} → "
        f"{'–' if one.version is None else one.version}  by {one.actor}"
        + (f": {one.reason}" if one.reason else "")
        + (f"  [verdict {one.verdict[:12]}]" if one.verdict else "")
        for one in moves
    ] or ["never moved"]


def check_line(check: Check) -> str:
    """Returns a line with a check's outcome and evidence."""
    return f"  {_MARKS[check.outcome]}  {check.name:<9} {check.evidence}"


def verdict_lines(verdict: GateVerdict) -> list[str]:
    """Returns a line for each check, in order, and one for the share of α that is spent."""
    return [*map(check_line, verdict.checks), *attempt_lines(verdict.attempt)]


def attempt_lines(attempt: Attempt | None) -> list[str]:
    """Returns a line with the attempt's number, its α and the α spent so far; none for None."""
    if attempt is None:
        return []
    return [
        f"  attempt {attempt.number} on this champion: it uses {attempt.alpha:.4g} of the gate's "
        f"alpha {attempt.budget:g}; {attempt.spent:.4g} is spent so far"
    ]


def submission_line(current: Submission) -> str:
    """Returns a line with a submission's state and the decisions about it."""
    words = current.state.replace("_", " ").upper()
    said = "".join(
        f"; {'approved' if one.decision == 'approve' else 'denied'} by {one.by}"
        + (f" ({one.note})" if one.note else "")
        for one in current.approvals
    )
    note = f" – {current.note}" if current.note else ""
    return (
        f"submission {current.id}: version {current.version} of {display_name(current.game)}, "
        f"{current.mode}: {words}{note}{said}"
    )


def event_line(event: Event) -> str:
    """Returns a line for an entry of the audit log."""
    told = ", ".join(
        f"{key} {_shortened(value)}"
        for key, value in event.document.items()
        if key in _TOLD and value is not None
    )
    return f"{event.sequence:>5}  {event.time}  {event.actor}  {event.kind}  {told}"


# `audit log --json` has all fields of an entry.
_TOLD = (
    "number",
    "submission",
    "digest",
    "game",
    "name",
    "version",
    "previous",
    "generation",
    "mode",
    "from",
    "to",
    "verdict",
    "source",
    "os_user",
    "note",
    "reason",
)


def _shortened(value: object) -> object:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value
