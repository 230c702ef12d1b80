"""A round robin: every version plays a match against every other version.

Each pairing is a match with its own verdict. There is no rating. Ratings such as Elo assume that
"better" is transitive: if A beats B and B beats C, then A beats C. This need not hold for agents.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from pydantic import ConfigDict

from rlarcade.checked import path_of, require
from rlarcade.errors import ConfigError
from rlarcade.evaluation.documents import Comparison
from rlarcade.evaluation.evaluate import RecordFound
from rlarcade.evaluation.match import compare_agents
from rlarcade.evaluation.sequential import Rule
from rlarcade.playing.players import Agent, League, Player, as_player
from rlarcade.shown import Rows, ShortlyShown, Shown


class RoundRobin(ShortlyShown):
    """A match of every pairing."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    players: tuple[str, ...]
    matches: tuple[Comparison, ...]
    """Matches of players 0 and 1, 0 and 2, …, 1 and 2, …; the later player is the candidate.
    Promote: the candidate is better. Reject: the champion is better. Inconclusive: neither was
    shown to be better."""

    def shown(self) -> Shown:
        """Numbers of players, pairs and decided pairings."""
        verdicts = [match.verdict for match in self.matches]
        yield "players", len(self.players)
        yield "pairs", sum(match.pairs for match in self.matches)
        yield "decided", f"{sum(v in ('promote', 'reject') for v in verdicts)} of {len(verdicts)}"

    def shown_rows(self) -> Rows:
        """Each player's share of pairs against each other player, as on a terminal."""
        from rlarcade.evaluation.summaries import round_robin_rows

        return round_robin_rows(self)

    def match_of(self, one: int, other: int) -> Comparison:
        """Returns the match between two players, given by index."""
        pairings = list(combinations(range(len(self.players)), 2))
        return self.matches[pairings.index((min(one, other), max(one, other)))]

    def league(self, player: int) -> League:
        """Returns what a player sees, given by index."""
        match = self.match_of(player, 1 if player == 0 else 0)
        return match.champion.league if player == 0 else match.candidate.league

    def share(self, one: int, other: int) -> float | None:
        """Returns the share of pairs that `one` won against `other`, ties counting half."""
        share = self.match_of(one, other).improvement_probability
        return share if share is None or one > other else 1 - share

    def better(self, one: int, other: int) -> bool:
        """Whether `one` has been shown to be better than `other`."""
        return self.match_of(one, other).verdict == ("promote" if one > other else "reject")


PairingDone = Callable[[int, Comparison], None]
"""Called after each pair with (index of the pairing, its match so far)."""


def compare_all(
    players: Sequence[Agent | Player],
    *,
    alpha: float = 0.05,
    max_pairs: int = 400,
    seed: int = 0,
    record: str | Path | None = None,
    mix_leagues: bool = False,
    on_pair: PairingDone | None = None,
    on_record: RecordFound | None = None,
) -> RoundRobin:
    """Plays a match of every pairing until the better player is known or `max_pairs` are played.

    Args:
        players: two or more.
        alpha: bound on the probability that the verdict of a pairing is wrong: it names the worse
            player, or one of two equal players. It holds for each pairing, not for all together.
        max_pairs: largest number of pairs of each pairing.
        seed: seed of the matches, as in `compare_agents`.
        record: folder that keeps the matches. With it, an interrupted match resumes.
        mix_leagues: as for `compare_agents`.
        on_pair: called after each pair that is played.
        on_record: called for each match that takes pairs from a record.

    Returns:
        A `RoundRobin` with every pair.

    Raises:
        ConfigError: fewer than two players, or two that cannot be compared.
        RunFolderError: a record is in use, damaged, altered, or from a match with another rule.
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
                mix_leagues=mix_leagues,
                on_pair=None if on_pair is None else partial(on_pair, place),
                on_record=on_record,
            )
        )
    return RoundRobin(players=tuple(side.name for side in sides), matches=tuple(matches))
