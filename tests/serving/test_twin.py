"""Twins: for each game of the champion, the candidate plays its own game with the same seed."""

import numpy as np
import pytest
from registry_helpers import whole
from serving_helpers import Crashing, Favourite, Held, Sleepy, observations, run
from serving_house import House, short

from rlarcade.errors import PolicyError
from rlarcade.playing import Player
from rlarcade.playing.play import Scheduled, play_games
from rlarcade.serving import rollout_store as store
from rlarcade.serving import rulings
from rlarcade.serving.live import kept
from rlarcade.serving.pairing import matched, pairs
from rlarcade.serving.rulings import Timed
from rlarcade.serving.settings import RolloutSpec

__all__ = ["short"]

pytestmark = pytest.mark.usefixtures("short", "short_games")

TWIN = RolloutSpec(strategy="parallel", mode="twin", min_sessions=3)
STAND, LEFT, RIGHT = 1, 0, 2
"""Actions of the made-up game."""


class Catches(Favourite):
    """Moves the paddle of the made-up game towards the ball."""

    def q_values(self, observation):
        values = super().q_values(observation) * 0
        values[np.arange(len(values)), [catch(frame) for frame in observation[:, -1]]] = 1
        return values


def catch(frame):
    """The action that brings the paddle to the ball."""
    paddle = np.flatnonzero(frame[-1] == 160)
    ball = np.flatnonzero((frame[4:-4] > 63) & (frame[4:-4] != 80)) % 84
    if not len(paddle) or not len(ball):
        return STAND
    aim = ball.mean() - paddle.mean()
    return LEFT if aim < -4 else RIGHT if aim > 4 else STAND


def stands(frame):
    del frame
    return STAND


@pytest.fixture
def house(two_versions):
    """Champion 1 of Pong, which never moves, and candidate 2, which catches the ball."""
    return House(two_versions, {1: Favourite(STAND), 2: Catches()})


def score_of(policy, seed):
    """The score of a policy's game, played by `rlarcade.playing`."""
    player = Player(lambda observation: policy(observation[-1]), game="Pong")
    [(_, game)] = play_games([Scheduled(player, seed)])
    return game.score


def test_each_game_of_the_champion_has_a_twin_with_its_seed_which_the_candidate_plays(
    house, registry
):
    async def check():
        await house.start(2, TWIN)
        sessions = [(await house.played())[0] for _ in range(2)]
        sessions.append((await house.played(steps=3))[0])
        await house.settled()
        await house.service.close()
        return sessions

    sessions = run(check())
    assert {session.version for session in sessions} == {1}
    games = store.games_of(registry, 1)
    assert whole(registry)
    for session, own, twin in zip(sessions, games[::2], games[1::2], strict=True):
        assert (own.role, own.version, own.session) == ("champion", 1, session.id)
        assert (twin.role, twin.version, twin.session) == ("candidate", 2, None)
        assert own.seed == twin.seed == session.seed
        assert own.pair == twin.pair
        assert own.score == score_of(stands, session.seed)
        assert twin.score == score_of(catch, session.seed)
        assert (own.abandoned, twin.abandoned) == (session.state == "abandoned", False)
    assert len({game.pair for game in games}) == 3


def test_a_better_candidate_takes_over_by_its_twins(house, registry):
    async def check():
        await house.start(2, TWIN)
        for _ in range(40):
            await house.played(steps=0)
            await house.settled()
            if house.state().state != "progressing":
                break
        await house.service.close()

    run(check())
    after = house.state()
    assert after.state == "succeeded", after.note
    assert registry.alias("pong").version == 2
    outcomes = [pair.outcome for pair in pairs(_read(registry))]
    assert 5 <= len(outcomes) <= 15
    assert outcomes.count(0.0) == 0


def test_a_worse_candidate_is_rolled_back_by_its_twins(registry, house):
    house.made |= {1: Catches(), 2: Favourite(STAND)}

    async def check():
        await house.start(2, TWIN)
        for _ in range(40):
            await house.played(steps=0)
            await house.settled()
            if house.state().state == "rolled_back":
                break
        await house.service.close()

    run(check())
    after = house.state()
    assert after.state == "rolled_back", after.note
    assert "worse than the champion" in after.note
    assert registry.alias("pong").version == 1
    assert all(game.role != "champion" or game.version == 1 for game in _read(registry))


def test_a_candidate_that_crashes_in_its_own_games_is_rolled_back_and_nobody_notices(house):
    house.made[2] = Crashing(after=10)

    async def check():
        await house.start(2, TWIN)
        for _ in range(10):
            session, _ = await house.played(steps=3)
            assert session.errors == 0
            await house.settled()
            if house.state().state == "rolled_back":
                break
        await house.service.close()

    run(check())
    assert house.state().state == "rolled_back"
    assert "had errors" in house.state().note


def test_a_slow_candidate_is_rolled_back_and_delays_no_other_game(house):
    house.made[2] = Sleepy(0.003)
    spec = TWIN.model_copy(update={"slow_seconds": 0.002})

    async def check():
        await house.start(2, spec)
        for _ in range(10):
            await house.played(steps=3)
            await house.settled()
            if house.state().state == "rolled_back":
                break
        await house.service.close()

    run(check())
    assert house.state().state == "rolled_back"
    assert "took more than 0.002 seconds a step" in house.state().note


def test_games_get_no_twin_while_the_referee_is_behind(house, registry):
    twin = house.made[2] = Held()

    async def check():
        await house.start(2, TWIN)
        house.service.rulings.most_twins = 2
        for _ in range(5):
            await house.played(steps=0)
        waiting = house.pong.live.open_games()
        assert sum(game.is_twin for game in waiting) == 2
        twin.go.set()
        await house.settled()
        await house.played(steps=0)
        await house.settled()
        await house.service.close()

    run(check())
    games = store.games_of(registry, 1)
    assert [game.pair is not None for game in games if game.role == "champion"] == [
        *[True] * 2,
        *[False] * 3,
        True,
    ]
    assert len(matched(_read(registry))) == 3
    assert kept(registry, store.rollout(registry, 1)).untwinned == 3


def test_games_whose_seed_the_server_did_not_give_have_no_twin(house, registry):
    async def check():
        await house.start(2, TWIN)
        await house.opened(seed=5)
        await house.opened("sequence", number="mine")
        await house.opened(version="2")
        assert [game.pair for game in house.pong.live.games.values()] == [None, None]
        assert house.pong.live.untwinned == 0
        await house.service.close()

    run(check())


def test_an_outcome_of_a_user_is_that_of_the_users_game_and_not_of_its_twin(house):
    async def check():
        await house.start(2, TWIN)
        session, _ = await house.played(steps=0, key="anna")
        _, game = await house.controller.outcome("anna", 1, None, "anna")
        assert (game.session, game.role) == (session.id, "champion")
        await house.service.close()

    run(check())


def test_after_a_kill_the_twins_are_played_by_the_next_server(house, registry):
    async def killed():
        await house.start(2, TWIN)
        house.service.rulings.begin = lambda *ignored: None  # the server is killed before
        await house.opened()

    run(killed())
    assert [game.ended for game in store.games_of(registry, 1)] == [None, None]

    async def next_one():
        again = House(registry, house.made)
        await again.look()
        await again.settled()
        await again.service.close()

    run(next_one())
    own, twin = store.games_of(registry, 1)
    assert own.score == score_of(stands, own.seed)
    assert twin.score == score_of(catch, own.seed)
    assert (own.abandoned, twin.abandoned) == (True, False)


def test_a_twin_whose_decision_takes_too_long_has_failed(monkeypatch):
    monkeypatch.setattr(rulings, "DECISION_SECONDS", 0.001)
    timed = Timed(Sleepy(0.002, after=0).q_values, None)
    with pytest.raises(PolicyError, match=r"it took longer than 0\.001 seconds"):
        timed(observations(1))


def test_slow_decisions_are_counted():
    timed = Timed(Sleepy(0.6, after=1).q_values, 0.3)
    for _ in range(3):
        timed(observations(1))
    assert (timed.decisions, timed.slow) == (3, 2)


def _read(registry):
    return kept(registry, store.rollout(registry, 1)).as_games()
