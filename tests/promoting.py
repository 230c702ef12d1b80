"""What tests of promotion share: tiny agents as versions, and gates that are quick to pass."""

import hashlib

from scripted_games import Script, play_instead

from rlarcade.config import TrainConfig
from rlarcade.learning.policy import DQNAgent
from rlarcade.playing import RandomPlayer
from rlarcade.promotion.gate import Gate

QUICK = {
    "smoke": {"steps": 3},
    "latency": {"decisions": 20, "max_milliseconds": 10_000},
    "random": {"enabled": False},
}


def quick_gate(**parts):
    """A gate whose checks cost little; parts as in a gate file."""
    return Gate.model_validate({**QUICK, **parts})


def saved_agent(path, seed=0, game="pong", protocol="v5", num_actions=6):
    """A policy checkpoint of a tiny network with random weights."""
    config = TrainConfig(
        game=game, protocol=protocol, conv_channels=(2, 2, 2), hidden_units=4, seed=seed
    )
    agent = DQNAgent(config, num_actions=num_actions, seed=seed)
    agent.save(path, steps=1000 * (seed + 1), updates=10)
    return path


def play_by_strength(monkeypatch, strength):
    """Plays no match: who has more strength wins each pair.

    Args:
        monkeypatch: pytest's.
        strength: score in every game by digest, or by "random"; a function gets the game's seed.
    """

    def results(game):
        player = game.player
        key = "random" if isinstance(player, RandomPlayer) else player.version
        score = strength[key]
        return (score(game.seed) if callable(score) else score), 1.0

    script = Script(results, lanes=4)
    play_instead(monkeypatch, script)
    return script


def share_of(seed, percent):
    """Whether a game with this seed is among so many of a hundred, the same ones at every call."""
    return hashlib.sha256(str(seed).encode()).digest()[0] < 2.56 * percent
