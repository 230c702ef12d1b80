"""The committed agents: golden files of the format, and really early and late."""

from pathlib import Path

import numpy as np
import pytest

from rlarcade.checkpoint import load_checkpoint
from rlarcade.evaluation import evaluate_agent
from rlarcade.learning.policy import DQNAgent

GAMES_OF = "Atari"
DATA = Path(__file__).parent / "data"
EARLY, LATE = DATA / "space-invaders-early", DATA / "space-invaders-late"


@pytest.mark.parametrize(("path", "steps", "updates"), [(EARLY, 2000, 0), (LATE, 40_000, 2375)])
def test_a_checkpoint_of_format_version_1_still_loads(path, steps, updates):
    checkpoint = load_checkpoint(path)
    counters = checkpoint.manifest.counters
    assert (counters.steps, counters.frames, counters.updates) == (steps, steps * 4, updates)
    assert checkpoint.manifest.format_version == 1
    assert checkpoint.manifest.game == "space_invaders"
    assert checkpoint.manifest.preset == "quick"
    agent = DQNAgent.load(checkpoint)
    values = agent.q_values(np.zeros((1, 4, 84, 84), dtype=np.uint8))
    assert values.shape == (1, 6)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("path", [EARLY, LATE])
def test_a_committed_checkpoint_is_small(path):
    assert sum(file.stat().st_size for file in path.iterdir()) < 2_000_000


@pytest.mark.slow
def test_the_late_agent_plays_far_better_than_the_early_one():
    early, late = (evaluate_agent(DQNAgent.load(p), episodes=4, seed=1) for p in (EARLY, LATE))
    assert late.mean > early.mean + 100
    assert [e.seed for e in early.episodes] == [e.seed for e in late.episodes]


def test_a_loaded_agent_makes_its_own_game():
    env = DQNAgent.load(LATE).make_env()
    assert (env.game, env.protocol.name) == ("space_invaders", "v5")
