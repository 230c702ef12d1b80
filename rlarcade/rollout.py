"""`python -m rlarcade.rollout SUBCOMMAND …`: rolls a version out at a running server."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from rlarcade.command_line import JsonFlag, parse_flags
from rlarcade.console import EXIT_OK, run_command, say, write_json
from rlarcade.errors import ConfigError
from rlarcade.foreign import from_extra
from rlarcade.games.names import display_name
from rlarcade.outputs import check_outputs
from rlarcade.registry.store import default_actor
from rlarcade.serving.settings import spec_of_flags
from rlarcade.text import counted

if TYPE_CHECKING:
    from rlarcade.serving.client import ServerClient

_Number = Annotated[
    int, tyro.conf.Positional, Field(ge=1, description="Number of the rollout, from `status`.")
]


class _Subcommand(BaseModel, ABC):
    """The flags of one subcommand, and what it does."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    server: str = "http://127.0.0.1:8000"
    """The server's address."""
    token_file: Path | None = None
    """File with the operator's token. Unset: the environment variable RLARCADE_TOKEN."""
    json_file: JsonFlag = None
    """Write the result to this file."""

    @abstractmethod
    def run(self, server: "ServerClient") -> Any:
        """Does it; returns the document for `--json`."""


class _Start(_Subcommand):
    """Starts the rollout of a version against the champion of its game.

    Versions of several games are rolled out one after the other, each when the one before has
    succeeded.
    """

    versions: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        Field(min_length=1, description="Numbers, beginnings of their digests, or ALIAS@GAME."),
    ]
    strategy: Literal["big-bang", "phased", "parallel", "rolling", "canary", "ab"]
    """How the candidate takes over."""
    steps: str | None = None
    """Percent of the sessions at each step of a canary, such as 10,50,100. Unset: 1,5,25,50,100."""
    phases: str | None = None
    """Groups that a phased rollout takes over one after the other, such as staff,beta. With several
    versions: their games, such as pong,breakout."""
    mode: Literal["shadow", "twin"] | None = None
    """How a parallel candidate runs: it sees the champion's frames, or plays games of its own."""
    share: float | None = None
    """The candidate's share of the sessions in an A/B experiment. Unset: 0.5."""
    min_sessions: int | None = None
    """Candidate sessions that must end at each step. Unset: 10."""
    alpha: float | None = None
    """Bound on the probability of a wrong promotion. Unset: 0.05."""
    alpha_alarm: float | None = None
    """Bound on the probability of a false alarm. Unset: 0.01."""
    non_inferiority: float | None = None
    """Let the candidate be worse by less than this probability. Unset: it must be better."""
    max_pairs: int | None = None
    """Pairs after which an undecided rollout pauses. Unset: 400."""
    slow_seconds: float | None = None
    """A session is slow if its median step takes longer. Unset: 0.25."""
    cut: Literal["drain", "now"] | None = None
    """Open games end with the version that began them (drain, unless set), or the new version takes
    them over at their next step (now)."""
    after: int | None = None
    """Number of the rollout that must have succeeded before this one begins."""
    drain_seconds: float | None = None
    """Seconds that a rolling rollout waits for the champion's open games before the candidate takes
    them over. Unset: 1800."""
    outcome_seconds: float | None = None
    """Time in which later outcomes of a session may be reported. Unset: 604800, a week."""

    def run(self, server: "ServerClient") -> Any:
        names = (
            "mode",
            "share",
            "min_sessions",
            "alpha",
            "alpha_alarm",
            "non_inferiority",
            "max_pairs",
            "slow_seconds",
            "cut",
            "drain_seconds",
            "outcome_seconds",
            "after",
        )
        given = {name: getattr(self, name) for name in names}
        spec = spec_of_flags(self.strategy, self.steps)
        spec |= {name: value for name, value in given.items() if value is not None}
        phases = [] if self.phases is None else self.phases.split(",")
        if len(self.versions) > 1:
            return self._in_order(server, spec, phases)
        if phases:
            spec["phases"] = phases
        return self._started(server, self.versions[0], spec)

    def _in_order(self, server: "ServerClient", spec: dict[str, Any], games: list[str]) -> Any:
        """Starts one rollout for each version, each after the one before."""
        if games and len(games) != len(self.versions):
            raise ConfigError(
                f"--phases has {counted(len(games), 'game')} for {len(self.versions)} versions. "
                "Name one for each, in their order."
            )
        started: list[Any] = []
        for number, version in enumerate(self.versions):
            game = games[number] if games else None
            started.append(self._started(server, version, spec, game))
            spec = spec | {"after": started[-1]["id"]}
        return {"rollouts": started}

    def _started(
        self, server: "ServerClient", version: str, spec: dict[str, Any], game: str | None = None
    ) -> Any:
        asked = {"version": version, "spec": spec, "game": game, "actor": default_actor()}
        told = server.post("/v1/rollouts", asked)
        say(_line(told))
        return told


class _Outcome(_Subcommand):
    """Reports what is known of a session only later, such as whether the user came back."""

    session: Annotated[
        str, tyro.conf.Positional, Field(description="Id of the session, or the key of its user.")
    ]
    value: Annotated[float, tyro.conf.Positional, Field(description="The outcome.")]
    note: str | None = None
    """What the value means."""
    rollout: int | None = None
    """The rollout, if the same key plays in several. Unset: the newest."""

    def run(self, server: "ServerClient") -> Any:
        asked = self.model_dump(include={"session", "value", "note", "rollout"})
        told = server.post("/v1/outcomes", {"actor": default_actor(), **asked})
        say(
            f"rollout {told['rollout']}: {told['value']:g} for version {told['version']} "
            f"({told['role']})"
        )
        return told


class _Status(_Subcommand):
    """Shows all rollouts, oldest first, and who plays."""

    def run(self, server: "ServerClient") -> Any:
        told = server.get("/v1/rollouts")
        if not told["rollouts"]:
            say("there were no rollouts")
        for one in told["rollouts"]:
            say(_line(one))
            if one["finding"] is not None:
                say(_finding_line(one["finding"]))
            for variant in one["variants"]:
                say(_variant_line(variant))
                if variant["latency"] is not None:
                    say(_latency_line(variant["latency"]))
            if one["shadow"] is not None:
                say(_shadow_line(one["shadow"]))
        return told


class _Order(_Subcommand):
    number: _Number

    def order(self, server: "ServerClient", what: str, **more: str) -> Any:
        """Gives an order about the rollout."""
        told = server.post(f"/v1/rollouts/{self.number}/{what}", {"actor": default_actor(), **more})
        say(_line(told))
        return told


class _Pause(_Order):
    """Pauses a rollout: it takes no further step. An alarm still rolls it back."""

    def run(self, server: "ServerClient") -> Any:
        return self.order(server, "pause")


class _Resume(_Order):
    """Goes on with a rollout that was paused."""

    def run(self, server: "ServerClient") -> Any:
        return self.order(server, "resume")


class _Abort(_Order):
    """Ends a rollout: the champion plays all new games."""

    def run(self, server: "ServerClient") -> Any:
        return self.order(server, "abort")


class _Undo(_Order):
    """Takes a rollout back that has succeeded: the earlier champion is the champion again."""

    def run(self, server: "ServerClient") -> Any:
        return self.order(server, "undo")


class _Decide(_Order):
    """Ends an experiment or a paused rollout by the operator's own decision."""

    winner: Literal["candidate", "champion"]
    """Who plays all games from now on."""

    def run(self, server: "ServerClient") -> Any:
        return self.order(server, "decide", winner=self.winner)


def _named(name: str) -> Any:
    return tyro.conf.subcommand(name, prefix_name=False)


FLAGS = (
    Annotated[_Start, _named("start")]
    | Annotated[_Status, _named("status")]
    | Annotated[_Outcome, _named("outcome")]
    | Annotated[_Pause, _named("pause")]
    | Annotated[_Resume, _named("resume")]
    | Annotated[_Abort, _named("abort")]
    | Annotated[_Undo, _named("undo")]
    | Annotated[_Decide, _named("decide")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_rollout_command, argv)


def _rollout_command(argv: Sequence[str]) -> int:
    asked: _Subcommand = parse_flags(
        FLAGS,
        argv,
        prog="rlarcade rollout",
        description=__doc__,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    check_outputs({"--json": asked.json_file})
    with from_extra("serve", "rollouts need"):
        from rlarcade.serving.client import ServerClient
    from rlarcade.serving.tokens import operator_token

    server = ServerClient(asked.server, operator_token(asked.token_file))
    write_json(asked.json_file, asked.run(server))
    return EXIT_OK


def _line(told: dict[str, Any]) -> str:
    note = f": {told['note']}" if told["note"] else ""
    if told["state"] == "preparing" and told["after"] is not None:
        note = f": it waits for the success of rollout {told['after']}"
    return (
        f"rollout {told['id']} of {display_name(told['game'])}: version {told['version']} for "
        f"{told['champion']}, {told['strategy']}, {told['state']}, step {told['step'] + 1} of "
        f"{told['steps']}; won {told['wins']}, tied {told['ties']}, lost {told['losses']}, e-value "
        f"{told['e_value']:.3g}{note}"
    )


def _finding_line(finding: str) -> str:
    if finding == "undecided":
        return "  not enough data yet"
    return f"  enough data: the candidate is {finding}"


def _variant_line(variant: dict[str, Any]) -> str:
    mean = "no score yet" if variant["mean"] is None else f"mean score {variant['mean']:,.1f}"
    return (
        f"  {variant['role']:<9} version {variant['version']}, {100 * variant['share']:.3g}%: "
        f"{counted(variant['sessions'], 'session')}, {counted(variant['games'], 'game')}, {mean}"
        f"{_outcomes(variant['outcomes'])}"
    )


def _latency_line(told: dict[str, Any]) -> str:
    median, p99 = (f"{1_000 * told[name]:,.1f} ms" for name in ("median_seconds", "p99_seconds"))
    newest = counted(told["decisions"], "newest decision")
    return f"            its {newest} took {median} (median), {p99} (p99)"


def _outcomes(told: dict[str, Any] | None) -> str:
    if told is None:
        return ""
    mean = "" if told["mean"] is None else f", mean {told['mean']:.4g}"
    between = "" if told["low"] is None else f" ({told['low']:.4g} to {told['high']:.4g})"
    users, missing = counted(told["n"], "user"), told["missing"]
    return f"; later outcomes of {users}{mean}{between}, {missing:,} missing"


def _shadow_line(told: dict[str, Any]) -> str:
    share = f" ({told['agreed'] / told['compared']:.1%})" if told["compared"] else ""
    decisions = counted(told["compared"], "decision")
    return (
        f"  shadow    agreed in {told['agreed']:,} of {decisions}{share}; "
        f"{told['failed']:,} failed, {told['slow']:,} slow, {told['dropped']:,} not seen"
    )


if __name__ == "__main__":
    sys.exit(main())
