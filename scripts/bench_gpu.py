"""Measures what a GPU does for training: emulator alone, learner alone, and both together.

python scripts/bench_gpu.py --json gpu.json                 # on a CUDA machine
python scripts/bench_gpu.py --device cpu --quick            # the same code, to rehearse it
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

from rlarcade import RlarcadeError, TrainConfig, TrainingState, make_vec_env, train_agent


def emulator_speed(game: str, num_envs: int, seconds: float) -> float:
    """Agent steps per second of random play."""
    env = make_vec_env(game, num_envs)
    env.reset(seed=np.arange(num_envs, dtype=np.int32))
    rng = np.random.default_rng(0)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        env.step(rng.integers(0, env.num_actions, num_envs))
        steps += num_envs
    return steps / (time.perf_counter() - started)


def learner_speed(state: TrainingState, seconds: float) -> float:
    """Updates per second on batches from the replay that `state` has filled."""
    config = state.config

    def update() -> None:
        batch = state.replay.sample(config.batch_size, state.replay_rng)
        state.agent.update(batch.to(state.agent.device))

    for _ in range(3):  # compilation and kernel selection
        update()
    _wait(state)
    updates, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        update()
        updates += 1
    _wait(state)
    return updates / (time.perf_counter() - started)


def end_to_end_speed(state: TrainingState, seconds: float) -> tuple[float, dict[str, float]]:
    """Agent steps per second of training, and the share of each part."""
    started, then, parts = 0.0, 0, dict[str, float]()
    progress = None
    for progress in train_agent(state):
        if not started and progress.updates >= 5:
            _wait(state)
            started, then, parts = time.perf_counter(), progress.steps, dict(progress.seconds)
        elif started and time.perf_counter() - started > seconds:
            break
    assert progress is not None
    _wait(state)
    elapsed = time.perf_counter() - started
    shares = {part: (progress.seconds[part] - parts[part]) / elapsed for part in parts}
    return (progress.steps - then) / elapsed, shares


def _wait(state: TrainingState) -> None:
    if state.agent.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="SpaceInvaders")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--train-freq", type=int, default=32)
    parser.add_argument("--buffer-size", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="per figure")
    parser.add_argument("--compile", action="store_true", help="torch.compile the update")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.num_envs, args.batch_size, args.buffer_size, args.seconds = 4, 16, 2_000, 0.5
    try:
        state = TrainingState.create(
            TrainConfig(
                game=args.game,
                device=args.device,
                num_envs=args.num_envs,
                batch_size=args.batch_size,
                train_freq=args.train_freq,
                buffer_size=args.buffer_size,
                learning_starts=min(20_000, args.buffer_size // 2),
                total_timesteps=10**9,
                exploration_steps=0,
                compile=args.compile,
            )
        )
    except RlarcadeError as error:
        print(f"bench_gpu: error: {error}", file=sys.stderr)
        return 2
    speed, shares = end_to_end_speed(state, args.seconds)
    document = {
        "emulator_steps_per_second": emulator_speed(args.game, args.num_envs, args.seconds),
        "updates_per_second": learner_speed(state, args.seconds),
        "training_steps_per_second": speed,
        "shares": shares,
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
        "precision": state.config.precision,
        "machine": {
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    for name in ("emulator_steps", "updates", "training_steps"):
        print(f"{name.replace('_', ' '):>15}/s {document[f'{name}_per_second']:10,.0f}")
    print("         shares", {part: round(share, 2) for part, share in shares.items()})
    if args.json:
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
