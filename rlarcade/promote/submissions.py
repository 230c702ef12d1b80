"""`promote pipeline`, `approve`, `deny`: submissions of versions, and people's decisions."""

from abc import abstractmethod
from contextlib import AbstractContextManager, ExitStack
from typing import Annotated, Any, Literal

from pydantic import Field

from rlarcade.console import (
    EXIT_AWAITING,
    EXIT_ERROR,
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_REJECTED,
    say,
    say_lines,
)
from rlarcade.errors import ConfigError
from rlarcade.evaluation import Comparison
from rlarcade.games.names import resolve_game
from rlarcade.play_commands import resumable
from rlarcade.progress import ProgressLine
from rlarcade.promote.subcommand import Command, GateFile, PlaysGames, VersionName, Writes
from rlarcade.promotion.gate import Gate, load_gate
from rlarcade.promotion.pipeline import (
    Release,
    approve,
    deny,
    move_alias_at_once,
    reigning,
    run_pipeline,
    verdict_of,
)
from rlarcade.promotion.submissions import submissions_of
from rlarcade.registry.documents import Alias, Version
from rlarcade.registry.registry import Registry
from rlarcade.registry.states import Mode, Submission
from rlarcade.reports import registry_lines as table
from rlarcade.reports.lines import standing
from rlarcade.serving.handover import by_rollout
from rlarcade.serving.settings import RolloutSpec, spec_of_flags

EXITS = {
    "passed": EXIT_OK,
    "promoted": EXIT_OK,
    "approved": EXIT_OK,  # a rollout was opened
    "rejected": EXIT_REJECTED,
    "denied": EXIT_REJECTED,
    "inconclusive": EXIT_INCONCLUSIVE,
    "awaiting_approval": EXIT_AWAITING,
    "expired": EXIT_ERROR,
    "stale": EXIT_ERROR,
}
"""Exit code for the state that a submission has reached."""

RolloutFlag = Annotated[
    Literal["big-bang", "canary", "rolling", "ab"] | None,
    Field(description="Release by a rollout, which a server drives. Unset: at once."),
]
StepsFlag = Annotated[
    str | None,
    Field(description="Percent of new games at each step of a canary, such as 10,50,100."),
]


def release_of(strategy: str | None, steps: str | None) -> Release:
    """Returns how an approved version is released.

    Raises:
        ConfigError: the steps are no percentages, or the strategy has none.
    """
    if strategy is None:
        if steps is not None:
            raise ConfigError("--steps are those of a canary: add --rollout canary.")
        return move_alias_at_once
    return by_rollout(RolloutSpec.model_validate(spec_of_flags(strategy, steps)))


class PipelineRun(Writes, PlaysGames):
    """Registers a checkpoint and sends it through the gate, as far as the mode allows."""

    mode: Literal["ci", "delivery", "deployment"]
    """ci: checks only. delivery: then waits for approval. deployment: promotes without approval."""
    gate: GateFile = None
    rollout: RolloutFlag = None
    steps: StepsFlag = None

    def _check(self) -> None:
        super()._check()
        load_gate(self.gate)
        released = release_of(self.rollout, self.steps)
        if self.mode != "deployment" and released is not move_alias_at_once:
            raise ConfigError(
                f"--rollout is for --mode deployment; in {self.mode} nothing is released. After a "
                "delivery, give it to `promote approve`."
            )

    def _run(self, registry: Registry) -> int:
        gate = load_gate(self.gate)
        outcome = piped(
            registry,
            registry.register(self.checkpoint),
            self.mode,
            gate,
            release_of(self.rollout, self.steps),
            playing=self.playing(),
        )
        self.tell(outcome)
        return exit_code(outcome)


class PipelineList(Command):
    """Lists submissions and their states, newest first."""

    game: str | None = None
    """Only submissions of this game."""

    def _run(self, registry: Registry) -> int:
        game = None if self.game is None else resolve_game(self.game)
        found = submissions_of(registry, game=game)
        say_lines([table.submission_line(one) for one in found] or ["no submissions yet"])
        self.tell({"submissions": [one.model_dump(mode="json") for one in found]})
        return EXIT_OK


class _Decision(Command):
    version: VersionName
    by: str
    """Your name."""
    note: str
    """Your reason."""

    def _run(self, registry: Registry) -> int:
        outcome = self._decide(registry, registry.version(self.version))
        say(table.submission_line(outcome))
        self.tell(submission_document(registry, outcome))
        # `deny` did what it was asked to do, although the version is rejected now
        return EXIT_OK if outcome.state == "denied" else EXITS[outcome.state]

    @abstractmethod
    def _decide(self, registry: Registry, version: Version) -> Submission:
        """Records the decision; returns the submission after it."""


class Approve(_Decision):
    """Approves a version that awaits approval; the last required approval promotes it."""

    rollout: RolloutFlag = None
    steps: StepsFlag = None

    def _decide(self, registry: Registry, version: Version) -> Submission:
        released = release_of(self.rollout, self.steps)
        return approve(registry, version, by=self.by, note=self.note, release=released)


class Deny(_Decision):
    """Denies a version that awaits approval."""

    def _decide(self, registry: Registry, version: Version) -> Submission:
        return deny(registry, version, by=self.by, note=self.note)


def piped(
    registry: Registry,
    version: Version,
    mode: Mode,
    gate: Gate,
    release: Release = move_alias_at_once,
    *,
    playing: AbstractContextManager[None],
) -> dict[str, Any]:
    """Runs the pipeline and prints its result. `playing` says where matches are played."""
    if (already := tell_reigning(registry, version)) is not None:
        return {"submission": None, "verdict": None, "alias": already.model_dump(mode="json")}
    with playing, resumable("games"), _Progress(gate) as progress:
        current = run_pipeline(
            registry,
            version,
            mode,
            gate,
            release=release,
            on_check=progress.begins,
            on_pair=progress.pair,
        )
    tell_submission(registry, current)
    if current.state == "awaiting_approval":
        say(
            f"next: python -m rlarcade.promote approve {version.number} --by NAME --note TEXT "
            "(or deny)"
        )
    return submission_document(registry, current)


class _Progress(ExitStack):
    """Shows which check is running, and the score of a match."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._pairs = {"random": gate.random.max_pairs, "match": gate.match.max_pairs}
        self._line: ProgressLine | None = None

    def begins(self, check: str) -> None:
        """Called before a check runs."""
        self.close()
        say(f"checking {check} …")
        if check in self._pairs:
            line = ProgressLine(self._pairs[check], check, unit="pairs", at_most=True)
            self._line = self.enter_context(line)

    def pair(self, match: Comparison) -> None:
        """Called after each pair of games."""
        assert self._line is not None, "only matches have pairs"
        self._line.update(match.pairs, lambda: standing(match))


def tell_reigning(registry: Registry, version: Version) -> Alias | None:
    """Returns the champion's alias if the version is the champion already, and prints that."""
    alias = reigning(registry, version)
    if alias is not None:
        say(f"version {version.number} is the champion of {version.game} already")
    return alias


def tell_submission(registry: Registry, current: Submission) -> None:
    """Prints a submission's state and its verdict."""
    verdict = verdict_of(registry, current)
    say(table.submission_line(current))
    say_lines(table.verdict_lines(verdict) if verdict else [])


def submission_document(registry: Registry, current: Submission) -> dict[str, Any]:
    """Returns a submission, its verdict and the champion's alias, for `--json FILE`."""
    verdict = verdict_of(registry, current)
    alias: Alias | None = registry.alias(current.game)
    return {
        "submission": current.model_dump(mode="json"),
        "verdict": verdict.model_dump(mode="json") if verdict else None,
        "alias": alias.model_dump(mode="json") if alias else None,
    }


def exit_code(outcome: dict[str, Any]) -> int:
    """Returns the exit code for the document that `piped` returned."""
    submitted = outcome["submission"]
    return EXIT_OK if submitted is None else EXITS[submitted["state"]]
