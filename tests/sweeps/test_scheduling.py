"""Which run trains when, and what becomes of a run whose worker is lost; nothing really trains."""

import pytest

from rlarcade.config import RunSettings, Settings, TrainConfig
from rlarcade.console import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK
from rlarcade.errors import ConfigError
from rlarcade.sweeps import scheduling
from rlarcade.sweeps.file import SweepRun
from rlarcade.sweeps.scheduling import MOST_LOSSES, Scheduler


class Stop:
    requested = False


class Job:
    """Ends as its engine was told: an exit code, "lost" or an error."""

    def __init__(self, run, end):
        self.run, self.where, self.lost = run, "node-7", None
        self.end, self.stopped = end, False

    def poll(self):
        if callable(self.end):
            self.end = self.end()
        if isinstance(self.end, Exception):
            raise self.end
        if self.end == "lost":
            self.lost = "ActorDiedError"
            return EXIT_ERROR
        if self.end is None and self.stopped:
            return EXIT_INTERRUPTED
        return self.end

    def stop(self):
        self.stopped = True


class Clock:
    """A look at what runs takes a second."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, _):
        self.now += 1


class Engine:
    def __init__(self, ends):
        self.ends, self.started, self.closed = {k: list(v) for k, v in ends.items()}, [], False

    def described(self):
        return "2 at a time"

    def has_room(self, running):
        return running < 2

    def start(self, run):
        self.started.append(run.label)
        return Job(run, self.ends[run.label].pop(0))

    def close(self):
        self.closed = True


@pytest.fixture
def swept(tmp_path, monkeypatch, capfd):
    """Schedules runs with these ends; returns the scheduler, its engine and what was said."""
    monkeypatch.setattr(scheduling, "_POLL_SECONDS", 0)
    clock = Clock()
    monkeypatch.setattr(scheduling, "time", clock)

    def sweep(ends, stop=None):
        train = TrainConfig(game="pong")
        settings = Settings(preset="x", train=train, run=RunSettings())
        runs = [SweepRun(name, "x", tmp_path / name, {}, settings) for name in ends]
        scheduler = Scheduler(runs, Engine(ends), stop or Stop())
        scheduler.clock = clock
        try:
            scheduler.run_all()
        except ConfigError as error:
            scheduler.error = error
        return scheduler, scheduler.engine, capfd.readouterr().out

    return sweep


def test_a_run_whose_worker_is_lost_goes_on_before_those_that_wait(swept):
    scheduler, engine, out = swept({"a": ["lost", 0], "b": [0], "c": [0]})
    assert scheduler.exits == {"a": 0, "b": 0, "c": 0}
    assert engine.started == ["a", "b", "a", "c"]
    assert "a lost its worker on node-7 (ActorDiedError); it goes on later" in out
    assert engine.closed


def test_a_run_that_loses_every_worker_fails_and_the_others_go_on(swept):
    scheduler, engine, out = swept({"a": ["lost"] * MOST_LOSSES, "b": [0]})
    assert scheduler.exits == {"a": EXIT_ERROR, "b": EXIT_OK}
    assert engine.started.count("a") == MOST_LOSSES
    assert f"a lost {MOST_LOSSES} workers, one after the other, without a save" in out
    assert "too little memory" in out


def test_a_cluster_gets_time_to_notice_a_dead_node_before_a_run_begins_there_again(swept):
    ends = {"a": ["lost"] * (MOST_LOSSES - 1) + [0], "b": [0], "c": [0]}
    scheduler, engine, _ = swept(ends)
    assert scheduler.exits == dict.fromkeys("abc", EXIT_OK)
    assert engine.started == ["a", "b", "a", "c", "a", "a", "a"]
    assert 28 <= scheduler.clock.now <= 40


def test_a_run_that_saves_between_losses_goes_on_for_ever(swept, tmp_path):
    saved = []

    def lost():
        saved.append(1)
        state = tmp_path / "a" / "state" / f"step-{len(saved):012d}"
        state.mkdir(parents=True)
        return "lost"

    scheduler, _, _ = swept({"a": [lost] * (2 * MOST_LOSSES) + [0]})
    assert scheduler.exits == {"a": EXIT_OK}
    assert len(saved) == 2 * MOST_LOSSES


def test_an_engine_that_cannot_train_ends_the_sweep_and_the_others_save(swept):
    scheduler, engine, _ = swept(
        {"a": [ConfigError("node-7 has torch 1.0")], "b": [None], "c": [0]}
    )
    assert "torch 1.0" in str(scheduler.error)
    assert scheduler.exits == {"b": EXIT_INTERRUPTED}
    assert engine.started == ["a", "b"]
    assert engine.closed


def test_of_several_machines_that_cannot_train_the_first_is_told(swept):
    errors = [ConfigError("node-7 has torch 1.0"), ConfigError("node-8 has torch 2.0")]
    scheduler, engine, _ = swept({"a": errors[:1], "b": errors[1:], "c": [0]})
    assert "node-7" in str(scheduler.error)
    assert engine.closed
    assert scheduler.running == []


def test_a_worker_that_is_lost_while_the_sweep_stops_costs_no_new_one(swept):
    stop = Stop()

    def lost():
        stop.requested = True
        return "lost"

    scheduler, engine, out = swept({"a": [lost], "b": [None]}, stop)
    assert engine.started == ["a", "b"]
    assert scheduler.exits == {"a": EXIT_INTERRUPTED, "b": EXIT_INTERRUPTED}
    assert "a lost its worker" in out
    assert "goes on" not in out


def test_a_log_that_is_not_there_is_told(swept, tmp_path):
    _, _, out = swept({"a": [3]})
    assert "a ended with exit code 3" in out
    assert "No such file" in out
    assert (tmp_path / "a.settings.json").exists()
