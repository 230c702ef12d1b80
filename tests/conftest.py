"""What tests share: skipping GPU tests without a GPU, small configurations, running commands."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

# Tiny networks gain nothing from threads, and threads that wait for each other on a busy machine
# make a test ten times slower. Commands that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
from made_up_games import made_up_games, real_games, short_games
from ray_nodes import ray_cluster, ray_nodes  # here, so that there is one cluster a process

# Only workers play and learn: what they need is imported where it is used, and the process that
# starts them need not wait for it.
if TYPE_CHECKING:
    from rlarcade.config import TrainConfig

# A busy machine may take longer for one example than Hypothesis allows.
hypothesis.settings.register_profile("rlarcade", deadline=None)
hypothesis.settings.load_profile("rlarcade")

__all__ = [
    "made_up_games",
    "ray_cluster",
    "ray_nodes",
    "real_games",
    "short_games",
]


@pytest.hookimpl(trylast=True)  # once it is known which tests are asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    # The workers take the modules in this order: those that last long although they have few
    # tests, so that none of them is left for one worker alone; then those with most tests.
    first = {item.path for item in items if item.get_closest_marker("first")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in first, -tests[item.path]))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def tiny_config() -> "TrainConfig":
    """A run that takes a second or two, wraps its ring twice and re-seeds its lanes."""
    from rlarcade.config import TrainConfig

    return TrainConfig(
        game="breakout",
        seed=7,
        total_timesteps=1200,
        num_envs=2,
        learning_starts=200,
        train_freq=8,
        batch_size=16,
        buffer_size=500,
        n_steps=3,
        double=True,
        target_update_interval=200,
        conv_channels=(4, 4, 4),
        hidden_units=16,
        exploration_steps=400,
        reseed_interval=100,
        learning_rate=1e-3,
        device="cpu",
        precision="fp32",
        torch_threads=1,
    )


@pytest.fixture
def run_verb() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m rlarcade.VERB …` as a user would."""

    def run(
        verb: str, *arguments: object, timeout: float = 280
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-W",
                "error::UserWarning",
                "-m",
                f"rlarcade.{verb}",
                *map(str, arguments),
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs a verb's `main` in this process; returns exit code, stdout and stderr.

    No progress is among it: whether work takes ten seconds is the machine's affair.
    """
    monkeypatch.setattr("rlarcade.progress._PLAIN_SECONDS", float("inf"))

    def run(verb: str, *arguments: object) -> tuple[int, str, str]:
        from importlib import import_module

        try:
            code = import_module(f"rlarcade.{verb}").main([str(a) for a in arguments])
        except SystemExit as exit_:  # tyro ends the process on a bad flag
            code = int(exit_.code or 0)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return code, captured.out, captured.err

    return run


@pytest.fixture
def newest() -> Callable[[Path], Path]:
    from rlarcade.checkpoint import find_checkpoint

    return find_checkpoint
