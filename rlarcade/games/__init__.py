"""Games: protocols, the native vector environment, training lanes, and published scores.

Importing this package registers all games with Gymnasium, as `rlarcade/SpaceInvaders-v5`.
"""

from rlarcade.games.curves import PublishedPoint, published_curve
from rlarcade.games.episodes import Episode, EpisodeTracker
from rlarcade.games.frame_stack import FrameStack
from rlarcade.games.lanes import LaneStep, TrainingLanes
from rlarcade.games.names import all_games, display_name, resolve_game
from rlarcade.games.protocols import FRAMESKIP, Protocol, get_protocol
from rlarcade.games.registration import register_games
from rlarcade.games.scores import human_normalized_score, published_scores
from rlarcade.games.single import GameEnv, make_env
from rlarcade.games.vector import GameVectorEnv, make_vec_env

__all__ = [
    "FRAMESKIP",
    "Episode",
    "EpisodeTracker",
    "FrameStack",
    "GameEnv",
    "GameVectorEnv",
    "LaneStep",
    "Protocol",
    "PublishedPoint",
    "TrainingLanes",
    "all_games",
    "display_name",
    "get_protocol",
    "human_normalized_score",
    "make_env",
    "make_vec_env",
    "published_curve",
    "published_scores",
    "resolve_game",
]

register_games()
