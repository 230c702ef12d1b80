"""A rollout while it runs: its games, how they are counted, and what is kept for later."""

import pytest

from rlarcade.registry.rollouts import Rollout, RolloutState
from rlarcade.serving.assignment import Variant
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.settings import RolloutSpec

CANDIDATE = Variant(role="candidate", version=2, share=0.5)
CONTROL = Variant(role="control", version=1, share=0.5)


def live(state: RolloutState = "progressing", spec=None, **more):
    rollout = Rollout(
        id=1,
        game="pong",
        version=2,
        digest="0" * 64,
        champion=1,
        champion_generation=1,
        strategy="canary",
        spec="0" * 64,
        submission=None,
        salt="salt",
        opened="2026-01-01T00:00:00+00:00",
        opened_by="anna",
        state=state,
        step=0,
        **more,
    )
    return LiveRollout(rollout, spec or RolloutSpec(strategy="canary", steps=(50, 100)))


ENDED = {"ended": "terminated", "steps": 3}


def test_a_second_result_of_a_game_is_ignored():
    running = live()
    game = running.assign(CANDIDATE, "anna", None)
    running.end(game.number, None, score=5.0, **ENDED)
    running.end(game.number, None, score=900.0, abandoned=True, **ENDED)
    assert running.games[0].score == 5.0
    assert running.ended == [running.games[0]]


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        ("preparing", False),
        ("progressing", True),
        ("paused", True),
        ("rolling_back", False),
        ("rolled_back", False),
        ("succeeded", False),
        ("aborted", False),
    ],
)
def test_new_games_count_while_the_candidate_may_play_them_also_in_a_pause(state, counts):
    assert live(state).counts_games is counts


def test_what_the_games_show_follows_them_and_the_step():
    running = live()
    for _ in range(2):
        running.assign(CONTROL, f"control {_}", None)
        running.assign(CANDIDATE, f"candidate {_}", None)
    assert running.evidence().pairs == 0
    assert running.evidence() is running.evidence()
    for number, score in ((0, 1.0), (1, 2.0)):
        running.end(number, None, score=score, **ENDED)
    assert (running.evidence().pairs, running.evidence().wins) == (1, 1)
    assert running.evidence().step == 0
    running.rollout = running.rollout.model_copy(update={"step": 1})
    assert running.evidence().step == 1


def test_games_without_a_seed_take_no_seed_of_a_pair():
    """The k-th games of candidate and control have the same seed, with sequences among them."""
    running = live()
    running.assign(CANDIDATE, "a sequence", None, seeded=False)
    first = running.assign(CANDIDATE, "anna", None)
    assert running.assign(CONTROL, "bob", None).seed == first.seed
    assert running.assign(CONTROL, "carl", None).seed != first.seed


def test_a_twin_is_no_session_and_only_games_with_a_seed_could_have_had_one():
    running = live(spec=RolloutSpec(strategy="parallel", mode="twin"))
    champion = Variant(role="champion", version=1, share=1.0)
    running.assign(champion, "anna", None)
    running.amend(session="abc")
    twin = running.twin()
    assert (twin.session, twin.role, twin.version, twin.pair) == (None, "candidate", 2, 0)
    assert (running.games[0].session, running.games[0].pair) == ("abc", 0)
    assert twin.seed == running.games[0].seed
    assert running.untwinned == 0
    running.assign(champion, "a sequence", None, seeded=False)
    assert running.untwinned == 0
    running.assign(champion, "bob", None)
    assert running.untwinned == 1
