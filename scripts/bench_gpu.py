"""Breaks a second of training on a GPU down, and says how far each part is from its own limit.

    python scripts/bench_gpu.py --json docs/results/gpu.json              # on a CUDA machine
    python scripts/bench_gpu.py --device cpu --tiny                       # to rehearse it

Training is measured end to end; then each part alone, on the same state: the emulators, acting,
sampling, the update. From these follow two times for a step of all lanes: with the parts one after
the other, and with the emulators beside the learner, which is what the loop does on a GPU and can
at best reach. The limits of the parts themselves are the machine's: products of matrices for
forward and update, copies in memory for sampling.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from provenance import provenance
from torch.utils.flop_counter import FlopCounterMode

from rlarcade import DQNAgent, RlarcadeError, TrainingState, make_vec_env, train_agent
from rlarcade.config import load_preset, make_settings
from rlarcade.learning.learner import Learner
from rlarcade.outputs import output_file

_TINY = {
    "num_envs": 4,
    "batch_size": 16,
    "train_freq": 8,
    "gradient_steps": 2,
    "buffer_size": 2_000,
    "learning_starts": 100,
    "impala_width": 1,
}


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="SpaceInvaders")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    for name in ("num-envs", "batch-size", "train-freq", "gradient-steps"):
        parser.add_argument(f"--{name}", type=int, help="unset: the preset's")
    parser.add_argument("--buffer-size", type=int, default=200_000)
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--seconds", type=float, default=15.0, help="per figure")
    parser.add_argument("--tiny", action="store_true", help="to see that it runs")
    parser.add_argument("--json", type=output_file)
    asked = parser.parse_args()
    if asked.tiny:
        asked.seconds = 0.2
    try:
        state = TrainingState.create(make_settings(asked.preset, _settings(asked)).train)
    except RlarcadeError as error:
        print(f"bench_gpu: error: {error}", file=sys.stderr)
        return 2
    if state.config.memory.kind != "replay":
        print("bench_gpu: error: it measures presets with replay.", file=sys.stderr)
        return 2
    document = measure(state, asked.seconds) | {
        "config": state.config.model_dump(mode="json"),
        "machine": {
            "device": torch.cuda.get_device_name() if asked.device == "cuda" else "cpu",
            "cores": len(os.sched_getaffinity(0)),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **provenance(),
    }
    for group in ("training", "milliseconds_per_step_of_all_lanes", "limits"):
        print(group.replace("_", " "))
        for name, value in document[group].items():
            print(f"  {name.replace('_', ' '):<32}{value:12,.2f}")
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    else:
        print(json.dumps(document, indent=1))
    return 0


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    _, values = load_preset(asked.preset)
    values |= {"game": asked.game, "device": asked.device, "compile": asked.compile}
    values |= {"buffer_size": asked.buffer_size, "learning_starts": 10_000}
    values |= {"total_timesteps": 10**9, "exploration_steps": 0}
    values |= _TINY if asked.tiny else {}
    given = ("num_envs", "batch_size", "train_freq", "gradient_steps")
    return values | {name: getattr(asked, name) for name in given if getattr(asked, name)}


def measure(state: TrainingState, seconds: float) -> dict[str, dict[str, float]]:
    """Returns the figures: training, each part of a step, and each part's limit."""
    config, learner, replay = state.config, state.learner, state.replay
    lanes, device = config.num_envs, learner.device
    training = end_to_end(state, seconds)

    batch = replay.sample(config.batch_size, state.replay_rng).to(device)
    parts = {
        "emulators": _emulators(config.game, lanes, seconds),
        "act": _seconds_each(lambda: learner.q_values(state.lanes.observation), device, seconds),
        "sample": _seconds_each(
            lambda: replay.sample(config.batch_size, state.replay_rng).to(device), device, seconds
        ),
        "update": _seconds_each(lambda: learner.update(batch), device, seconds),
    }
    with torch.no_grad():
        forward = _seconds_each(lambda: learner.online(batch.observation), device, seconds)
        forward_flops = _flops(lambda: learner.online(batch.observation))
    # of a compiled update the operations cannot be counted
    uncompiled = config.model_copy(update={"compile": "off"})
    twin = DQNAgent(config, num_actions=state.agent.num_actions, device=str(device))
    eager = Learner(twin, uncompiled)
    update_flops = _flops(lambda: eager.update(batch))
    sampled_bytes = 2 * (batch.observation.nbytes + batch.next_observation.nbytes)  # read, written

    updates = lanes * config.gradient_steps / config.train_freq
    learning = updates * (parts["sample"] + parts["update"])
    times = {
        "measured": lanes / training["steps_per_second"],
        "emulators": parts["emulators"],
        "act": parts["act"],
        "sample": updates * parts["sample"],
        "update": updates * parts["update"],
        "one_after_the_other": parts["emulators"] + parts["act"] + learning,
        "emulators_beside_the_learner": parts["act"] + max(parts["emulators"], learning),
    }
    return {
        "training": training,
        "milliseconds_per_step_of_all_lanes": {k: 1e3 * v for k, v in times.items()},
        "limits": {
            "emulator_steps_per_second": lanes / parts["emulators"],
            "acting_steps_per_second": lanes / parts["act"],
            "updates_per_second": 1 / parts["update"],
            "forward_tflops": forward_flops / forward / 1e12,
            "update_tflops": update_flops / parts["update"] / 1e12,
            "matrix_product_tflops": _matrix_products(learner.online.dtype, device, seconds) / 1e12,
            "sampling_gb_per_second": sampled_bytes / parts["sample"] / 1e9,
            "copying_gb_per_second": _copies(device, seconds) / 1e9,
        },
    }


def end_to_end(state: TrainingState, seconds: float) -> dict[str, float]:
    """Steps per second of training, and the share of the loop's time that each part takes."""
    started, then, parts = 0.0, 0, dict[str, float]()
    progress = None
    for progress in train_agent(state):
        if not started and progress.updates >= 5:  # compiled, kernels chosen
            _wait(state.agent.device)
            started, then, parts = time.perf_counter(), progress.steps, dict(progress.seconds)
        elif started and time.perf_counter() - started > seconds:
            break
    assert progress is not None
    _wait(state.agent.device)
    elapsed = time.perf_counter() - started
    shares = {f"{k}_share": (progress.seconds[k] - parts[k]) / elapsed for k in parts}
    return {"steps_per_second": (progress.steps - then) / elapsed, **shares}


def _emulators(game: str, num_envs: int, seconds: float) -> float:
    """Seconds of a step of all games in random play, with nothing else going on."""
    env = make_vec_env(game, num_envs)
    env.reset(seed=np.arange(num_envs, dtype=np.int32))
    rng = np.random.default_rng(0)
    cpu = torch.device("cpu")
    return _seconds_each(lambda: env.step(rng.integers(0, env.num_actions, num_envs)), cpu, seconds)


def _matrix_products(dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """Floating-point operations per second of large matrix products."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2.0 * size**3 / _seconds_each(lambda: a @ b, device, seconds)


def _copies(device: torch.device, seconds: float) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.zeros(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8).to(device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds_each(lambda: target.copy_(source), device, seconds)


def _flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _seconds_each(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Mean time of a call when calls follow each other, as they do in training."""
    for _ in range(3):
        work()
    _wait(device)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        work()
        calls += 1
        if calls % 16 == 0:
            _wait(device)  # or calls would pile up far beyond the time
    _wait(device)
    return (time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
