"""Measures how fast games are played: beside the machine's limit, beside SB3, and step by step.

    python scripts/bench_evaluation.py --json docs/results/evaluation-speed.json
    python scripts/bench_evaluation.py --episodes 2 --rounds 1 --frame-cap 400  # that it runs

The first takes about a quarter of an hour on two cores, most of it Stable-Baselines3's, and wants
the machine to itself. The agent is a DQN with the network of Mnih et al. (2015), by default with
random weights. In every round everything below is measured in turn, in one process; only shares and
ratios of one round are worth quoting, and of these the median and the range.

**The bound.** `evaluate_agent` plays whole games. The work that nobody can avoid is every game's
seeded reset, every step's emulation, and a forward pass for every `lanes` steps. On `cores` cores
it takes at least

    (steps · step + games · reset + ⌈steps / lanes⌉ · forward) / cores

seconds, where `step`, `reset` and `forward` are seconds of one core. The share is this bound over
the time that `evaluate_agent` took. So that the bound does not flatter:

- Steps and games are those of the result, but forwards are as many as full batches need, not as
  many as were made: half-empty batches, as when the last long games are left, cost share.
- Nothing waits: emulators, resets and forwards fill all cores side by side to the end. Starting
  the emulators, Python, and stacking observations are not in it either. (Emulators that have been
  started are used again, so in all rounds but the first they cost `evaluate_agent` nothing.)
- `step` and `reset` are measured with every core at work, on the beginnings of games just played
  and with their actions, in one native vector environment for all lanes, which is the cheapest way
  to emulate them. `forward` is the cheaper of one thread and of all threads, and those cost as many
  cores as they are. CPU time counts, or the time of those cores where that is less, so that no
  waiting is in it. All are measured just before and just after what they are compared with.
- `forward` is the agent's own `q_values`, whose promise (an observation's values are the same bits
  in any batch) a plain network does not give. A slow one would flatter all the same, so a second
  bound has the fastest forward of plain torch in its place where that is faster.

A third bound, `in_turn`, is where the simple order of things ends: a forward on all cores, then the
emulators on all cores, and so on. It is larger, and so is its share.

**Stable-Baselines3.** `evaluate_policy` with its usual set-up: one environment from
`make_atari_env`, four frames stacked, `DQN` with `CnnPolicy`. It has the same weights (what both
networks say is compared before anything is timed) and plays the same kind of games: whole,
unclipped, the protocol's stickiness, no-ops, frame cap and ε. Not the same are its pixels (OpenCV's
grey and scaling) and its emulator's dice, so the games themselves differ, and their lengths: the
ratio of steps per second compares like with like, that of games per second has the luck of lengths
in it. In its favour, only its very first game begins with a seeded reset (the others cost a
twentieth of one), and its environment exists before its clock starts. Against it, every game begins
with two more steps, `FIRE` and one to the right, which are not counted.

**One step.** The time between two steps of `play_steps` (the first of a game has the seeded reset
in it and is left out), and of it the forward; and right after each step, on the same observation,
one forward of the same network as plain torch does it: uint8 observation in, action out.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_training import OTHERS_ALLOWED, busy_seconds, cpu_facts
from numpy.typing import NDArray
from provenance import provenance
from torch import Tensor, nn

from rlarcade import (
    ConfigError,
    DQNAgent,
    RlarcadeError,
    TrainConfig,
    evaluate_agent,
    make_env,
    make_vec_env,
    play_steps,
)
from rlarcade.games import GameVectorEnv, display_name  # display_name: SB3 wants ALE's spelling
from rlarcade.outputs import output_file
from rlarcade.playing.play import DEFAULT_LANES

_GOALS = {"share": 0.70, "ratio": 3.0}
_FORWARDS = 100  # timed at once
_SHORTEST_CAP = 40  # frames: ten steps, so that there is something to measure
_LAYERS = ("torso.conv1", "torso.conv2", "torso.conv3", "head.hidden", "head.values")
_PACKAGES = ("torch", "numpy", "ale-py", "gymnasium", "stable-baselines3", "opencv-python-headless")

Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    asked = _parse()
    try:
        bench = _prepare(asked)
    except RlarcadeError as error:
        print(f"bench_evaluation: error: {error}", file=sys.stderr)
        return 2
    rounds = []
    for number in range(1, asked.rounds + 1):
        rounds.append(play_round(bench))
        print(f"round {number}/{asked.rounds}: {_headline(rounds[-1])}", flush=True)
    document = {
        "medians": _combined(rounds, statistics.median),
        "lowest": _combined(rounds, min),
        "highest": _combined(rounds, max),
        "rounds": rounds,
        "goals": _GOALS,
        "settings": _settings(asked, bench),
        "machine": _machine(bench),
        "warnings": _complaints(rounds),
        **provenance(),
    }
    for line in _table(document):
        print(line)
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="unset: random weights")
    parser.add_argument("--game", default="SpaceInvaders", help="without a checkpoint")
    parser.add_argument("--episodes", type=_count, default=100, help="whole games of each")
    parser.add_argument("--peer-episodes", type=_count, help="SB3's; unset: as many")
    parser.add_argument("--rounds", type=_count, default=3)
    parser.add_argument(
        "--lanes", type=_count, default=DEFAULT_LANES, help="of evaluate_agent; unset: its own"
    )
    parser.add_argument("--threads", type=_count, help="of torch, for all; unset: torch's choice")
    parser.add_argument("--frame-cap", type=_count, help="cut games; unset: the protocol's")
    parser.add_argument("--seed", type=int, default=0, help="of the games")
    parser.add_argument("--skip-sb3", action="store_true")
    parser.add_argument("--json", type=output_file)
    asked = parser.parse_args()
    if asked.json and not asked.json.absolute().parent.is_dir():
        parser.error(f"--json {asked.json}: there is no such folder")
    if asked.frame_cap and asked.frame_cap < _SHORTEST_CAP:
        parser.error(f"--frame-cap {asked.frame_cap}: at least {_SHORTEST_CAP}")
    return asked


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{count} is less than 1")
    return count


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what."""

    agent: DQNAgent
    episodes: int
    lanes: int
    """At most one for each game."""
    seed: int
    cores: int
    threads: int
    emulators: GameVectorEnv
    """One for each lane, on all cores."""
    plain: nn.Module
    """The agent's network as one writes it in plain torch."""
    peer: "Peer | None"


class Peer(NamedTuple):
    """Stable-Baselines3's side."""

    model: Any
    env: Any
    episodes: int


def _prepare(asked: argparse.Namespace) -> Bench:
    if asked.threads:
        torch.set_num_threads(asked.threads)
    if asked.checkpoint:
        agent = DQNAgent.load(asked.checkpoint)
    else:
        env = make_env(asked.game)
        agent = DQNAgent(TrainConfig(game=asked.game), num_actions=int(env.action_space.n))
    if asked.frame_cap:
        agent.protocol = agent.protocol.model_copy(
            update={"name": "short", "frame_cap": asked.frame_cap}
        )
    plain = plain_network(agent.num_actions)
    copy_weights(agent, plain)
    cores = len(os.sched_getaffinity(0))
    lanes = min(asked.lanes, asked.episodes)
    return Bench(
        agent=agent,
        episodes=asked.episodes,
        lanes=lanes,
        seed=asked.seed,
        cores=cores,
        threads=torch.get_num_threads(),
        emulators=make_vec_env(agent.game, lanes, protocol=agent.protocol, num_threads=cores),
        plain=plain,
        peer=None if asked.skip_sb3 else make_peer(agent, asked),
    )


def play_round(bench: Bench) -> dict[str, Any]:
    """Measures everything once; returns the figures, named and nested."""
    started, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    step_ms, games = time_steps(bench)
    before = time_parts(bench, games)
    ours = _evaluate(bench)
    costs = _combined([before, time_parts(bench, games)], statistics.fmean)
    bounds = bound_seconds(costs, ours["steps"], ours["games"], bench.lanes, bench.cores)
    figures = {
        "evaluate_agent": ours,
        "costs_ms": {name: 1e3 * seconds for name, seconds in costs.items()},
        "bound_seconds": bounds,
        "share_of_bound": {name: bound / ours["seconds"] for name, bound in bounds.items()},
        "step_ms": step_ms,
    }
    if bench.peer:
        theirs = _evaluate_peer(bench.peer)
        speeds = ("steps_per_second", "games_per_second")
        figures["evaluate_policy"] = theirs
        figures["ratio"] = {name: ours[name] / theirs[name] for name in speeds}
    others = busy_seconds() - busy - (time.process_time() - own)
    figures["other_cores_busy"] = max(0.0, others / (time.perf_counter() - started))
    return figures


# Whole games


def _evaluate(bench: Bench) -> dict[str, float]:
    started = time.perf_counter()
    played = evaluate_agent(
        bench.agent, episodes=bench.episodes, seed=bench.seed, num_lanes=bench.lanes
    )
    seconds = time.perf_counter() - started
    return _speeds(seconds, sum(game.steps for game in played.episodes), bench.episodes)


def _evaluate_peer(peer: Peer) -> dict[str, float]:
    from stable_baselines3.common.evaluation import evaluate_policy

    steps = 0

    def count_step(*_: object) -> None:  # Monitor's lengths are in frames, no-ops and all
        nonlocal steps
        steps += 1

    started = time.perf_counter()
    evaluate_policy(
        peer.model,
        peer.env,
        n_eval_episodes=peer.episodes,
        deterministic=False,  # ε-greedy, with the protocol's ε
        callback=count_step,
    )
    return _speeds(time.perf_counter() - started, steps, peer.episodes)


def _speeds(seconds: float, steps: int, games: int) -> dict[str, float]:
    return {
        "seconds": seconds,
        "steps": steps,
        "games": games,
        "steps_per_second": steps / seconds,
        "games_per_second": games / seconds,
    }


def bound_seconds(
    costs: dict[str, float], steps: float, games: float, lanes: int, cores: int
) -> dict[str, float]:
    """Returns the least time that the games can take; see the top of this file.

    Args:
        costs: as of `time_parts`.
        steps: of all games.
        games: how many.
        lanes: observations in a forward.
        cores: all that there are.
    """
    playing = steps * costs["step"] + games * costs["reset"]
    forwards = math.ceil(steps / lanes)
    fastest = min(costs["forward"], costs["forward_eager"], costs["forward_jit"])
    return {
        "side_by_side": (playing + forwards * costs["forward"]) / cores,
        "side_by_side_fastest_forward": (playing + forwards * fastest) / cores,
        "in_turn": playing / cores + forwards * costs["forward_wall"],
    }


# What the parts cost


@dataclass
class Game:
    """A game that was played step by step."""

    seed: int
    actions: list[int] = field(default_factory=list)
    observation: NDArray[np.uint8] | None = None
    """A late one."""


def time_parts(bench: Bench, games: Sequence[Game]) -> dict[str, float]:
    """Returns what a step, a seeded reset and a forward of all lanes cost.

    In seconds of one core; `forward_wall` in seconds. The games are played again, side by side, for
    as long as all of them last.
    """
    env = bench.emulators
    seeds = np.array([game.seed for game in games], dtype=np.int32)
    reset, _ = _timed(lambda: env.reset(seed=seeds), bench.cores)
    actions = np.array(list(zip(*(game.actions for game in games), strict=False)))
    step, _ = _timed(lambda: [env.step(some) for some in actions], bench.cores)

    observation = np.stack([game.observation for game in games])
    forward, wall = _forward_cost(bench, bench.agent.q_values, observation)
    eager, jit = plain_forwards(bench.plain, observation)
    return {
        "step": step / actions.size,
        "reset": reset / bench.lanes,
        "forward": forward,
        "forward_wall": wall,
        "forward_eager": _forward_cost(bench, eager, observation)[0],
        "forward_jit": _forward_cost(bench, jit, observation)[0],
    }


def _forward_cost(
    bench: Bench, forward: Forward, observation: NDArray[np.uint8]
) -> tuple[float, float]:
    """Seconds of one core, and seconds, of a forward, each with the better count of threads."""
    costs = []
    for threads in {1, bench.threads}:
        torch.set_num_threads(threads)
        for _ in range(5):  # jit compiles in the first ones
            forward(observation)
        cost = _timed(lambda: [forward(observation) for _ in range(_FORWARDS)], threads)
        costs.append([seconds / _FORWARDS for seconds in cost])
    torch.set_num_threads(bench.threads)
    core_seconds, seconds = zip(*costs, strict=True)
    return min(core_seconds), min(seconds)


def _timed(work: Callable[[], object], threads: int) -> tuple[float, float]:
    """Seconds of one core that work on so many threads takes, and seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    return min(cpu, threads * seconds), seconds


# Step by step


class TimedAgent:
    """An agent to `play_steps`, which notes how long its forwards take."""

    def __init__(self, agent: DQNAgent) -> None:
        self.game, self.protocol = agent.game, agent.protocol
        self.seconds = 0.0
        """Of the latest."""
        self._agent = agent

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As the agent's."""
        started = time.perf_counter()
        values = self._agent.q_values(observation)
        self.seconds = time.perf_counter() - started
        return values


def time_steps(bench: Bench) -> tuple[dict[str, dict[str, float]], list[Game]]:
    """Plays a game for each lane step by step; returns percentiles of times, and the games."""
    agent, games = TimedAgent(bench.agent), list[Game]()
    seconds: dict[str, list[float]] = {
        name: [] for name in ("play_steps", "forward", "emulator_and_rest", "eager", "jit")
    }
    first = np.zeros((1, *bench.emulators.single_observation_space.shape), dtype=np.uint8)
    eager, jit = plain_forwards(bench.plain, first)
    for _ in range(5):
        eager(first), jit(first)
    steps = play_steps(agent, episodes=bench.lanes, seed=bench.seed)
    for step, duration in _with_durations(steps):
        if step.number == 0:
            games.append(Game(step.seed))
        else:
            seconds["play_steps"].append(duration)
            seconds["forward"].append(agent.seconds)
            seconds["emulator_and_rest"].append(duration - agent.seconds)
        games[-1].actions.append(step.action)
        games[-1].observation = step.observation
        for name, forward in (("eager", eager), ("jit", jit)):
            started = time.perf_counter()
            int(forward(step.observation[None]).argmax())
            seconds[name].append(time.perf_counter() - started)
    return {name: _percentiles(values) for name, values in seconds.items()}, games


def _with_durations(steps: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Yields each item and how long it took to come, without the time that it was looked at."""
    started = time.perf_counter()
    for step in steps:
        yield step, time.perf_counter() - started
        started = time.perf_counter()


def _percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99)}


# The same network elsewhere


class _Pixels(nn.Module):
    """Bytes to 0 … 1."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.float() / 255


def plain_network(num_actions: int) -> nn.Sequential:
    """Makes the network of Mnih et al. (2015) as one writes it in plain torch."""
    return nn.Sequential(
        _Pixels(),
        nn.Conv2d(4, 32, kernel_size=8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, kernel_size=3, stride=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3136, 512),
        nn.ReLU(),
        nn.Linear(512, num_actions),
    ).eval()


def copy_weights(agent: DQNAgent, network: nn.Module) -> None:
    """Copies an agent's weights to the layers of a network, in the order in which they apply.

    Raises:
        ConfigError: the agent's network is another one.
    """
    weights = agent.weights()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    ours = {f"{name}.{part}" for name in _LAYERS for part in ("weight", "bias")}
    with torch.no_grad():
        for name, layer in zip(_LAYERS, layers, strict=True):
            weight = weights.get(f"{name}.weight")
            if set(weights) != ours or weight is None or weight.shape != layer.weight.shape:
                raise ConfigError(
                    "only the network of Mnih et al. (2015) can be compared: 32, 64, 64 filters, "
                    "512 hidden units, one expected return per action. This agent's is another."
                )
            layer.weight.copy_(torch.from_numpy(weight))
            assert layer.bias is not None
            layer.bias.copy_(torch.from_numpy(weights[f"{name}.bias"]))


def plain_forwards(network: nn.Module, observation: NDArray[np.uint8]) -> tuple[Forward, Forward]:
    """Returns forwards of observations like this one: eager, and traced and frozen by torch.jit."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is what people still use
        traced = torch.jit.freeze(torch.jit.trace(network, torch.from_numpy(observation)))
    return _without_gradients(network), _without_gradients(traced)


def _without_gradients(network: Callable[[Tensor], Tensor]) -> Forward:
    def forward(observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(torch.from_numpy(observation)).numpy()

    return forward


def make_peer(agent: DQNAgent, asked: argparse.Namespace) -> Peer:
    """Makes Stable-Baselines3's usual set-up for the agent's game, protocol and weights.

    Raises:
        ConfigError: it is not installed, or its network does not say what the agent's says.
    """
    try:
        import ale_py
        import cv2  # noqa: F401  (its wrappers need it, but only say so when a game begins)
        import gymnasium
        from stable_baselines3 import DQN
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.vec_env import VecFrameStack
    except ImportError as error:
        raise ConfigError(f"{error}. Run pip install '.[test]', or use --skip-sb3.") from error
    gymnasium.register_envs(ale_py)
    protocol = agent.protocol
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old name, which is its usual
        games = make_atari_env(
            f"{display_name(agent.game)}NoFrameskip-v4",
            n_envs=1,
            seed=asked.seed,
            wrapper_kwargs={
                "noop_max": protocol.max_noops,
                "terminal_on_life_loss": False,
                "clip_reward": False,
            },
            env_kwargs={
                "repeat_action_probability": protocol.sticky,
                "full_action_space": protocol.full_action_space,
                "max_num_frames_per_episode": protocol.frame_cap,
            },
        )
    env = VecFrameStack(games, n_stack=4)
    model = DQN("CnnPolicy", env, buffer_size=1, device="cpu", seed=asked.seed)
    model.exploration_rate = protocol.evaluation_epsilon
    copy_weights(agent, model.q_net)
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)
    with torch.inference_mode():
        theirs = model.q_net(torch.from_numpy(frames)).numpy()
    if not np.allclose(theirs, agent.q_values(frames), rtol=1e-3, atol=1e-3):
        raise ConfigError("Stable-Baselines3's network values actions otherwise than the agent's.")
    return Peer(model, env, asked.peer_episodes or asked.episodes)


# The report


def _combined(found: Sequence[Any], how: Callable[[list[float]], float]) -> Any:
    """Makes one number of each figure's numbers, in nested figures of one shape."""
    if isinstance(found[0], dict):
        return {name: _combined([one[name] for one in found], how) for name in found[0]}
    return how(list(found))


def _settings(asked: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    return {
        "game": bench.agent.game,
        "protocol": bench.agent.protocol.model_dump(mode="json"),
        "checkpoint": str(asked.checkpoint) if asked.checkpoint else None,
        "episodes": bench.episodes,
        "peer_episodes": bench.peer.episodes if bench.peer else None,
        "rounds": asked.rounds,
        "lanes": bench.lanes,
        "seed": bench.seed,
    }


def _machine(bench: Bench) -> dict[str, Any]:
    installed = [name for name in _PACKAGES if bench.peer or name in _PACKAGES[:4]]
    return {
        **cpu_facts(bench.threads, "fp32"),
        "cores": bench.cores,
        "python": platform.python_version(),
        **{name: version(name) for name in installed},
    }


def _complaints(rounds: Sequence[dict[str, Any]]) -> list[str]:
    busiest = max(figures["other_cores_busy"] for figures in rounds)
    if busiest <= OTHERS_ALLOWED:
        return []
    return [
        f"other programs kept up to {busiest:.1f} cores busy: evaluation uses every core, so these "
        "shares and ratios are not to be quoted"
    ]


def _headline(figures: dict[str, Any]) -> str:
    ours = figures["evaluate_agent"]["steps_per_second"]
    text = f"{ours:.0f} steps/s, {figures['share_of_bound']['side_by_side']:.0%} of the bound"
    if "ratio" in figures:
        text += f", {figures['ratio']['steps_per_second']:.2f} x SB3"
    return text


def _table(document: dict[str, Any]) -> Iterator[str]:
    middle, low, high = (document[name] for name in ("medians", "lowest", "highest"))
    settings, machine = document["settings"], document["machine"]
    ours, costs = middle["evaluate_agent"], middle["costs_ms"]
    yield (
        f"{settings['episodes']} games of {settings['game']}, {settings['lanes']} lanes, "
        f"{machine['cores']} cores, {machine['threads']} torch threads; medians of "
        f"{settings['rounds']} rounds, in brackets their range"
    )
    yield f"evaluate_agent: {ours['seconds']:.1f} s for {ours['steps']:,.0f} steps"
    yield (
        f"ms of a core: step {costs['step']:.3f}, seeded reset {costs['reset']:.0f}, forward of "
        f"all lanes {costs['forward']:.2f} (torch eager {costs['forward_eager']:.2f}, torch.jit "
        f"{costs['forward_jit']:.2f})"
    )
    yield f"{'share of the bound':<34}{'bound s':>9}{'share':>9}"
    for name, share in middle["share_of_bound"].items():
        spread = [f"{side['share_of_bound'][name]:.1%}" for side in (low, high)]
        label = name.replace("_", " ")
        goal = f"  goal {_GOALS['share']:.0%}" if name == "side_by_side" else ""
        bound = middle["bound_seconds"][name]
        yield f"  {label:<32}{bound:9.2f}{share:9.1%}  ({' … '.join(spread)}){goal}"
    if "ratio" in middle:
        yield f"{'beside Stable-Baselines3':<34}{'ours':>9}{'SB3':>9}{'ratio':>9}"
        for name, ratio in middle["ratio"].items():
            spread = [f"{side['ratio'][name]:.2f}" for side in (low, high)]
            goal = f"  goal {_GOALS['ratio']:g}" if name == "steps_per_second" else ""
            values = (ours[name], middle["evaluate_policy"][name], ratio)
            cells = "".join(f"{value:9.2f}" for value in values)
            yield f"  {name.replace('_', ' '):<32}{cells}  ({' … '.join(spread)}){goal}"
    yield f"{'one step, ms':<34}{'p50':>9}{'p99':>9}"
    labels = {
        "play_steps": "play_steps",
        "forward": "  of it the forward",
        "emulator_and_rest": "  of it the emulator and the rest",
        "eager": "torch eager, the forward alone",
        "jit": "torch.jit, the forward alone",
    }
    for name, label in labels.items():
        p50, p99 = (middle["step_ms"][name][part] for part in ("p50", "p99"))
        yield f"  {label:<32}{p50:9.2f}{p99:9.2f}"
    for note in document["warnings"]:
        yield f"note: {note}"


if __name__ == "__main__":
    sys.exit(main())
