"""Who plays, and how whole games are played: players, games step by step, recordings."""

from rlarcade.playing.episodes import EpisodeResult
from rlarcade.playing.play import Step, play_steps
from rlarcade.playing.players import Player, Policy, RandomPlayer

__all__ = ["EpisodeResult", "Player", "Policy", "RandomPlayer", "Step", "play_steps"]
