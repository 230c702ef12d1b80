"""`[search]`: Optuna chooses the settings of every run, and stops runs whose score stays low.

The library is Optuna (Akiba et al. 2019, https://optuna.org), with its own storage: `search.db` in
the sweep's folder. A trial is an ordinary run folder beside it.

What is asked is a function of what the storage holds. For a new trial, a study in memory gets all
trials so far, and its sampler a seed that follows from the search's seed and the trial's number.
The trial it chooses is written to the storage at once, in one transaction. So a sweep that was
killed finds every trial whole or not at all, and asks for the same next one.

With several runs at a time, the trials that are known when a new one is chosen are those that have
finished by then: that depends on the machine's speed.
"""

import errno
import json
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from pydantic import create_model

from rlarcade.checked import reason, validated
from rlarcade.config import FIELDS, load_preset, make_settings
from rlarcade.config.run import WHOLE_NUMBERS, check_names
from rlarcade.config.values import SettingsGroup
from rlarcade.errors import ConfigError, RunFolderError
from rlarcade.files import open_own
from rlarcade.foreign import from_extra
from rlarcade.games.protocols import FRAMESKIP
from rlarcade.json_text import parse_json
from rlarcade.locks import try_lock
from rlarcade.runs.metrics_file import diverged_at, each_metric, newest_metrics
from rlarcade.sweeps.file import SweepFile, SweepRun, recorded, trial_run
from rlarcade.sweeps.plan import Plan
from rlarcade.sweeps.sections import Parameter, Search
from rlarcade.text import quoted
from rlarcade.toml_files import errors_of

_DATABASE, _LOCK = "search.db", "search.lock"
_STUDY = "search"
_SPECIFICATION = "specification"  # attributes in the storage
_ANSWER = "answer"
_ERROR = "error"
_DIVERGED = "diverged_at"
_LOOK_SECONDS = 0.5  # between looks at a run's figures
_REDUCTION = 4  # of successive halving: the best quarter goes on
_LEAST_FOR_IMPORTANCE = 4  # trials; of fewer, Optuna calls all parameters equal
_NOT_SEARCHED = {
    "game": "scores of different games cannot be compared",
    "protocol": "scores of different protocols cannot be compared",
    "seed": "the best seed is luck; [compare] asks for more seeds",
    "run_dir": "the sweep sets it itself",
    "resume": "the sweep sets it itself",
    "init_from": "the sweep sets it itself",
}


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _storing(
    method: Callable[Concatenate["Searching", _Arguments], _Result],
) -> Callable[Concatenate["Searching", _Arguments], _Result]:
    """Makes an error of the storage, such as a full disk, an OSError with its path."""

    @wraps(method)
    def call(self: "Searching", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except self.optuna.exceptions.StorageInternalError as error:
            raise OSError(
                errno.EIO, reason(error.__cause__ or error), str(self.database)
            ) from error

    return call


class Searching(Plan):
    """The search of a sweep: which trials there are, which comes next, and which is stopped."""

    name = "search"

    def __init__(self, file: SweepFile, folder: Path) -> None:
        """Checks the section.

        Args:
            file: the sweep; it has a `[search]` section.
            folder: folder of the runs' folders.

        Raises:
            ConfigError: Optuna is not installed, or a parameter cannot be searched.
        """
        assert file.search is not None
        self._file, self._folder, self.section = file, folder, file.search
        with from_extra("search", "[search] needs"):
            import optuna
            import optuna.importance

            if self.section.sampler == "cmaes":
                import cmaes  # noqa: F401 (Optuna imports it when it chooses)
        self.optuna: Any = optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _check_parameters(file, self.section)
        total = _plain(file, self.section).settings.train.schedule.total_timesteps
        self.interval = self.section.report_interval or max(1_000, -(-total // 10))
        self.database = folder / _DATABASE
        self._study: Any = None
        self._known: list[Any] | None = None
        self._looked: dict[str, float] = {}
        self._all_asked = False

    # The storage

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Opens the storage, and closes it at the end of the block.

        Raises:
            RunFolderError: another sweep works in the folder, the storage cannot be used, or it
                holds another search.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = open_own(self._folder / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            if not try_lock(lock):
                raise RunFolderError(
                    f"another sweep searches in {self._folder}. Wait for it, stop it, or choose "
                    "another --dir."
                )
            storage = self._open()
            try:
                yield
            finally:
                storage.engine.dispose()
        finally:
            os.close(lock)

    def _open(self) -> Any:
        path = self.database
        try:
            with suppress(FileNotFoundError):
                os.close(open_own(path, os.O_RDONLY))  # refuses a link
            # an address would give a meaning to characters such as ? in the folder's name
            creator = partial(sqlite3.connect, path, check_same_thread=False)
            storage = self.optuna.storages.RDBStorage(
                f"sqlite:///{_DATABASE}", engine_kwargs={"creator": creator}
            )
            self._study = self.optuna.create_study(
                storage=storage,
                study_name=_STUDY,
                direction="maximize",
                sampler=self.optuna.samplers.RandomSampler(seed=0),  # never asked
                pruner=self._pruner(),
                load_if_exists=True,
            )
            began = self._study.user_attrs.get(_SPECIFICATION)
        except Exception as error:  # SQLAlchemy and Optuna have many kinds of them
            raise RunFolderError(
                f"{path} cannot be used as the storage of a search: {reason(error)} Move it away, "
                "or choose another --dir."
            ) from error
        now = self._specification()
        if began is None and not self._study.trials:
            self._study.set_user_attr(_SPECIFICATION, now)
        elif began != now:
            # a setting that is newer than the search had its default value
            began = recorded(make_settings("", {"game": "pong"})) | (
                began if isinstance(began, dict) else {}
            )
            names = [name for name in now if began.get(name) != now[name]]
            changed = [f"{name} = {began.get(name)}, now {now[name]}" for name in names]
            if changed:
                raise RunFolderError(
                    f"the search in {self._folder} was begun with {'; '.join(changed)}. Only "
                    "trials may change. Put the sweep's file back as it was, or choose another "
                    "--dir."
                )
        return storage

    def _specification(self) -> dict[str, Any]:
        """Returns what must stay the same while a search goes on."""
        section = self.section.model_dump(mode="json", exclude={"trials"})
        section["report_interval"] = self.interval
        settings = recorded(_plain(self._file, self.section).settings)
        now = {name: v for name, v in settings.items() if name not in self.section.parameters}
        return now | {f"search.{name}": value for name, value in section.items()}

    def _pruner(self) -> Any:
        pruners = self.optuna.pruners
        if self.section.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=self.section.startup_trials)
        if self.section.pruner == "successive-halving":
            return pruners.SuccessiveHalvingPruner(self.interval, _REDUCTION)
        return pruners.NopPruner()

    # Trials

    @_storing
    def begin(self) -> list[SweepRun]:
        """Returns the runs of all trials so far, and asks for the first one if there is none.

        Raises:
            ConfigError: no trial has settings that go together.
        """
        self._known = None
        for trial in self._trials():
            if trial.state == self.optuna.trial.TrialState.RUNNING and _ANSWER in trial.user_attrs:
                self._follow(trial, trial.user_attrs[_ANSWER])
        runs = [self._run_of(one) for one in self._trials() if _ERROR not in one.user_attrs]
        runs = runs or self.more(running=0)
        if not runs:
            trials = self._trials()
            raise ConfigError(
                f"none of the {len(trials)} trials of the search in {self._folder} can be trained, "
                f"such as the last one: {trials[-1].user_attrs[_ERROR]} Change "
                "[search.parameters], and choose another --dir."
            )
        return runs

    @_storing
    def more(self, running: int) -> list[SweepRun]:
        """Chooses the settings of the next trial, unless there are as many as the file says."""
        del running
        if self._all_asked:
            return []
        while len(trials := self._trials()) < self.section.trials:
            memory = self.optuna.create_study(
                direction="maximize",
                sampler=self._sampler(len(trials)),
                pruner=self.optuna.pruners.NopPruner(),
            )
            memory.add_trials(trials)
            memory.ask(self._distributions())
            (chosen,) = memory.trials[len(trials) :]
            self._known = None
            try:
                run = self._run_of(chosen)
            except ConfigError as error:  # settings that do not go together
                chosen.set_user_attr(_ERROR, str(error))
                chosen.state = self.optuna.trial.TrialState.FAIL
                chosen.datetime_complete = chosen.datetime_start
                self._study.add_trial(chosen)
                continue
            self._study.add_trial(chosen)
            return [run]
        self._all_asked = True
        return []

    def is_finished(self) -> bool:
        """Whether there are as many trials as the file says."""
        return len(self._trials()) >= self.section.trials

    def _sampler(self, number: int) -> Any:
        samplers = self.optuna.samplers
        seed = int(np.random.SeedSequence((self.section.seed, number)).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some options are called experimental
            if self.section.sampler == "tpe":
                return samplers.TPESampler(seed=seed)
            if self.section.sampler == "cmaes":
                return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            return samplers.RandomSampler(seed=seed)

    def _distributions(self) -> dict[str, Any]:
        kinds = self.optuna.distributions
        found: dict[str, Any] = {}
        for name, one in self.section.parameters.items():
            if one.choices is not None:
                found[name] = kinds.CategoricalDistribution(tuple(map(json.dumps, one.choices)))
            elif name in WHOLE_NUMBERS:
                low, high = values_of(one, whole=True)
                found[name] = kinds.IntDistribution(low, high, log=one.log)
            else:
                found[name] = kinds.FloatDistribution(*values_of(one), log=one.log)
        return found

    def _run_of(self, trial: Any) -> SweepRun:
        return trial_run(self._file, self._folder, trial.number, self._chosen(trial))

    def _chosen(self, trial: Any) -> dict[str, Any]:
        """Returns a trial's parameters as settings."""
        return {
            name: parse_json(value) if self.section.parameters[name].choices is not None else value
            for name, value in trial.params.items()
        }

    def _trials(self) -> list[Any]:
        """Returns all trials. Reading them takes 10 ms, and only this process changes them."""
        if self._known is None:
            self._known = self._study.get_trials(deepcopy=False)
        return self._known

    def _trial(self, run: SweepRun) -> Any:
        return self._trials()[int(run.label.rpartition("-")[2])]

    # What becomes of them

    @_storing
    def is_done(self, run: SweepRun) -> bool:
        """Whether a run has finished or was stopped. Optuna is told a new result."""
        if run.result() is not None:
            self._finish(run)
        else:
            self._fail_if_diverged(run)
        return bool(self._trial(run).state.is_finished())

    @_storing
    def given_up_at(self, run: SweepRun) -> int | None:
        """Returns the agent step at which a run diverged, or None. Stores it in the study."""
        self._fail_if_diverged(run)
        step = self._trial(run).user_attrs.get(_DIVERGED)
        return None if step is None else int(step)

    def _fail_if_diverged(self, run: SweepRun) -> None:
        """Tells Optuna that a run has no score, and never will: the same steps diverge again."""
        if self._trial(run).state.is_finished():
            return
        with suppress(OSError):
            if (step := diverged_at(run.folder)) is not None:
                self._stored(self._trial(run)).set_user_attr(_DIVERGED, step)
                self._study.tell(self._trial(run).number, state=self.optuna.trial.TrialState.FAIL)
                self._known = None

    def _finish(self, run: SweepRun) -> None:
        """Tells Optuna the result of a run that has finished, unless it is stopped by the rule.

        A run may be faster than the looks at its figures. The rule sees all of them even so: what
        it stops must not depend on the machine's speed.
        """
        if self._trial(run).state.is_finished() or self._look(run, whole=True):
            return
        result = run.result()
        assert result is not None
        self._study.tell(self._trial(run).number, result["evaluation"]["mean"])
        self._known = None

    @_storing
    def stops(self, run: SweepRun) -> bool:
        """Whether the rule stops a running run now. Looks at its figures twice a second at most."""
        now = time.monotonic()
        if now - self._looked.get(run.label, -_LOOK_SECONDS) < _LOOK_SECONDS:
            return False
        self._looked[run.label] = now
        return not self._trial(run).state.is_finished() and self._look(run)

    @_storing
    def stopped_at(self, run: SweepRun) -> int | None:
        """Returns the agent step at whose score the rule has stopped a run, or None."""
        if run.result() is not None:
            self._finish(run)
        trial = self._trial(run)
        pruned = trial.state == self.optuna.trial.TrialState.PRUNED
        return int(trial.last_step) if pruned else None

    def _look(self, run: SweepRun, *, whole: bool = False) -> bool:
        """Asks the rule about each score that is new; returns whether it stops the run.

        Every score is asked about once, in order. The answer is stored before anything follows from
        it, so a sweep that is killed in between goes on with the same one.

        Args:
            run: the run.
            whole: its figures are complete.
        """
        trial = self._trial(run)
        after = trial.user_attrs.get(_ANSWER, {"step": 0})["step"]
        total = run.settings.train.schedule.total_timesteps
        due = range(after + self.interval, total, self.interval)
        if self.section.pruner == "none" or not due or not (whole or _reached(run) >= due[0]):
            return False
        for step, score in _scores_at(run, due):
            answer = self._answered(run, step, score)
            self._stored(trial).set_user_attr(_ANSWER, answer)
            if self._follow(trial, answer):
                return True
        return False

    def _answered(self, run: SweepRun, step: int, score: float | None) -> dict[str, Any]:
        """Returns the rule's answer to a score, and what the rule wants to remember of the trial.

        It is asked in a copy of the study: some rules write into it while they decide.
        """
        if score is None:
            return {"step": step, "score": None, "stop": False, "remember": {}}
        memory = self.optuna.create_study(direction="maximize", pruner=self._pruner())
        memory.add_trials(self._trials())
        number = self._trial(run).number
        asked = self.optuna.trial.Trial(memory, memory.trials[number]._trial_id)
        before = dict(memory.trials[number].system_attrs)
        asked.report(score, step)
        stop = bool(asked.should_prune())
        after = memory.trials[number].system_attrs
        remember = {name: value for name, value in after.items() if name not in before}
        return {"step": step, "score": score, "stop": stop, "remember": remember}

    def _follow(self, trial: Any, answer: dict[str, Any]) -> bool:
        """Stores what follows from an answer, unless it is there; returns whether the run stops."""
        self._known = None
        stored, now = self._stored(trial), self._trials()[trial.number]
        if answer["score"] is not None and answer["step"] not in now.intermediate_values:
            stored.report(answer["score"], answer["step"])
        for name, value in answer["remember"].items():
            if name not in now.system_attrs:
                self._study._storage.set_trial_system_attr(trial._trial_id, name, value)
        if answer["stop"]:
            self._study.tell(trial.number, state=self.optuna.trial.TrialState.PRUNED)
        self._known = None
        return bool(answer["stop"])

    def _stored(self, trial: Any) -> Any:
        """Returns a trial of the storage that can be written."""
        return self.optuna.trial.Trial(self._study, trial._trial_id)

    # What is known

    @_storing
    def document(self) -> dict[str, Any]:
        """Returns the search's part of the results file."""
        states = self.optuna.trial.TrialState
        words = {states.COMPLETE: "finished", states.PRUNED: "stopped", states.FAIL: "refused"}
        trials = [
            {
                "label": f"trial-{trial.number:04d}",
                "parameters": self._chosen(trial),
                "state": "diverged"
                if _DIVERGED in trial.user_attrs
                else words.get(trial.state, "not finished"),
                "score": trial.value if trial.state == states.COMPLETE else None,
                "stopped_at": trial.last_step if trial.state == states.PRUNED else None,
                "scores_in_training": {
                    str(step): value for step, value in sorted(trial.intermediate_values.items())
                },
                "diverged_at": trial.user_attrs.get(_DIVERGED),
                "error": trial.user_attrs.get(_ERROR),
            }
            for trial in self._trials()
        ]
        finished = [trial for trial in trials if trial["state"] == "finished"]
        section = self.section
        return {
            "trials": section.trials,
            "sampler": section.sampler,
            "pruner": section.pruner,
            "seed": section.seed,
            "report_interval": self.interval,
            "best": max(finished, key=lambda one: one["score"])["label"] if finished else None,
            "importance": self._importance(len(finished)),
            "results": trials,
        }

    def _importance(self, finished: int) -> dict[str, float] | None:
        """Returns each parameter's share of what decides the score; None with too few trials."""
        if finished < _LEAST_FOR_IMPORTANCE:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.optuna.importance.get_param_importances(self._study)
        return {name: float(share) for name, share in sorted(found.items(), key=_largest_first)}

    def lines(self, document: dict[str, Any]) -> list[str]:
        """Returns what a search has found, in words."""
        return _lines(document)


def _largest_first(item: tuple[str, float]) -> tuple[float, str]:
    return -item[1], item[0]


def _reached(run: SweepRun) -> int:
    """Returns the agent step of a run's newest regular figures."""
    with suppress(OSError):
        frames = newest_metrics(run.folder).get("time/frames", 0)
        return int(frames) // FRAMESKIP
    return 0


def _scores_at(run: SweepRun, steps: Sequence[int]) -> Iterator[tuple[int, float | None]]:
    """Yields the score in training at agent steps, as far as the run's figures go.

    It is that of the first regular figures at or after the step. They are written at fixed agent
    steps, so it does not depend on the machine's speed.

    Args:
        run: the run.
        steps: increasing.

    Yields:
        A step, and rollout/ep_rew_mean there; None if no game has ended yet.
    """
    left = [*steps]
    for figures in each_metric(run.folder, any_size=True):
        if "time/frames" not in figures:
            continue
        while left and figures["step"] >= left[0]:
            score = figures.get("rollout/ep_rew_mean")
            yield left.pop(0), float(score) if isinstance(score, int | float) else None
        if not left:
            return


# Words


def _lines(document: dict[str, Any]) -> list[str]:
    results = document["results"]
    counts = [
        f"{sum(one['state'] == state for one in results)} {state}"
        for state in ("finished", "stopped", "diverged", "refused", "not finished")
    ]
    lines = [
        f"search, {document['sampler']} with pruner {document['pruner']}: "
        f"{len(results)} of {document['trials']} trials: {', '.join(counts)}"
    ]
    for one in results:
        if one["state"] == "stopped":
            score = one["scores_in_training"][str(one["stopped_at"])]
            lines.append(
                f"  {one['label']} stopped at step {one['stopped_at']:,}, score {score:.1f}"
            )
        if one["state"] == "diverged":
            lines.append(f"  {one['label']} diverged at step {one['diverged_at']:,}")
        if one["state"] == "refused":
            lines.append(f"  {one['label']} refused: {one['error']}")
    for one in results:
        if one["label"] == document["best"]:
            chosen = ", ".join(f"{name} = {_shown(v)}" for name, v in one["parameters"].items())
            lines.append(f"best: {one['label']}, mean score {one['score']:.1f}, {chosen}")
    if document["importance"]:
        shares = [f"{name} {share:.0%}" for name, share in document["importance"].items()]
        lines.append(f"importance of the parameters (PED-ANOVA): {', '.join(shares)}")
    return lines


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


# Checks


def values_of(parameter: Parameter, *, whole: bool = False) -> tuple[Any, ...]:
    """Returns a parameter's choices, or its least and greatest value.

    Args:
        parameter: the parameter.
        whole: return whole numbers.
    """
    if parameter.choices is not None:
        return parameter.choices
    assert parameter.low is not None
    assert parameter.high is not None
    kind: Callable[[float], float] = int if whole else float
    return kind(parameter.low), kind(parameter.high)


def _check_parameters(file: SweepFile, section: Search) -> None:
    """Refuses parameters that cannot be searched, before anything is trained."""
    where = "[search.parameters]"
    check_names({name: 0 for name in section.parameters if name != "preset"}, where)
    for name, parameter in section.parameters.items():
        if name in _NOT_SEARCHED:
            raise ConfigError(f"{where} cannot have {name}: {_NOT_SEARCHED[name]}.")
        if name in file.settings:
            raise ConfigError(
                f"{name} is in both [settings] and {where}. Remove it from one of them."
            )
        if name in WHOLE_NUMBERS and parameter.choices is None:
            for value in values_of(parameter):
                if not value.is_integer():
                    raise ConfigError(
                        f"{name} in {where} must have whole numbers as low and high, not {value:g}."
                    )
        for value in values_of(parameter):
            if name == "preset":
                load_preset(str(value))
            else:
                _check_value(name, value, where)
    plain = _plain(file, section)
    in_steps = "total_timesteps" in plain.given or "total_timesteps" in section.parameters
    if section.pruner != "none" and plain.settings.run.minutes is not None and not in_steps:
        raise ConfigError(
            f"pruner {quoted(section.pruner)} compares scores at the same agent steps, and minutes "
            "mean another number of steps in each run. Set total_timesteps in [settings], or "
            'pruner = "none".'
        )


def _check_value(name: str, value: Any, where: str) -> None:
    """Refuses a value that the setting cannot have in any run."""
    field = FIELDS[name]
    fields: dict[str, Any] = {name: (field.annotation, field)}
    model = create_model("Value", __base__=SettingsGroup, **fields)
    with errors_of(where):
        validated(model, {name: value})


def _plain(file: SweepFile, section: Search) -> SweepRun:
    """Returns the run that the file means without the searched parameters."""
    preset = section.parameters.get("preset")
    chosen = {} if preset is None else {"preset": values_of(preset)[0]}
    return trial_run(file, Path(), 0, chosen)
