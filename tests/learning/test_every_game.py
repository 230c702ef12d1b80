"""Training and evaluation on every game, not only on those that other tests like."""

import numpy as np
import pytest
from tiers import quick

from rlarcade.evaluation import evaluate_agent
from rlarcade.games import all_games, get_protocol
from rlarcade.learning.state import TrainingState
from rlarcade.learning.training import train_agent

GAMES = all_games()


@pytest.mark.parametrize("game", quick(GAMES, (), set(GAMES) - set(GAMES[::8])))
def test_an_agent_learns_from_the_game_and_plays_it(game, tiny_config):
    short = {"total_timesteps": 96, "learning_starts": 64, "buffer_size": 96}
    config = tiny_config.model_copy(update={"game": game, **short})
    state = TrainingState.create(config)
    before = state.agent.weights()
    progress = list(train_agent(state))[-1]
    after = state.agent.weights()

    assert (progress.steps, progress.updates) == (96, 4)
    assert all(np.isfinite(array).all() for array in after.values())
    assert any(not np.array_equal(before[name], after[name]) for name in after)

    state.agent.protocol = get_protocol("v5").model_copy(update={"name": "mine", "frame_cap": 200})
    (episode,) = evaluate_agent(state.agent, episodes=1).episodes
    assert 0 < episode.steps <= 50
    assert np.isfinite(episode.score)
