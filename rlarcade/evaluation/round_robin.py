"""Everybody against everybody: which of several versions is better than which.

Each pairing is a match of its own, with a verdict of its own; no rating is made of them. Ratings
such as Elo assume that who beats a winner beats the beaten, which agents need not do.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from pydantic import ConfigDict

from rlarcade.checked import path_of, require
from rlarcade.errors import ConfigError
from rlarcade.evaluation.documents import Comparison
from rlarcade.evaluation.match import compare_agents
from rlarcade.evaluation.play import RecordFound
from rlarcade.evaluation.players import Contender, as_player
from rlarcade.evaluation.sequential import Rule
from rlarcade.evaluation.shown import Rows, ShortlyShown, Shown


class RoundRobin(ShortlyShown):
    """A match of every pairing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    players: tuple[str, ...]
    matches: tuple[Comparison, ...]
    """Of players 0 and 1, 0 and 2, …, 1 and 2, …; the later one is the candidate. Promote: it is
    the better one; reject: the other is; inconclusive: nobody has been shown to be."""

    def shown(self) -> Shown:
        """How many played, and how much is known."""
        verdicts = [match.verdict for match in self.matches]
        yield "players", len(self.players)
        yield "pairs", sum(match.pairs for match in self.matches)
        yield "decided", f"{sum(v in ('promote', 'reject') for v in verdicts)} of {len(verdicts)}"

    def shown_rows(self) -> Rows:
        """Everybody's share of pairs against everybody, as on a terminal."""
        from rlarcade.evaluation.table import round_robin_rows

        return round_robin_rows(self)

    def match_of(self, one: int, other: int) -> Comparison:
        """Returns the match between two players, by their places."""
        pairings = list(combinations(range(len(self.players)), 2))
        return self.matches[pairings.index((min(one, other), max(one, other)))]

    def share(self, one: int, other: int) -> float | None:
        """Returns the share of pairs that `one` won against `other`, ties counting half."""
        share = self.match_of(one, other).improvement_probability
        return share if share is None or one > other else 1 - share

    def better(self, one: int, other: int) -> bool:
        """Whether `one` has been shown to be better than `other`."""
        return self.match_of(one, other).verdict == ("promote" if one > other else "reject")


PairingDone = Callable[[int, Comparison], None]
"""Called with a pairing's place and its match as it stands, after each pair."""


def compare_all(
    players: Sequence[Contender],
    *,
    alpha: float = 0.05,
    max_pairs: int = 400,
    seed: int = 0,
    record: str | Path | None = None,
    on_pair: PairingDone | None = None,
    on_record: RecordFound | None = None,
) -> RoundRobin:
    """Plays a match of every pairing until it is known who is better, or `max_pairs` are played.

    Args:
        players: two or more.
        alpha: probability, at most, that one pairing's verdict names the worse of the two, or one
            of two equals. It holds for each pairing, not for all of them together.
        max_pairs: of each pairing.
        seed: of the matches, as in `compare_agents`.
        record: folder to keep them in, so that one that was interrupted goes on.
        on_pair: called after each pair that is played.
        on_record: called for each match that takes pairs from a record.

    Returns:
        A `RoundRobin` with every pair.

    Raises:
        ConfigError: fewer than two players, or two that cannot be compared.
        RunFolderError: a record is in use, damaged, or of a match with another rule.
    """
    require(players, Iterable, "players", "[agent, another]")
    sides = [as_player(player) for player in players]
    if len(sides) < 2:
        raise ConfigError(f"a round robin needs two players or more, got {len(sides)}.")
    rule = Rule.which_is_better(alpha)
    folder = None if record is None else path_of(record, "record")
    matches = []
    for place, (champion, candidate) in enumerate(combinations(sides, 2)):
        matches.append(
            compare_agents(
                champion,
                candidate,
                rule=rule,
                max_pairs=max_pairs,
                seed=seed,
                record=folder,
                on_pair=None if on_pair is None else partial(on_pair, place),
                on_record=on_record,
            )
        )
    return RoundRobin(players=tuple(side.name for side in sides), matches=tuple(matches))
