"""`[compare]`: asks for more training seeds of the settings whose order is not known yet."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from rlarcade.checked import did_you_mean
from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.files import read_own, write_file
from rlarcade.games.names import display_name
from rlarcade.games.scores import published_scores
from rlarcade.json_text import parse_json
from rlarcade.reports.sweep_plans import stated_error
from rlarcade.sweeps.adastop import Decision, Outcome, Pair, Rule, decide
from rlarcade.sweeps.file import SweepFile, SweepRun, expanded, round_seeds
from rlarcade.sweeps.plan import Plan
from rlarcade.sweeps.sections import Compare
from rlarcade.text import counted, quoted

_RECORD = "compare.json"


class Comparison(Plan):
    """The comparison of a sweep's arms: which runs it asks for, and what they have shown.

    What it asks for follows from the results of the runs that are finished. So a sweep that was
    stopped or killed asks for the same runs again.
    """

    name = "compare"

    def __init__(self, file: SweepFile, folder: Path) -> None:
        """Checks the arms.

        Args:
            file: the sweep; it has a `[compare]` section.
            folder: folder of the runs' folders.

        Raises:
            ConfigError: the arms or the score cannot be compared.
        """
        assert file.compare is not None
        self._file, self._folder, self._section = file, folder, file.compare
        self._scores: dict[str, float] = {}
        self._given = 0
        runs = expanded(file, folder, seeds=round_seeds(file))
        self.arms = tuple(dict.fromkeys(run.agent for run in runs))
        self.games = _games_of(runs)
        self.pairs = _pairs_of(self.arms, self._section)
        self.score = _score_of(self._section, self.games)
        self.rule = Rule(self._section.seeds, self._section.max_rounds, self._section.alpha)

    # What is asked

    def begin(self) -> list[SweepRun]:
        """Returns every run of the rounds so far, and those that the next round needs."""
        runs = self._replayed()[0]
        self._given = len(runs)
        return runs

    def more(self, running: int) -> list[SweepRun]:
        """Returns the runs of the next round, as soon as the last round is complete."""
        if running:
            return []
        new = self._replayed()[0][self._given :]
        self._given += len(new)
        return new

    def is_done(self, run: SweepRun) -> bool:
        """Whether a run has finished."""
        return run.result() is not None

    def stops(self, run: SweepRun) -> bool:
        """Never: a comparison needs the result at the end of training."""
        del run
        return False

    def stopped_at(self, run: SweepRun) -> int | None:
        """Never: see `stops`."""
        del run
        return None

    def given_up_at(self, run: SweepRun) -> int | None:
        """Never: to leave out a seed because it diverged would favour its arm."""
        del run
        return None

    def is_finished(self) -> bool:
        """Whether the order of all pairs is known, or all rounds are over."""
        return not self._replayed()[1].asked

    def _replayed(self) -> tuple[list[SweepRun], Outcome, dict[str, list[float]]]:
        """Goes through the rounds again: their runs, what is decided, and each arm's scores."""
        runs: list[SweepRun] = []
        scores: dict[str, list[float]] = {arm: [] for arm in self.arms}
        while (outcome := decide(scores, self.pairs, self.rule)).asked:
            seeds = round_seeds(self._file, outcome.rounds)
            new = [
                run
                for run in expanded(self._file, self._folder, seeds=seeds)
                if run.agent in outcome.asked
            ]
            runs += new
            if any(self._score(run) is None for run in new):
                break
            for arm in outcome.asked:
                scores[arm] += self._by_seed([run for run in new if run.agent == arm])
        return runs, outcome, scores

    def _by_seed(self, runs: Sequence[SweepRun]) -> list[float]:
        """Returns the score of each seed: the mean over the games."""
        by_seed: dict[int, list[float]] = {}
        for run in runs:
            score = self._score(run)
            assert score is not None
            by_seed.setdefault(run.settings.train.seed, []).append(score)
        return [fmean(by_seed[seed]) for seed in sorted(by_seed)]

    def _score(self, run: SweepRun) -> float | None:
        """Returns the score of a run; None if it is not finished."""
        if run.label not in self._scores:
            result = run.result()
            value = None if result is None else result["evaluation"][self.score]
            if value is None:
                return None
            self._scores[run.label] = float(value)
        return self._scores[run.label]

    # The rule, which must not follow from what was seen

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Records the rule in the sweep's folder, or checks that it is the one that was recorded.

        Raises:
            RunFolderError: the comparison was begun there with another rule, or with other arms.
        """
        path, now = self._folder / _RECORD, self._recorded()
        changed: list[str] = []
        try:
            began = parse_json(read_own(path))
            names = [name for name in now if began[name] != now[name]]
            changed = [f"{name} = {began[name]}, now {now[name]}" for name in names]
        except FileNotFoundError:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(now).encode())
        except (OSError, ValueError, KeyError, TypeError):
            changed = ["a rule that cannot be read any more"]
        if changed:
            raise RunFolderError(
                f"the comparison in {self._folder} was begun with {'; '.join(changed)}. Its stated "
                "error holds only if nobody changes the rule after having seen results. Put the "
                "sweep's file back as it was, or choose another --dir."
            )
        yield

    def _recorded(self) -> dict[str, Any]:
        return {
            **self._section.model_dump(exclude={"score"}),
            "score": self.score,
            "games": list(self.games),
            "arms": list(self.arms),
        }

    # What is known

    def document(self) -> dict[str, Any]:
        """Returns the comparison's part of the results file."""
        _, outcome, scores = self._replayed()
        return self._recorded() | {
            "rounds": outcome.rounds,
            "finished": not outcome.asked,
            "scores": scores,
            "pairs": [
                {
                    "first": first,
                    "second": second,
                    "verdict": _verdict(decision, finished=not outcome.asked),
                    "round": decision.round,
                }
                for (first, second), decision in outcome.decisions.items()
            ],
        }

    def lines(self, document: dict[str, Any]) -> list[str]:
        """Returns what a comparison has shown, in words."""
        return _lines(document)


def _verdict(decision: Decision, *, finished: bool) -> str:
    return decision.verdict or ("no difference shown" if finished else "undecided")


def _lines(document: dict[str, Any]) -> list[str]:
    games = document["games"]
    of = display_name(games[0]) if len(games) == 1 else f"the mean over {len(games)} games"
    kind = "mean score" if document["score"] == "mean" else "human-normalised score"
    lines = [
        f"AdaStop, {document['rounds']} of at most {document['max_rounds']} rounds of "
        f"{counted(document['seeds'], 'seed')}; {kind} of {of} at the end of training"
    ]
    for pair in document["pairs"]:
        known = f", known after round {pair['round']}" if pair["round"] else ""
        sides = [_side(document, pair[side]) for side in ("first", "second")]
        lines.append(
            f"  {pair['first']} against {pair['second']}: {pair['verdict']} "
            f"({' against '.join(sides)}{known})"
        )
    return [*lines, stated_error(document)]


def _side(document: dict[str, Any], arm: str) -> str:
    scores = document["scores"][arm]
    if not scores:
        return "no seed"
    mean = fmean(scores)
    shown = f"{mean:.1f}" if document["score"] == "mean" else f"{mean:.1%}"
    return f"{shown} with {counted(len(scores), 'seed')}"


# Checks


def _games_of(runs: Sequence[SweepRun]) -> tuple[str, ...]:
    by_arm: dict[str, list[str]] = {}
    for run in runs:
        games = by_arm.setdefault(run.agent, [])
        if run.settings.train.game not in games:
            games.append(run.settings.train.game)
    first_arm, first = next(iter(by_arm.items()))
    for arm, games in by_arm.items():
        if set(games) != set(first):
            raise ConfigError(
                f"[compare] needs the same games for every arm, and {quoted(arm)} plays "
                f"{_listed(games)} while {quoted(first_arm)} plays {_listed(first)}. Set game in "
                "[settings], or a list of games in [grid]."
            )
    return tuple(first)


def _listed(games: Sequence[str]) -> str:
    return " and ".join(map(display_name, games))


def _pairs_of(arms: Sequence[str], section: Compare) -> list[Pair]:
    if len(arms) < 2:
        raise ConfigError(
            "[compare] needs at least two settings. Add [[variants]], or a list to [grid]."
        )
    if section.against is None:
        return list(combinations(arms, 2))
    if section.against not in arms:
        hint = did_you_mean(section.against, arms)
        known = ", ".join(arms)
        raise ConfigError(
            f"[compare] cannot compare against {quoted(section.against)}: the arms are {known}. "
            f"{hint}".rstrip()
        )
    return [(arm, section.against) for arm in arms if arm != section.against]


def _score_of(section: Compare, games: Sequence[str]) -> str:
    score = section.score or ("mean" if len(games) == 1 else "human_normalized")
    if score == "mean" and len(games) > 1:
        raise ConfigError(
            f"[compare] cannot take the mean of raw scores of {len(games)} games: the one with "
            'the largest numbers would decide. Use score = "human_normalized".'
        )
    unknown = [game for game in games if published_scores(game) is None]
    if score == "human_normalized" and unknown:
        raise ConfigError(
            f"[compare] cannot normalise the scores of {_listed(unknown)}: no human score is "
            'published. Leave such games out, or compare one game with score = "mean".'
        )
    return score
