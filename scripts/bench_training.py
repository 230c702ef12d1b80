"""Compare the steady training speed of rlarcade with CleanRL's and Stable-Baselines3's.

The three take turns on the same machine, round after round, because a shared host's speed drifts
more between minutes than the libraries differ: only ratios of neighbouring runs are worth quoting.

    python scripts/bench_training.py --json speed.json            # about ten minutes on two cores
    python scripts/bench_training.py --rounds 0 --memory          # peak memory of a 1M-step replay
    python scripts/bench_training.py --algorithm rainbow --cleanrl CHECKOUT   # or qrdqn, or pqn

Workload: SpaceInvaders, Nature network, as many samples per agent step, replay of the same size,
only the phase in which every library both plays greedily and learns. Each peer lives in a virtual
environment that this script makes from PyPI and keeps; its Python must be 3.11 (CleanRL's script
imports ``distutils`` and needs an emulator that has no newer build): see ``--peer-python``.
CleanRL's Rainbow and PQN are in no wheel: they need a checkout of its repository.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GYM_ID = "SpaceInvadersNoFrameskip-v4"
PEERS = ("cleanrl", "sb3")
SETTINGS = ("same_schedule", "large_batch")
MEASURED_BEFORE = {"cleanrl": (77, 85), "sb3": (69, 94)}  # agent steps/s, 2-core EPYC with bf16
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
MEMORY_BAR_GB = 8.5
OTHERS_ALLOWED = 0.2  # cores that other programs may keep busy without a word
MEMORY_STEPS = 400  # learned after the replay is full, so that the learner's memory counts too

# CleanRL's last wheel has the script as published; these are the newest versions it runs with.
# Its emulator ships without games, so those of a newer release are copied beside it.
CLEANRL_WHEEL = "cleanrl==1.2.0"
ROM_SOURCE = "ale-py==0.12.1"
CLEANRL_NEEDS = """torch==2.13.0 numpy==1.26.4 gymnasium==0.29.1 shimmy==1.3.0 ale-py==0.8.1
    opencv-python-headless==4.11.0.86 stable-baselines3==2.3.2 tensorboard tyro"""
ENVPOOL_NEEDS = "torch==2.13.0 numpy==1.26.4 gym==0.23.1 envpool==0.8.4 tensorboard tyro"
SB3_NEEDS = """torch==2.13.0 stable-baselines3==2.9.2 gymnasium==1.4.0 ale-py==0.12.1
    opencv-python-headless"""
REQUIREMENTS = {
    "cleanrl": CLEANRL_NEEDS.split(),
    "cleanrl-envpool": ENVPOOL_NEEDS.split(),
    "sb3": SB3_NEEDS.split(),
    "sb3-contrib": [*SB3_NEEDS.split(), "sb3-contrib==2.9.2"],
}
REPORTED_PACKAGES = """rlarcade cleanrl stable-baselines3 sb3-contrib torch numpy gymnasium ale-py
    envpool opencv-python-headless"""
LIST_VERSIONS = """
import importlib.metadata as m, json, platform, sys
found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in m.distributions()}
print(json.dumps({"python": platform.python_version(),
                  **{name: found[name] for name in sys.argv[1:] if name in found}}))
"""

Mark = tuple[int, float]  # (agent steps so far, seconds on some clock)


@dataclass(frozen=True)
class Algorithm:
    """One algorithm: who else has it, and where our preset departs to do the same work."""

    environments: dict[str, str]  # of each peer that has it
    script: str = ""  # CleanRL's
    ours: dict[str, Any] = field(default_factory=dict)


ALGORITHMS = {
    "dqn": Algorithm({"cleanrl": "cleanrl", "sb3": "sb3"}, "dqn_atari.py"),
    "qrdqn": Algorithm({"sb3": "sb3-contrib"}, ours={"prioritized": False, "n_steps": 1}),
    "rainbow": Algorithm({"cleanrl": "cleanrl"}, "rainbow_atari.py"),
    "pqn": Algorithm(
        {"cleanrl": "cleanrl-envpool"},
        "pqn_atari_envpool.py",
        {"rollout_steps": 128, "num_epochs": 4, "norm": "layer"},
    ),
}
ROLLOUT = 8 * 128  # agent steps between PQN's updates, in CleanRL's script


class BenchError(Exception):
    """Something outside this script failed; the message is one line for the user."""


@dataclass(frozen=True)
class Job:
    """What one timed run is told. All counts are agent steps."""

    batch_size: int
    train_freq: int
    num_envs: int
    learning_starts: int
    warmup: int
    steps: int
    buffer_size: int
    threads: int
    precision: str = "fp32"
    seed: int = 1
    algorithm: str = "dqn"

    @property
    def start(self) -> int:
        """The step at which measuring begins."""
        return self.learning_starts + self.warmup

    @property
    def total(self) -> int:
        """The step at which the run ends."""
        return self.start + self.steps


@dataclass(frozen=True)
class Child:
    """What a trainer's process cost."""

    peak_rss_mb: float
    other_cores: float  # how many cores were busy with something else meanwhile


@dataclass(frozen=True)
class Result:
    """What came back from one timed run."""

    speed: float  # agent steps per second
    child: Child
    details: dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """One peer, installed."""

    python: str
    versions: dict[str, str]
    script: Path | None = None  # CleanRL's
    root: Path | None = None  # of CleanRL's checkout


# ---------------------------------------------------------------- workers (in the child processes)


def work_rlarcade(job: Job) -> dict[str, Any]:
    """Train with rlarcade and report the ends of the measured phase and where its time went."""
    from rlarcade import TrainingState, train_agent
    from rlarcade.config import load_preset, make_settings

    preset, values = load_preset(job.algorithm)
    told = {
        "game": "SpaceInvaders",
        "total_timesteps": job.total,
        "learning_starts": job.learning_starts,
        "buffer_size": job.buffer_size,
        "batch_size": job.batch_size,
        "train_freq": job.train_freq,
        "num_envs": job.num_envs,
        "learning_rate": 1e-4,
        "exploration_fraction": 0.001,
        "device": "cpu",
        "precision": job.precision,
        "torch_threads": job.threads,
        "seed": job.seed,
    }
    settings = make_settings(preset, values | told | ALGORITHMS[job.algorithm].ours)
    state = TrainingState.create(settings.train)
    opening = closing = None
    for progress in train_agent(state):
        if progress.steps >= job.start:
            now = time.perf_counter()
            closing = (progress.steps, now, progress.updates, dict(progress.seconds))
            opening = opening or closing
    if opening is None or closing is None:
        raise BenchError(f"rlarcade ended before step {job.start}")
    first, began, updates_before, before = opening
    last, ended, updates_after, after = closing
    names = {"env": "env", "act": "act", "sample": "replay", "learn": "learn"}
    wall = max(ended - began, 1e-9)
    shares = {name: (after[key] - before[key]) / wall for name, key in names.items()}
    return {
        "marks": [(first, began), (last, ended)],
        "updates": updates_after - updates_before,
        "shares": {**shares, "other": 1.0 - sum(shares.values())},
        "precision": str(state.config.precision),
    }


def work_sb3(job: Job) -> dict[str, Any]:
    """Train with Stable-Baselines3, in its own environment, and report every step's time."""
    import ale_py
    import gymnasium
    import torch
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    if job.algorithm == "qrdqn":
        from sb3_contrib import QRDQN as Learner
    else:
        from stable_baselines3 import DQN as Learner

    torch.set_num_threads(job.threads)
    gymnasium.register_envs(ale_py)
    env = VecFrameStack(make_atari_env(GYM_ID, n_envs=1, seed=job.seed), n_stack=4)
    model = Learner(
        "CnnPolicy",
        env,
        learning_rate=1e-4,
        buffer_size=job.buffer_size,
        learning_starts=job.learning_starts,
        batch_size=job.batch_size,
        train_freq=job.train_freq,
        gradient_steps=1,
        target_update_interval=1000,
        exploration_fraction=0.001,
        exploration_final_eps=0.01,
        device="cpu",
        seed=job.seed,
    )
    marks: list[Mark] = []
    updates: list[int] = []

    def clock(*_: object) -> bool:
        if model.num_timesteps >= job.start:
            marks.append((model.num_timesteps, time.perf_counter()))
            updates.append(model._n_updates)
        return True

    model.learn(job.total, callback=clock)
    return {"marks": [marks[0], marks[-1]], "updates": updates[-1] - updates[0]}


WORKERS: dict[str, Callable[[Job], dict[str, Any]]] = {"rlarcade": work_rlarcade, "sb3": work_sb3}


# ------------------------------------------------------------------------- peers' environments


def call(command: Sequence[str], what: str) -> str:
    """Run a short command and return its output; a failure quotes its last line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise BenchError(f"{what} failed: {lines[-1]}")
    return done.stdout


def venv_python(folder: Path) -> str:
    """The interpreter of a virtual environment."""
    return str(folder / "bin" / "python")


def make_venv(name: str, venvs: Path, python: str) -> Path:
    """Make a peer's virtual environment, or reuse one that was completed for the same versions."""
    folder = venvs.resolve() / f"{name}-venv"
    wanted = "\n".join((python, *REQUIREMENTS[name], CLEANRL_WHEEL, ROM_SOURCE))
    done = folder / "ok"
    if done.is_file() and done.read_text() == wanted:
        return folder
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise BenchError(f"{folder} is not a virtual environment; give another --venvs DIR")
    print(f"installing {name} (once) ...", flush=True)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"cannot make {folder}: {error.strerror}; give --venvs DIR") from error
    call([python, "-m", "venv", str(folder)], f"making an environment for {name}")
    pip = [venv_python(folder), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    peer = name.split("-")[0]
    what = f"installing {name} (Python 3.11 needed; --peer-python EXE, or --skip {peer})"
    call([*pip, *REQUIREMENTS[name]], what)
    if name == "cleanrl":
        call([*pip, "--no-deps", "--ignore-requires-python", CLEANRL_WHEEL], what)
        with tempfile.TemporaryDirectory() as newer:
            call([*pip, "--no-deps", "--target", newer, ROM_SOURCE], what)
            for rom in Path(newer, "ale_py", "roms").glob("*.bin"):
                shutil.copy(rom, package_folder(folder, "ale_py") / "roms")
    done.write_text(wanted)
    return folder


def package_folder(venv: Path, package: str) -> Path:
    """Where a virtual environment keeps a package."""
    found = next(venv.glob(f"lib/python*/site-packages/{package}"), None)
    if found is None:
        raise BenchError(f"{package} is missing from {venv}; remove that folder and try again")
    return found


def install(name: str, args: argparse.Namespace) -> Peer:
    """Make sure that a peer can run, and say what exactly will."""
    algorithm = ALGORITHMS[args.algorithm]
    venv = make_venv(algorithm.environments[name], args.venvs, args.peer_python)
    python = venv_python(venv)
    versions = versions_of(python)
    if name != "cleanrl":
        return Peer(python, versions)
    root = args.cleanrl.resolve() if args.cleanrl else None
    folder = root / "cleanrl" if root else package_folder(venv, "cleanrl")
    script = folder / algorithm.script
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    versions |= {"script": "checkout" if root else CLEANRL_WHEEL, "script_sha256": digest}
    return Peer(python, versions, script.resolve(), root)


# --------------------------------------------------------------------------------- timed runs


def busy_seconds() -> float:
    """CPU seconds this machine has spent on work since it started; 0 where it cannot be told."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:]]
    return sum(ticks[:3] + ticks[5:7]) / os.sysconf("SC_CLK_TCK")


def run_child(
    name: str,
    command: Sequence[str],
    threads: int,
    on_line: Callable[[str], None],
    cwd: str | None = None,
    python_path: str | None = None,
) -> Child:
    """Run one trainer and hand over its output line by line; peers get a folder of their own."""
    count = str(threads)
    env = {key: value for key, value in os.environ.items() if not cwd or key != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "CUDA_VISIBLE_DEVICES": ""}
    env |= {"PYTHONPATH": python_path} if python_path else {}
    began, busy = time.perf_counter(), busy_seconds()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=cwd
        )
        try:
            assert child.stdout is not None
            for line in child.stdout:
                on_line(line)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if child.returncode is None:
                child.kill()
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if child.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise BenchError(f"{name} exited with {child.returncode}: {last}")
    others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
    rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Child(rss / 1e6, max(0.0, others / (time.perf_counter() - began)))


def speed_of(marks: Sequence[Mark], start: int) -> float:
    """Agent steps per second from the first mark at or after ``start`` to the last one."""
    steady = [mark for mark in marks if mark[0] >= start]
    if len(steady) < 2 or steady[-1][0] <= steady[0][0]:
        raise BenchError(f"too few steps after step {start} to measure a speed; raise --steps")
    (first, began), (last, ended) = steady[0], steady[-1]
    return (last - first) / (ended - began)


def run_worker(name: str, python: str, job: Job, cwd: str | None = None) -> Result:
    """Time a library by this script's own worker, which ends with one line of JSON."""
    lines: list[str] = []
    script = str(Path(__file__).resolve())
    command = [python, "-u", script, "--worker", name, json.dumps(asdict(job))]
    child = run_child(name, command, job.threads, lines.append, cwd)
    details: dict[str, Any] = json.loads(lines[-1])
    speed = speed_of([(steps, at) for steps, at in details["marks"]], job.start)
    learned = details["updates"] * job.train_freq
    played = details["marks"][-1][0] - details["marks"][0][0]
    if abs(learned - played) > 0.05 * played + 2 * max(job.train_freq, job.num_envs):
        raise BenchError(f"{name} made {details['updates']} updates in {played} steps: wrong work")
    return Result(speed, child, details)


def cleanrl_command(peer: Peer, options: dict[str, object]) -> list[str]:
    """The command of CleanRL's script on the CPU; its scripts spell that in two ways."""
    assert peer.script is not None
    no_cuda = ["--no-cuda"] if "tyro" in peer.script.read_text() else ["--cuda", "False"]
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [peer.python, "-u", str(peer.script), *no_cuda, *flags]


def run_cleanrl(peer: Peer, job: Job, cwd: str) -> Result:
    """Time CleanRL's unmodified script by the moments at which its own "SPS:" lines appear."""
    options: dict[str, object] = {"total-timesteps": job.total + 1, "seed": job.seed}
    if job.algorithm != "rainbow":  # which explores by its noise
        options["exploration-fraction"] = 0.001
    if job.algorithm == "pqn":
        options["env-id"] = "SpaceInvaders-v5"
    else:
        options |= {
            "env-id": GYM_ID,
            "buffer-size": job.buffer_size,
            "learning-starts": job.learning_starts,
            "batch-size": job.batch_size,
            "train-frequency": job.train_freq,
        }
    marks: list[Mark] = []

    def on_line(line: str) -> None:
        """One such line comes after a rollout, or at every hundredth step of learning."""
        if line.startswith("SPS:"):
            every = ROLLOUT if job.algorithm == "pqn" else 100
            step = (job.learning_starts // every + 1 + len(marks)) * every
            marks.append((step, time.perf_counter()))

    command = cleanrl_command(peer, options)
    root = str(peer.root) if peer.root else None
    child = run_child("cleanrl", command, job.threads, on_line, cwd, root)
    return Result(speed_of(marks, job.start), child, {})


# ----------------------------------------------------------------------------------- the report


def cpu_facts(threads: int, precision: str | None) -> dict[str, Any]:
    """What about this machine decides the figures."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": [fields.get("cpu family"), fields.get("model")],
        "cores": os.cpu_count(),
        "flags": {flag: flag in flags for flag in CPU_FLAGS},
        "precision": precision,
        "threads": threads,
    }


def versions_of(python: str) -> dict[str, str]:
    """The versions of the packages that matter, in one interpreter's environment."""
    found = json.loads(
        call([python, "-c", LIST_VERSIONS, *REPORTED_PACKAGES.split()], "reading versions")
    )
    return {str(name): str(version) for name, version in found.items()}


def compare(speeds: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
    """Divide our speeds by each peer's, within each round."""
    return {
        setting: {
            peer: [
                ours / theirs for ours, theirs in zip(speeds[setting], speeds[peer], strict=True)
            ]
            for peer in PEERS
            if peer in speeds
        }
        for setting in SETTINGS
        if setting in speeds
    }


def find_warnings(
    algorithm: str,
    speeds: dict[str, list[float]],
    machine: dict[str, Any],
    others: dict[str, list[float]],
) -> list[str]:
    """What a reader of the figures should know; never a reason to fail."""
    notes = []
    known = MEASURED_BEFORE if algorithm == "dqn" else {}
    for peer, (low, high) in known.items():
        if peer in speeds and not low <= (median := statistics.median(speeds[peer])) <= high:
            side = "below" if median < low else "above"
            notes.append(
                f"{peer}: median {median:.0f} agent steps/s is {side} the {low}-{high} measured "
                "before on a 2-core EPYC with bf16; trust the ratios, not the absolute figures"
            )
    busiest = max((value for values in others.values() for value in values), default=0.0)
    if busiest > OTHERS_ALLOWED:
        notes.append(
            f"other programs kept up to {busiest:.1f} cores busy: runs they touched can be ten "
            "times slower (threads wait for each other), so these ratios are not to be quoted"
        )
    if not any(machine["flags"][flag] for flag in CPU_FLAGS if flag.endswith("bf16")):
        notes.append("this CPU has no bf16 instructions; the speed bars are set for one that has")
    return notes


def print_report(report: dict[str, Any]) -> None:
    """The figures as a table for people."""
    machine = report["machine"]
    print(
        f"\n{report['algorithm']}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} torch threads, rlarcade in {machine['precision'] or '-'}"
    )
    print(f"{'':24}{'steps/s':>9}{'lo..hi':>14}{'x cleanrl':>11}{'x sb3':>8}{'peak MB':>9}")
    for name, entry in report["steps_per_second"].items():
        ratio = report["ratio"].get(name, {})
        cells = [f"{ratio[peer]:.2f}" if peer in ratio else "" for peer in PEERS]
        spread = f"{min(entry['rounds']):.0f}..{max(entry['rounds']):.0f}"
        title = f"rlarcade {name}" if name in SETTINGS else name
        print(
            f"{title:24}{entry['median']:9.1f}{spread:>14}{cells[0]:>11}{cells[1]:>8}"
            f"{report['peak_rss_mb'][name]:9.0f}"
        )
    for name, shares in report["shares"].items():
        parts = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
        print(f"time of {name}: {parts}")
    if memory := report.get("memory"):
        print(
            f"replay of {memory['buffer_size']:,}: peak {memory['peak_rss_gb']:.2f} GB "
            f"(bar {memory['bar_gb']} GB)"
        )
    for note in report["warnings"]:
        print(f"note: {note}")


# ---------------------------------------------------------------------------------- command line


def build_parser() -> argparse.ArgumentParser:
    """Every option; the sizes are None where --quick decides."""
    temporary = Path(tempfile.gettempdir(), "rlarcade-bench-venvs")
    parser = argparse.ArgumentParser(description="Training speed of rlarcade, CleanRL and SB3.")
    add = parser.add_argument
    add(
        "--algorithm",
        choices=tuple(ALGORITHMS),
        default="dqn",
        help="a preset that peers have (dqn)",
    )
    add("--json", type=Path, metavar="FILE", help="write every figure here")
    add("--rounds", type=int, help="interleaved rounds (3; 0: none, with --memory)")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch threads of each")
    add("--num-envs", type=int, default=16, help="rlarcade's lanes with the same schedule (16)")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="rlarcade's; auto: bf16 if this CPU has the instructions",
    )
    add("--steps", type=int, help="measured agent steps of each run (2000)")
    add("--large-steps", type=int, help="measured agent steps with large batches (4000)")
    add("--buffer-size", type=int, default=100_000, help="replay size of all (100000)")
    add("--memory", action="store_true", help="also fill a replay of 1,000,000, report its memory")
    add("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    add("--skip", default="", metavar="NAMES", help="leave out: rlarcade,cleanrl,sb3")
    add("--venvs", type=Path, default=temporary, metavar="DIR", help="keeps peers' environments")
    add("--cleanrl", type=Path, metavar="DIR", help="a CleanRL checkout, in place of its wheel")
    add("--peer-python", default=sys.executable, metavar="EXE", help="Python 3.11 for the peers")
    return parser


def complaint(args: argparse.Namespace) -> str | None:
    """What is wrong with the command line, in one line; None if nothing is."""
    unknown = args.skip - {"rlarcade", *PEERS}
    algorithm = ALGORITHMS[args.algorithm]
    script = (args.cleanrl or Path()) / "cleanrl" / algorithm.script
    in_no_wheel = args.algorithm != "dqn" and "cleanrl" in set(algorithm.environments) - args.skip
    nothing = (args.rounds == 0 and not args.memory) or args.skip == {"rlarcade", *PEERS}
    checks = (
        (unknown, f"--skip {','.join(sorted(unknown))}: choose from rlarcade, cleanrl, sb3"),
        (args.rounds < 0, f"--rounds {args.rounds}: at least 0"),
        (args.threads < 1, f"--threads {args.threads}: at least 1"),
        (args.num_envs < 1, f"--num-envs {args.num_envs}: at least 1"),
        (args.steps < 200, f"--steps {args.steps}: at least 200"),
        (args.large_steps < 200, f"--large-steps {args.large_steps}: at least 200"),
        (args.buffer_size < 2000, f"--buffer-size {args.buffer_size}: at least 2000"),
        (nothing, "nothing to measure: raise --rounds, add --memory or skip less"),
        (args.memory and "rlarcade" in args.skip, "--memory measures rlarcade, which --skip omits"),
        (
            args.json and (args.json.is_dir() or not args.json.absolute().parent.is_dir()),
            f"--json {args.json}: not a file in an existing folder",
        ),
        (args.cleanrl and not script.is_file(), f"--cleanrl: there is no {script}"),
        (
            args.memory and args.algorithm != "dqn",
            f"--memory measures dqn, not {args.algorithm}; leave --algorithm out",
        ),
        (
            in_no_wheel and not args.cleanrl and args.rounds,
            f"CleanRL's {algorithm.script} is in no wheel: --cleanrl CHECKOUT, or --skip cleanrl",
        ),
        (not shutil.which(args.peer_python), f"--peer-python {args.peer_python}: no such program"),
        (
            "rlarcade" not in args.skip and find_spec("rlarcade") is None,
            "rlarcade is not installed in this Python: pip install . first",
        ),
    )
    return next((message for wrong, message in checks if wrong), None)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read and check the command line; bad usage exits 2 with one line."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    sizes = {"rounds": 3, "steps": 2000, "large_steps": 4000}
    if args.quick:
        sizes = {"rounds": 1, "steps": 300, "large_steps": 512}
    for name, size in sizes.items():
        if getattr(args, name) is None:
            setattr(args, name, size)
    args.skip = {name for name in args.skip.split(",") if name}
    if message := complaint(args):
        parser.exit(2, f"bench_training: {message}\n")
    return args


def plan_runs(
    args: argparse.Namespace, peers: dict[str, Peer]
) -> dict[str, tuple[Callable[[Job, str], Result], Job]]:
    """One round: who runs, in which order, and what each is told."""
    starts, warmup = (300, 100) if args.quick else (1000, 200)
    precision = args.precision
    if precision == "auto":
        flags = cpu_facts(args.threads, None)["flags"]
        precision = "bf16" if flags["avx512_bf16"] or flags["amx_bf16"] else "fp32"
    same = Job(
        batch_size=32,
        train_freq=4,
        num_envs=args.num_envs,
        learning_starts=starts,
        warmup=warmup,
        steps=args.steps,
        buffer_size=args.buffer_size,
        threads=args.threads,
        precision=precision,
        algorithm=args.algorithm,
    )
    large = replace(same, batch_size=256, train_freq=32, num_envs=32, steps=args.large_steps)
    single = replace(same, num_envs=1)
    if args.algorithm == "pqn":  # whole rollouts of eight games, four epochs of four batches
        rollouts = -(-args.large_steps // ROLLOUT)
        sizes = {"num_envs": 8, "batch_size": 256, "train_freq": 64, "learning_starts": 0}
        same = replace(same, **sizes, warmup=2 * ROLLOUT, steps=rollouts * ROLLOUT)
        single = same

    def rlarcade(job: Job, _: str) -> Result:
        return run_worker("rlarcade", sys.executable, job)

    def cleanrl(job: Job, cwd: str) -> Result:
        return run_cleanrl(peers["cleanrl"], job, cwd)

    def sb3(job: Job, cwd: str) -> Result:
        return run_worker("sb3", peers["sb3"].python, job, cwd)

    order = {
        "same_schedule": (rlarcade, same),
        "cleanrl": (cleanrl, single),
        "large_batch": (rlarcade, large),
        "sb3": (sb3, single),
    }
    left_out = set(PEERS) - set(peers) | (set(SETTINGS) if "rlarcade" in args.skip else set())
    if args.algorithm != "dqn":
        left_out.add("large_batch")
    return {name: run for name, run in order.items() if name not in left_out}


def benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Make the environments, run the rounds, gather the report."""
    wanted = ALGORITHMS[args.algorithm].environments if args.rounds else {}
    peers = {peer: install(peer, args) for peer in wanted if peer not in args.skip}
    runs = plan_runs(args, peers)
    results: dict[str, list[Result]] = {name: [] for name in runs if args.rounds}
    for turn in range(1, args.rounds + 1):
        for name, (run, job) in runs.items():
            with tempfile.TemporaryDirectory() as cwd:
                result = run(replace(job, seed=turn), cwd)
            results[name].append(result)
            print(f"round {turn}/{args.rounds} {name:14}{result.speed:8.1f} steps/s", flush=True)
    versions = {name: peer.versions for name, peer in peers.items()}
    if "rlarcade" not in args.skip:
        versions["rlarcade"] = versions_of(sys.executable)
    workload = {name: asdict(job) for name, (_, job) in runs.items()}
    report = gather(args, results) | {"versions": versions, "workload": workload}
    if args.memory:
        report["memory"] = measure_memory(runs["same_schedule"][1], args.quick)
    return report


def measure_memory(job: Job, quick: bool) -> dict[str, Any]:
    """Fill a large replay to the brim, learn a little, and report rlarcade's peak memory."""
    size = 20_000 if quick else 1_000_000
    print(f"filling a replay of {size:,} ...", flush=True)
    job = replace(job, buffer_size=size, learning_starts=size)
    began = time.perf_counter()
    result = run_worker("rlarcade", sys.executable, job)
    return {
        "buffer_size": size,
        "peak_rss_gb": result.child.peak_rss_mb / 1000,
        "bar_gb": MEMORY_BAR_GB,
        "seconds": time.perf_counter() - began,
        "precision": result.details["precision"],
    }


def gather(args: argparse.Namespace, results: dict[str, list[Result]]) -> dict[str, Any]:
    """All figures of the rounds as one JSON document."""
    speeds = {name: [result.speed for result in found] for name, found in results.items()}
    rounds = compare(speeds)
    ours = {name: results[name] for name in SETTINGS if name in results}
    precision = next((found[-1].details["precision"] for found in ours.values()), None)
    machine = cpu_facts(args.threads, precision)
    others = {
        name: [result.child.other_cores for result in found] for name, found in results.items()
    }
    return {
        "algorithm": args.algorithm,
        "ratio": {
            setting: {peer: statistics.median(values) for peer, values in peers.items()}
            for setting, peers in rounds.items()
        },
        "ratio_per_round": rounds,
        "steps_per_second": {
            name: {"rounds": values, "median": statistics.median(values)}
            for name, values in speeds.items()
        },
        "shares": {
            name: {
                part: statistics.median(result.details["shares"][part] for result in found)
                for part in found[0].details["shares"]
            }
            for name, found in ours.items()
        },
        "machine": machine,
        "peak_rss_mb": {
            name: max(result.child.peak_rss_mb for result in found)
            for name, found in results.items()
        },
        "other_cores_busy": others,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "scripts/bench_training.py", *sys.argv[1:]]),
        "warnings": find_warnings(args.algorithm, speeds, machine, others),
    }


def main() -> int:
    """Run the benchmark, or be one of its workers; the exit status is returned."""
    if sys.argv[1:2] == ["--worker"]:  # --worker NAME JOB, how this script starts itself
        print(json.dumps(WORKERS[sys.argv[2]](Job(**json.loads(sys.argv[3])))))
        return 0
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that a running child is ended
    try:
        report = benchmark(args)
        print_report(report)
        if args.json:
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    except BenchError as error:
        print(f"bench_training: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
