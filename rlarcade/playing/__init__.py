"""Who plays, and how whole games are played: players, games step by step, recordings."""

from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import Step, play_steps
from rlarcade.playing.players import Player, Policy, RandomPlayer
from rlarcade.playing.search import SearchPlayer

__all__ = [
    "EpisodeResult",
    "Player",
    "Policy",
    "RandomPlayer",
    "SearchPlayer",
    "Step",
    "play_steps",
]
