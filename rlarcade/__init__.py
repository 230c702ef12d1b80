"""rlarcade trains, evaluates and ships game-playing agents.

A public name is loaded when it is first used. Importing the package has no side effects and takes
almost no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlarcade.interrupts import loads_a_command, until_ready

if TYPE_CHECKING:
    from rlarcade.checkpoint import Checkpoint, Manifest, load_checkpoint
    from rlarcade.cluster.connection import RayCluster
    from rlarcade.cluster.games import RayGames
    from rlarcade.config import TrainConfig
    from rlarcade.errors import (
        ActionError,
        CheckpointError,
        ConfigError,
        DivergenceError,
        GameError,
        PolicyError,
        RegistryError,
        ResourceError,
        RlarcadeError,
        RunFolderError,
        ServerError,
        StaleError,
    )
    from rlarcade.evaluation import (
        Comparison,
        Evaluation,
        PairResult,
        RoundRobin,
        Rule,
        SuiteComparison,
        compare_agents,
        compare_all,
        compare_suite,
        evaluate_agent,
    )
    from rlarcade.games import FrameStack, Protocol, get_protocol, make_env, make_vec_env
    from rlarcade.learning.onnx_file import export_onnx
    from rlarcade.learning.onnx_values import OnnxValues
    from rlarcade.learning.policy import DQNAgent
    from rlarcade.learning.replay import Batch, Replay
    from rlarcade.learning.saliency import saliency
    from rlarcade.learning.state import TrainingState
    from rlarcade.learning.training import TrainingProgress, train_agent
    from rlarcade.playing import (
        EpisodeResult,
        Player,
        Policy,
        RandomPlayer,
        SearchPlayer,
        Step,
        play_steps,
    )
    from rlarcade.registry.registry import Registry
    from rlarcade.runs.listener import Listener
    from rlarcade.runs.metrics import MetricWriter, TrainingLog
    from rlarcade.runs.metrics_file import read_metrics
    from rlarcade.runs.mlflow_tracker import MlflowTracker
    from rlarcade.runs.trackers import TrackedRun, Tracker
    from rlarcade.runs.training_run import TrainingRun
    from rlarcade.runs.wandb_tracker import WandbTracker

_HOMES = {
    "ActionError": "errors",
    "Batch": "learning.replay",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "Comparison": "evaluation",
    "ConfigError": "errors",
    "DQNAgent": "learning.policy",
    "DivergenceError": "errors",
    "EpisodeResult": "playing",
    "Evaluation": "evaluation",
    "FrameStack": "games",
    "GameError": "errors",
    "Listener": "runs.listener",
    "Manifest": "checkpoint",
    "MetricWriter": "runs.metrics",
    "MlflowTracker": "runs.mlflow_tracker",
    "OnnxValues": "learning.onnx_values",
    "PairResult": "evaluation",
    "Player": "playing",
    "Policy": "playing",
    "PolicyError": "errors",
    "Protocol": "games",
    "RandomPlayer": "playing",
    "RayCluster": "cluster.connection",
    "RayGames": "cluster.games",
    "Registry": "registry.registry",
    "RegistryError": "errors",
    "Replay": "learning.replay",
    "ResourceError": "errors",
    "RlarcadeError": "errors",
    "RoundRobin": "evaluation",
    "Rule": "evaluation",
    "RunFolderError": "errors",
    "SearchPlayer": "playing",
    "ServerError": "errors",
    "StaleError": "errors",
    "Step": "playing",
    "SuiteComparison": "evaluation",
    "TrackedRun": "runs.trackers",
    "Tracker": "runs.trackers",
    "TrainConfig": "config",
    "TrainingLog": "runs.metrics",
    "TrainingProgress": "learning.training",
    "TrainingRun": "runs.training_run",
    "TrainingState": "learning.state",
    "WandbTracker": "runs.wandb_tracker",
    "compare_agents": "evaluation",
    "compare_all": "evaluation",
    "compare_suite": "evaluation",
    "evaluate_agent": "evaluation",
    "export_onnx": "learning.onnx_file",
    "get_protocol": "games",
    "load_checkpoint": "checkpoint",
    "make_env": "games",
    "make_vec_env": "games",
    "play_steps": "playing",
    "read_metrics": "runs.metrics_file",
    "saliency": "learning.saliency",
    "train_agent": "learning.training",
}

__all__ = [
    "ActionError",
    "Batch",
    "Checkpoint",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DQNAgent",
    "DivergenceError",
    "EpisodeResult",
    "Evaluation",
    "FrameStack",
    "GameError",
    "Listener",
    "Manifest",
    "MetricWriter",
    "MlflowTracker",
    "OnnxValues",
    "PairResult",
    "Player",
    "Policy",
    "PolicyError",
    "Protocol",
    "RandomPlayer",
    "RayCluster",
    "RayGames",
    "Registry",
    "RegistryError",
    "Replay",
    "ResourceError",
    "RlarcadeError",
    "RoundRobin",
    "Rule",
    "RunFolderError",
    "SearchPlayer",
    "ServerError",
    "StaleError",
    "Step",
    "SuiteComparison",
    "TrackedRun",
    "Tracker",
    "TrainConfig",
    "TrainingLog",
    "TrainingProgress",
    "TrainingRun",
    "TrainingState",
    "WandbTracker",
    "compare_agents",
    "compare_all",
    "compare_suite",
    "evaluate_agent",
    "export_onnx",
    "get_protocol",
    "load_checkpoint",
    "make_env",
    "make_vec_env",
    "play_steps",
    "read_metrics",
    "saliency",
    "train_agent",
]


__version__ = "0.1.0"

if loads_a_command():  # the only side effect of the import, and only in our own commands
    until_ready()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlarcade' has no attribute {name!r}")
    value = getattr(import_module(f"rlarcade.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
