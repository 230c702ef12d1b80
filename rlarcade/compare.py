"""`python -m rlarcade.compare CHAMPION CANDIDATE`: plays a match and says promote or reject."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict

from rlarcade.config import validated
from rlarcade.console import (
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REJECTED,
    ProgressLine,
    check_seed,
    run_command,
    say,
    say_error,
    write_json,
)
from rlarcade.errors import ConfigError
from rlarcade.evaluation import Comparison, Rule, compare_agents
from rlarcade.evaluation.named import named_players
from rlarcade.evaluation.table import match_lines
from rlarcade.learning.hardware import resolve_device

_EXITS = {"promote": EXIT_OK, "reject": EXIT_REJECTED, "inconclusive": EXIT_INCONCLUSIVE}


class _Flags(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    champion: Annotated[str, tyro.conf.Positional]
    """The version in use: a policy checkpoint, or a run folder, which means its newest; `random`;
    or `module:factory`, a policy of your own."""
    candidate: Annotated[str, tyro.conf.Positional]
    """The version that is to replace it, likewise."""
    game: str | None = None
    """What is played, if no checkpoint says it."""
    protocol: str | None = None
    """How it is played: v5, machado or nature. Unset: as the checkpoint was trained to."""
    max_pairs: int = 400
    """Pairs of games after which an undecided match is inconclusive."""
    alpha: float = 0.05
    """Probability, at most, of promoting a candidate that is no better."""
    beta: float = 0.10
    """Probability, at most, of rejecting one that wins 60 of 100 pairs."""
    non_inferiority: float | None = None
    """Promote a candidate that is not worse by this much: 0.1 lets 40 of 100 pairs pass."""
    seed: int = 0
    """Of the match; the same seed means the same games."""
    folder: Annotated[Path, tyro.conf.arg(name="dir")] = Path("checkpoints/matches")
    """Where the pairs are kept, so that an interrupted match goes on."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where the networks run."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Write the match to this file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_command(_compare_command, argv)


def _compare_command(argv: Sequence[str]) -> int:
    flags = tyro.cli(_Flags, args=list(argv), prog="rlarcade compare", description=__doc__)
    check_seed(flags.seed)
    if flags.max_pairs < 1:
        raise ConfigError(f"max_pairs must be at least 1, got {flags.max_pairs}.")
    rule = _rule(flags)
    champion, candidate = named_players(
        [flags.champion, flags.candidate],
        game=flags.game,
        protocol=flags.protocol,
        device=resolve_device(flags.device),
    )
    match: Comparison | None = None
    with ProgressLine(flags.max_pairs, "match", unit="pairs") as line:

        def show(newest: Comparison) -> None:
            nonlocal match
            match = newest
            line.update(newest.pairs, lambda: _standing(newest))

        try:
            match = compare_agents(
                champion,
                candidate,
                rule=rule,
                max_pairs=flags.max_pairs,
                seed=flags.seed,
                record=flags.folder,
                on_pair=show,
            )
        except KeyboardInterrupt:
            say_error(
                f"interrupted after {match.pairs if match else 0} pairs; the same command goes on "
                "from there."
            )
            return EXIT_INTERRUPTED
    for text in match_lines(match):
        say(text)
    write_json(flags.json_file, match)
    assert match.verdict is not None
    return _EXITS[match.verdict]


def _rule(flags: _Flags) -> Rule:
    rule = validated(Rule, {"alpha": flags.alpha, "beta": flags.beta})
    margin = flags.non_inferiority
    if margin is None:
        return rule
    if not 0 < margin < 0.5:
        raise ConfigError(f"non_inferiority lies between 0 and 0.5, got {margin:g}.")
    return Rule.non_inferiority(margin, alpha=rule.alpha, beta=rule.beta)


def _standing(match: Comparison) -> str:
    return (
        f"{match.wins} won  {match.ties} tied  {match.losses} lost  "
        f"e-value {match.e_value:.3g} of {1 / match.rule.alpha:g}"
    )


if __name__ == "__main__":
    sys.exit(main())
