"""The runs of a sweep for its report, and the published agents beside them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlarcade.games.curves import PublishedPoint, published_curve
from rlarcade.games.protocols import FRAMESKIP
from rlarcade.games.scores import human_normalized_score
from rlarcade.reports.page import part
from rlarcade.reports.parts import keys_of
from rlarcade.reports.sweep_plots import Curve

_FEW = 4  # names that fit under a plot
DRAWN = (("DQN", "nature"), ("Rainbow", "nature"))
"""Published agents whose curves are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalScores:
    """What a finished run has reached."""

    steps: int
    """Agent steps."""
    mean: float
    """Mean score of the final evaluation."""
    median: float
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptRun:
    """A run of a sweep."""

    label: str
    agent: str
    """What is trained: the same for all games and seeds."""
    game: str
    """ROM id."""
    seed: int
    settings: Mapping[str, Any]
    """Preset and settings as the sweep gives them."""
    state: str
    """How far the run is, in words."""
    scores: FinalScores | None = None
    """None: it is not finished."""
    curve: Curve | None = field(default=None, repr=False)
    """Agent steps and training scores; None: there are none yet."""


class Sweep(NamedTuple):
    """The runs of a sweep, sorted out."""

    runs: Sequence[SweptRun]
    agents: list[str]
    """Their indices are those of the series of the page."""
    games: list[str]

    @property
    def keys(self) -> list[str]:
        """Short names of the agents, for plots."""
        return keys_of(len(self.agents))

    @property
    def finished(self) -> list[tuple[SweptRun, FinalScores]]:
        """The finished runs with their scores."""
        return [(run, run.scores) for run in self.runs if run.scores is not None]

    def scores(self, agent: str, game: str) -> list[FinalScores]:
        """Returns the scores of an agent's finished runs in a game."""
        return [scores for run, scores in self.finished if (run.agent, run.game) == (agent, game)]

    def normalised(self, agent: str) -> dict[str, list[float]]:
        """Returns the human-normalised scores of an agent's runs, for each game that has them."""
        known: dict[str, list[float]] = {}
        for game in self.games:
            shares = [human_normalized_score(game, s.mean) for s in self.scores(agent, game)]
            if shares and None not in shares:
                known[game] = [share for share in shares if share is not None]
        return known

    def named(self, places: Iterable[int]) -> dict[int, str]:
        """Returns a legend."""
        if len(self.agents) > _FEW:
            return {place: self.keys[place] for place in places}
        return {place: f"{self.keys[place]} {self.agents[place]}" for place in places}

    def heads(self, agent: str) -> str:
        """Returns the first cell of an agent's row."""
        place = self.agents.index(agent)
        return part("named", place, self.keys[place], agent)


def budgets(sweep: Sweep) -> list[int]:
    """Returns the frames at which published scores are shown: as many as the runs have, and all."""
    points = [p.frames for game in sweep.games for a in DRAWN for p in published_curve(game, *a)]
    longest = max((FRAMESKIP * scores.steps for _, scores in sweep.finished), default=0)
    within = [frames for frames in points if frames <= longest]
    return list(dict.fromkeys(max(frames) for frames in (within, points) if frames))


def point_at(game: str, agent: tuple[str, str], frames: int) -> PublishedPoint | None:
    """Returns the score that a published agent had in a game after so many frames."""
    return next((p for p in published_curve(game, *agent) if p.frames == frames), None)


def published_name(agent: tuple[str, str]) -> str:
    """Returns what tables call a published agent."""
    return f"{agent[0]}, {agent[1]} torso (published)"
