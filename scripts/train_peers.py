"""Trains the DQN of Stable-Baselines3 or CleanRL for some minutes, and evaluates it as our agents.

    python scripts/train_peers.py sb3 --game SpaceInvaders --minutes 50 --out peers/sb3 \
        --json docs/results/sb3-space-invaders.json

Nothing else may run meanwhile: the peer gets all cores. Its settings are the published ones: those
of RL Baselines3 Zoo for Atari, and the defaults of CleanRL's `dqn_atari.py`. Only the number of
steps is ours. A short run measures the speed first, because both peers plan their exploration by
the number of steps and cannot be stopped by the clock. The games of the evaluation are rlarcade's:
by protocol `v5`, as our agents are judged, and by `nature`, which has no sticky actions, as the
games that the peers learn from.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_training import BenchError, Peer, cleanrl_command, cpu_facts, install, run_child
from provenance import provenance

from rlarcade.errors import RlarcadeError
from rlarcade.games.names import display_name, resolve_game
from rlarcade.outputs import output_file

HERE = Path(__file__).resolve().parent
_PROBE = 4_000  # agent steps without learning, and again with it
# https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/hyperparams/dqn.yml (atari) and the
# defaults of https://github.com/vwxyzjn/cleanrl/blob/master/cleanrl/dqn_atari.py
PUBLISHED: dict[str, dict[str, Any]] = {
    "sb3": {
        "buffer_size": 100_000,
        "learning_rate": 1e-4,
        "batch_size": 32,
        "learning_starts": 100_000,
        "target_update_interval": 1_000,
        "train_freq": 4,
        "gradient_steps": 1,
        "exploration_fraction": 0.1,
        "exploration_final_eps": 0.01,
    },
    "cleanrl": {"learning_starts": 80_000, "buffer_size": 1_000_000},
}


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PUBLISHED)
    parser.add_argument("--game", default="SpaceInvaders")
    parser.add_argument("--minutes", type=float, default=50.0, help="of training")
    parser.add_argument("--episodes", type=int, default=100, help="games of the evaluation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained model")
    venvs = Path(tempfile.gettempdir(), "rlarcade-bench-venvs")
    parser.add_argument("--venvs", type=Path, default=venvs, help="keeps the peers' environments")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python 3.11")
    parser.add_argument("--json", type=output_file, required=True)
    asked = parser.parse_args()
    asked.algorithm, asked.cleanrl = "dqn", None
    try:
        game = resolve_game(asked.game)
        document = trained(asked, display_name(game), install(asked.peer, asked))
    except (BenchError, RlarcadeError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"train_peers: error: {error}", file=sys.stderr)
        return 2
    asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    evaluation = document["evaluation"]
    print(
        f"{asked.peer}, {document['game']}: {document['steps']:,} steps in "
        f"{document['minutes']:.1f} minutes, mean {evaluation['mean']:.1f}"
    )
    return 0


def trained(asked: argparse.Namespace, game: str, peer: Peer) -> dict[str, Any]:
    """Measures, trains and evaluates; returns everything that must be told."""
    run = _sb3 if asked.peer == "sb3" else _cleanrl
    starts = PUBLISHED[asked.peer]["learning_starts"]
    asked.out.mkdir(parents=True, exist_ok=True)
    first, last = run(asked, game, peer, total=2 * _PROBE, starts=_PROBE)
    steps = steps_in(60 * asked.minutes, starts, first / _PROBE, (last - first) / _PROBE)
    _, seconds = run(asked, game, peer, total=steps, starts=starts)
    return {
        "peer": asked.peer,
        "game": game,
        "steps": steps,
        "minutes": seconds / 60,
        "settings": _settings(asked, steps),
        "evaluation": _evaluated(asked, game, "v5"),
        # without sticky actions, as both peers are trained
        "evaluation_as_trained": _evaluated(asked, game, "nature"),
        "versions": peer.versions,
        "machine": cpu_facts(asked.threads, "fp32"),
        **provenance(),
    }


def _settings(asked: argparse.Namespace, steps: int) -> dict[str, Any]:
    published = PUBLISHED[asked.peer]
    # a larger replay would not be filled
    size = min(published["buffer_size"], steps)
    return published | {"buffer_size": size, "seed": asked.seed}


def steps_in(seconds: float, starts: int, playing: float, learning: float) -> int:
    """Returns the number of agent steps that fit into some time.

    Args:
        seconds: the time.
        starts: steps before learning begins.
        playing: seconds of such a step.
        learning: seconds of a step with learning.

    Raises:
        ValueError: learning would not begin.
    """
    rest = seconds - starts * playing
    if rest <= 0:
        raise ValueError(
            f"{starts:,} steps without learning take {starts * playing / 60:.0f} of "
            f"{seconds / 60:.0f} minutes. Raise --minutes."
        )
    return starts + int(rest / learning)


# Each returns the seconds until learning began and until the end, both from the start.


def _sb3(
    asked: argparse.Namespace, game: str, peer: Peer, *, total: int, starts: int
) -> tuple[float, float]:
    job = {
        "env": f"{game}NoFrameskip-v4",
        "total": total,
        "settings": _settings(asked, total) | {"learning_starts": starts},
        "threads": asked.threads,
        "out": str(asked.out.resolve() / "model.zip"),
    }
    lines: list[str] = []
    command = [peer.python, "-u", "-c", _SB3, json.dumps(job)]
    run_child("sb3", command, asked.threads, lines.append, str(asked.out))
    first, last = json.loads(lines[-1])
    return first, last


_SB3 = """
import json, sys, time
began = time.perf_counter()
import ale_py, gymnasium, torch
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack
job = json.loads(sys.argv[1])
torch.set_num_threads(job["threads"])
gymnasium.register_envs(ale_py)
env = VecFrameStack(make_atari_env(job["env"], n_envs=1, seed=job["settings"]["seed"]), n_stack=4)
model = DQN("CnnPolicy", env, device="cpu", optimize_memory_usage=False, **job["settings"])
marks = []
def look(*_):
    if not marks and model.num_timesteps >= job["settings"]["learning_starts"]:
        marks.append(time.perf_counter() - began)
    return True
model.learn(job["total"], callback=look)
marks.append(time.perf_counter() - began)
model.save(job["out"])
print(json.dumps(marks))
"""


def _cleanrl(
    asked: argparse.Namespace, game: str, peer: Peer, *, total: int, starts: int
) -> tuple[float, float]:
    settings = _settings(asked, total) | {"learning_starts": starts}
    options: dict[str, object] = {
        "env-id": f"{game}NoFrameskip-v4",
        "total-timesteps": total,
        **{name.replace("_", "-"): value for name, value in settings.items()},
    }
    marks: list[float] = []
    began = time.perf_counter()

    def on_line(line: str) -> None:
        if line.startswith("SPS:"):
            marks[1:] = [time.perf_counter() - began] * (1 if marks else 2)
        elif line.startswith("model saved to "):
            raise _Saved(asked.out / line.removeprefix("model saved to ").strip())

    command = [*cleanrl_command(peer, options), "--save-model"]
    try:
        run_child("cleanrl", command, asked.threads, on_line, str(asked.out))
    except _Saved as saved:
        saved.path.replace(asked.out / "model.pt")
    if not marks:
        raise BenchError("CleanRL's script told no speed, so it learned nothing")
    return marks[0], marks[-1]


class _Saved(Exception):
    """The model is a file. CleanRL's script would evaluate it now and needs MoviePy for that."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


def _evaluated(asked: argparse.Namespace, game: str, protocol: str) -> dict[str, Any]:
    model = asked.out.resolve() / ("model.zip" if asked.peer == "sb3" else "model.pt")
    found = asked.out.resolve() / "evaluation.json"
    words = [f"{asked.peer}_agent:make={model}", "--game", game, "--protocol", protocol]
    words += ["--episodes", str(asked.episodes), "--json", str(found)]
    path = os.pathsep.join([str(HERE / "adapters"), str(HERE.parent)])
    subprocess.run(
        [sys.executable, "-m", "rlarcade.evaluate", *words],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
    )
    (evaluation,) = json.loads(found.read_text("utf-8"))["evaluations"]
    return {
        key: evaluation[key] for key in ("mean", "median", "iqm", "protocol") if key in evaluation
    } | {"scores": [episode["score"] for episode in evaluation["episodes"]]}


if __name__ == "__main__":
    sys.exit(main())
