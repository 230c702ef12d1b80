import json
import os
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from rlarcade.config import (
    FIELDS,
    ExplorationSettings,
    MemorySettings,
    NetworkSettings,
    OptimizerSettings,
    RunSettings,
    TrainConfig,
    described_preset,
    load_preset,
    make_settings,
    preset_names,
)
from rlarcade.config.values import MOST_GAMES
from rlarcade.errors import ConfigError


def settings(**values):
    return make_settings("dqn", {"game": "Pong", **values})


PRESETS = (
    "btr",
    "double-dqn",
    "dqn",
    "fast",
    "impala-iqn",
    "impala-pqn",
    "iqn",
    "laptop",
    "munchausen-iqn",
    "pqn",
    "qrdqn",
    "quick",
    "rainbow",
)


def test_the_presets_that_the_documentation_names_are_there():
    assert preset_names() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_loads_and_says_what_it_sets(name):
    loaded, values = load_preset(name)
    assert loaded == name
    config = settings(**values)
    for key, value in values.items():
        of_train = key in TrainConfig.setting_names
        found = config.train[key] if of_train else getattr(config.run, key)
        assert (list(found) if isinstance(found, tuple) else found) == value, key


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_sets_what_its_composition_does_not_use(name):
    _, values = load_preset(name)
    assert not set(values) & set(settings(**values).train.unused())


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_preset_begins_with_a_comment_that_names_its_source(name):
    text = (Path(__file__).parent.parent / "configs" / f"{name}.toml").read_text()
    lines = text.splitlines()
    first = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comment = "\n".join(lines[:first])
    if name == "quick":  # the library's own
        assert "demonstration" in comment
    else:
        assert "https://" in comment


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        # Hessel et al. (2018): all six extensions of DQN
        ("rainbow", {"head": "categorical", "n_steps": 3} | dict.fromkeys(
            ("double", "dueling", "noisy", "prioritized"), True)),
        ("double-dqn", {"double": True, "head": "expected", "prioritized": False}),
        ("qrdqn", {"head": "quantile", "num_quantiles": 200, "prioritized": True}),
        ("iqn", {"head": "implicit", "n_steps": 3, "munchausen": False}),
        ("munchausen-iqn", {"head": "implicit", "munchausen": True, "n_steps": 1}),
        ("btr", {"torso": "impala", "impala_width": 2, "spectral_norm": True, "head": "implicit",
                 "munchausen": True, "noisy": True, "prioritized": True, "n_steps": 3}),
        ("pqn", {"memory": "none", "num_envs": 128, "rollout_steps": 32, "optimizer": "radam"}),
        ("impala-iqn", {"torso": "impala", "impala_width": 1, "head": "implicit", "n_steps": 3}),
        ("impala-pqn", {"torso": "impala", "impala_width": 1, "memory": "none", "norm": "channel"}),
    ],
)  # fmt: skip
def test_a_preset_is_made_of_the_parts_of_its_paper(name, parts):
    config = settings(**load_preset(name)[1]).train
    assert {part: config[part] for part in parts} == parts


def test_a_preset_may_be_any_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("batch_size = 64\n")
    assert load_preset(str(path)) == ("mine", {"batch_size": 64})


def test_a_preset_may_add_to_another(tmp_path):
    mine, other = tmp_path / "mine.toml", tmp_path / "sub" / "other.toml"
    other.parent.mkdir()
    mine.write_text('preset = "laptop"\nbatch_size = 128\n')
    laptop = load_preset("laptop")[1]
    assert load_preset(str(mine)) == ("mine", laptop | {"batch_size": 128})
    assert described_preset(str(mine)) == "1 setting of its own, the rest as in laptop"
    # a path is relative to the file that names it; a length in steps replaces one in minutes
    other.write_text('preset = "../mine.toml"\nn_steps = 5\ntotal_timesteps = 1e6\n')
    without = {name: value for name, value in laptop.items() if name != "minutes"}
    expected = without | {"batch_size": 128, "n_steps": 5, "total_timesteps": 1_000_000}
    assert load_preset(str(other)) == ("other", expected)
    assert TrainConfig.from_preset(str(other), game="Pong").schedule.batch_size == 128


def test_a_preset_without_another_has_the_defaults_and_says_so(tmp_path):
    (tmp_path / "mine.toml").write_text("batch_size = 64\nseed = 3\n")
    said = described_preset(str(tmp_path / "mine.toml"))
    assert said == "2 settings of its own, the rest are the defaults"
    assert described_preset("laptop") == ""


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('"mine.toml"', "cannot be based on itself: .*mine.toml' on .*mine.toml'"),
        ('"lap-top"', "unknown preset 'lap-top'. Did you mean 'laptop'"),
        ('"no.toml"', r"cannot read preset .*no\.toml: No such file"),
        ("3", r"preset in .*mine\.toml must be the name of a preset or the path of a .*, not 3"),
    ],
)
def test_a_preset_that_adds_to_nothing_that_exists_is_refused(tmp_path, base, message):
    (tmp_path / "mine.toml").write_text(f"preset = {base}\n")
    with pytest.raises(ConfigError, match=message):
        load_preset(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "batchsize = 64",
            r"unknown setting 'batchsize' in .*mine\.toml\. Did you mean 'batch_size'",
        ),
        ("zzzzzz = 1", r"unknown setting 'zzzzzz' in .*mine\.toml\."),
        ("batch_size = ", r"mine\.toml is not valid TOML: Invalid value"),
        ("lr = 3", r"unknown setting 'lr' in .*mine\.toml\. Did you mean 'learning_rate'"),
        ("x = " + "[" * 20_000, r"preset .*mine\.toml is nested too deeply"),
        ("seed = " + "9" * 5_000, r"cannot read preset .*mine\.toml: Exceeds the limit \(4300 dig"),
    ],
)
def test_a_broken_preset_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_preset(str(path))


def test_a_preset_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="unknown preset 'duble-dqn'. Did you mean 'double-dqn'"):
        load_preset("duble-dqn")
    with pytest.raises(ConfigError, match=r"cannot read preset no/such\.toml: No such file"):
        load_preset("no/such.toml")


@pytest.mark.parametrize("kind", ["fifo", "folder", "sparse"])
def test_what_is_no_preset_file_is_neither_waited_for_nor_read(tmp_path, kind):
    path = tmp_path / "mine.toml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(60_000_000_000)
    with pytest.raises(ConfigError, match=r"cannot read preset .*mine\.toml: it (is|has) "):
        load_preset(str(path))


def test_a_preset_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read preset"):
        load_preset(str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": -1}, "'batch_size' must be at least 1, not -1"),
        ({"batch_size": "many"}, "'batch_size' must be a whole number, not 'many'"),
        ({"batch_size": 1.5}, "'batch_size' must be a whole number, not 1.5"),
        ({"gamma": 1.5}, "'gamma' must be at most 1, not 1.5"),
        ({"learning_rate": -1.0}, "'learning_rate' must be at least 0, not -1.0"),
        ({"learning_rate": float("nan")}, "'learning_rate' must be a finite number, not nan"),
        ({"protocol": "v4"}, "'protocol' must be 'v5', 'machado' or 'nature', not 'v4'"),
        ({"conv_channels": [1, 2]}, "'conv_channels.2' is missing"),
        ({"num_envs": 0}, "'num_envs' must be at least 1, not 0"),
        ({"resume": "maybe"}, "'resume' must be 'auto' or 'never', not 'maybe'"),
        (
            {"learning_starts": 30_000, "buffer_size": 20_000},
            r"learning_starts \(30,000\) exceeds buffer_size \(20,000\).*Lower learning_starts",
        ),
        (
            {"buffer_size": 50, "learning_starts": 10, "num_envs": 16},
            r"buffer_size \(50\) is too small for num_envs \(16\).*at least 96",
        ),
        (
            {"learning_rate": 0.1, "learning_rate_final": 0.2},
            r"learning_rate_final \(0.2\) exceeds learning_rate \(0.1\)",
        ),
        (
            {"n_steps": 3, "n_steps_final": 10},
            r"n_steps_final \(10\) exceeds n_steps \(3\)",
        ),
        (
            {"exploration_initial_eps": 0.1, "exploration_final_eps": 0.5},
            r"exploration_final_eps \(0.5\) exceeds exploration_initial_eps \(0.1\)",
        ),
        ({"bach_size": 3}, "unknown setting 'bach_size'.*Did you mean 'batch_size'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_value(values, message):
    with pytest.raises(ConfigError, match=message):
        settings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"game": "pong", "lr": 1}, "unknown setting 'lr'. Did you mean 'learning_rate'?"),
        (
            {"game": "pong", "bach_size": 1},
            "unknown setting 'bach_size'. Did you mean 'batch_size'",
        ),
        ({"game": "pong", "zzz": 1}, "unknown setting 'zzz'."),
        ({}, "'game' is missing."),
        ({"game": "pong", "gamma": 2}, "'gamma' must be at most 1, not 2."),
        ({"game": "pong", "munchausen": True, "double": True}, "munchausen and double do not go"),
        ({"game": "pong", "device": "cuda:0"}, "Use CUDA_VISIBLE_DEVICES=0 and device cuda."),
        (
            {"game": "pong", "device": "gpu"},
            "rlarcade uses the first GPU that it sees. Use device",
        ),
        (
            {"game": "pong", "seed": "9" * 5_000},
            "'seed' must be a whole number of fewer digits, not '999",
        ),
    ],
)
def test_settings_made_in_python_are_refused_in_the_same_words(values, message):
    with pytest.raises(ConfigError) as refused:
        TrainConfig(**values)
    said = str(refused.value)
    assert message in said
    assert "validation error" not in said
    assert "pydantic" not in said
    assert len(said) < 400
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        *(("num_taus", 512), ("num_quantiles", 10_000), ("num_atoms", 10_000)),
        *(("batch_size", 10**6), ("hidden_units", 65_536), ("impala_width", 256)),
        *(("n_steps", 1_000), ("rollout_steps", 10**6), ("num_envs", 1_024)),
        ("eval_episodes", MOST_GAMES),
    ],
)
def test_what_sizes_memory_has_an_end(name, largest):
    small = {"buffer_size": None, "learning_starts": 1}
    settings(**small | {name: largest})
    with pytest.raises(ConfigError, match=f"^'{name}' must be at most {largest}, not "):
        settings(**{name: 2 * 10**8})
    with pytest.raises(ConfigError, match="^'conv_channels.1' must be at most 65536, not 1"):
        settings(conv_channels=[32, 10**9, 64])


def test_a_run_lasts_ten_years_at_most(command, tmp_path):
    assert settings(minutes=5_256_000).run.minutes == 5_256_000
    flags = ["--game", "Pong", "--run-dir", tmp_path / "run"]
    code, out, err = command("train", *flags, "--minutes", "1e308")
    assert (code, out) == (2, "")
    assert "minutes must be at most 5,256,000, which is ten years, not 1e+308. Lower it" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "whole"),
    [(1e6, 10**6), ("1e6", 10**6), ("2.5e3", 2_500), ("1E+2", 100), ("600", 600), (7e2, 700)],
)
def test_a_whole_number_may_be_written_with_an_exponent(value, whole):
    for name in ("total_timesteps", "buffer_size", "learning_starts"):
        others = {"learning_starts": 0, "buffer_size": 10**6, name: value}
        assert getattr(settings(**others).train, name) == whole
    assert type(settings(total_timesteps=value).train.total_timesteps) is int
    assert settings(conv_channels=["1e1", 1e1, 10]).train.conv_channels == (10, 10, 10)


@pytest.mark.parametrize("value", [1.5, "1.5", "1e6.5", "1.5e0", "1e-3", "1e400", "e6", "1e6 "])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ConfigError, match="^'total_timesteps' must be a whole number, not "):
        settings(total_timesteps=value)


# Compositions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"munchausen": True, "double": True},
            "munchausen and double do not go together: .*no action is picked.* Choose one",
        ),
        *(
            (
                {"munchausen": True, "head": head},
                f"munchausen does not go with the {head} head: .*atoms. Use head implicit",
            )
            for head in ("categorical", "gauss")
        ),
        (
            {"memory": "none", "prioritized": True},
            "memory none does not go with prioritized = true: there is no replay.* Use "
            "prioritized = false, or memory replay",
        ),
        (
            {"memory": "none", "double": True},
            "memory none does not go with double = true: there is no target network",
        ),
        (
            {"memory": "none", "acting_network": "target"},
            "memory none does not go with acting_network = target: there is no target network",
        ),
        (
            {"memory": "none", "munchausen": True},
            "memory none does not go with munchausen = true: there is no target network",
        ),
        *(
            (
                {"memory": "none", "head": head},
                f"memory none does not go with head = {head}: .*expected returns.*head = expected",
            )
            for head in ("categorical", "gauss", "quantile", "implicit")
        ),
        (
            {"memory": "none", "num_envs": 4, "rollout_steps": 8, "batch_size": 33},
            r"batch_size \(33\) exceeds the rollout: num_envs × rollout_steps = 32 .*Lower batch_s",
        ),
        (
            {"head": "categorical", "value_min": 1.0, "value_max": 1.0},
            r"value_min \(1\) is not below value_max \(1\)",
        ),
        ({"value_min": 3.0, "value_max": -3.0}, r"value_min \(3\) is not below value_max \(-3\)"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_with_the_reason(values, message):
    with pytest.raises(ConfigError, match=message):
        settings(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"munchausen": True, "head": head, "dueling": True, "noisy": True, "prioritized": True}
        for head in ("expected", "quantile", "implicit")
    ]
    + [
        {"double": True, "head": head, "torso": "impala", "spectral_norm": True, "n_steps": 5}
        for head in ("expected", "categorical", "gauss", "quantile", "implicit")
    ]
    + [
        {"memory": "none", "num_envs": 4, "rollout_steps": 8, "batch_size": 32, "noisy": True},
        # what memory none does not look at cannot be in its way
        {"memory": "none", "learning_starts": 500, "buffer_size": 1, "torso": "impala"},
    ],
    ids=str,
)
def test_all_other_parts_go_together(values):
    config = settings(**values).train
    assert {name: config[name] for name in values} == values


IMPALA = {"impala_width", "spectral_norm", "pool_size"}
ATOMS = {"num_atoms", "value_min", "value_max"}
REPLAY = {
    "learning_starts",
    "train_freq",
    "gradient_steps",
    "buffer_size",
    "target_update_interval",
    "target_tau",
    "n_steps",
    "n_steps_final",
}
ROLLOUTS = {"rollout_steps", "num_epochs", "q_lambda"}
PRIORITIES = {
    "priority_exponent",
    "importance_exponent",
    "importance_final_exponent",
    "importance_steps",
}
MUNCHAUSEN = {"munchausen_alpha", "munchausen_tau", "munchausen_clip", "munchausen_policy"}


@pytest.mark.parametrize(
    ("preset", "unused"),
    [
        (
            "dqn",
            IMPALA | ATOMS | ROLLOUTS | PRIORITIES | MUNCHAUSEN
            | {"num_quantiles", "num_taus", "noisy_sigma"},
        ),
        ("rainbow", IMPALA | ROLLOUTS | MUNCHAUSEN | {"num_quantiles", "num_taus", "loss"}),
        ("qrdqn", IMPALA | ATOMS | ROLLOUTS | MUNCHAUSEN | {"num_taus", "noisy_sigma", "loss"}),
        (
            "munchausen-iqn",
            IMPALA | ATOMS | ROLLOUTS | PRIORITIES | {"num_quantiles", "noisy_sigma", "loss"},
        ),
        ("btr", ATOMS | ROLLOUTS | {"conv_channels", "first_kernel", "num_quantiles", "loss"}),
        (
            "pqn",
            IMPALA | ATOMS | REPLAY | PRIORITIES | MUNCHAUSEN
            | {"num_quantiles", "num_taus", "noisy_sigma"},
        ),
    ],
)  # fmt: skip
def test_settings_that_a_composition_does_not_look_at_are_listed(preset, unused):
    found = settings(**load_preset(preset)[1]).train.unused()
    constant = {"learning_rate_steps", "n_steps_duration"}
    assert set(found) == unused | constant, "their rates and returns do not change"
    assert len(found) == len(set(found))


def test_every_setting_is_used_by_some_composition():
    falling = settings(learning_rate_final=0.0, n_steps_final=1)
    never = set(TrainConfig.setting_names) & set(falling.train.unused())
    for name in PRESETS:
        never &= set(settings(**load_preset(name)[1]).train.unused())
    assert not never


def test_a_run_without_a_game_is_refused():
    with pytest.raises(ConfigError, match="no game was named. Add --game"):
        make_settings("dqn", {})


def test_settings_cannot_be_changed_after_they_were_made():
    with pytest.raises(ValueError, match="^'batch_size' cannot be changed afterwards"):
        settings().train.batch_size = 3


@pytest.mark.parametrize(("said", "meant"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_runs_of_the_first_versions_said_compile_true_or_false(said, meant):
    assert settings(compile=said).train.compile == meant


def test_replay_ratio_is_sampled_transitions_per_agent_step():
    config = TrainConfig(game="Pong", batch_size=32, train_freq=4, gradient_steps=2)
    assert config.replay_ratio == 16


@pytest.mark.parametrize(
    ("values", "ratio"),
    [
        ({"num_envs": 8, "rollout_steps": 16, "num_epochs": 2, "batch_size": 32}, 2),
        # 100 transitions are three batches of 32; four stay out
        ({"num_envs": 10, "rollout_steps": 10, "num_epochs": 1, "batch_size": 32}, 0.96),
        ({"num_envs": 1, "rollout_steps": 5, "num_epochs": 3, "batch_size": 5}, 3),
    ],
)
def test_the_replay_ratio_of_rollouts_counts_the_transitions_of_whole_batches(values, ratio):
    assert TrainConfig(game="Pong", memory="none", **values).replay_ratio == pytest.approx(ratio)


PARTS = ("schedule", "network", "target", "memory", "optimizer", "exploration", "machine")


def test_a_configuration_is_composed_of_parts_and_written_without_them():
    config = TrainConfig(game="Pong", learning_rate=1e-3, memory="none", exploration_final_eps=0.1)
    assert config.optimizer == OptimizerSettings(learning_rate=1e-3)
    assert config.memory == MemorySettings(kind="none")
    assert config.exploration.final_eps == config["exploration_final_eps"] == 0.1
    written = config.model_dump(mode="json")
    assert written["memory"] == "none"
    assert written["exploration_final_eps"] == 0.1
    assert set(written) == set(TrainConfig.setting_names)
    assert not {"network", "target", "schedule", "exploration", "machine"} & set(written)
    assert TrainConfig.model_validate(written) == config
    assert TrainConfig.model_validate_json(json.dumps(written)) == config
    assert config.flat() | {"conv_channels": [32, 64, 64]} == written


def test_every_setting_belongs_to_one_part_only():
    names = [name for part in PARTS for name in getattr(TrainConfig(game="Pong"), part).flat()]
    assert len(names) == len(set(names))
    assert {*names, "game", "protocol", "seed"} == set(TrainConfig.setting_names)


def test_whole_parts_and_single_settings_may_be_given_together():
    config = TrainConfig(
        game="Pong",
        network=NetworkSettings(head="quantile", hidden_units=64),
        exploration={"exploration_final_eps": 0.2},
        num_quantiles=21,
        optimizer="radam",
    )
    assert (config.network.head, config.network.num_quantiles) == ("quantile", 21)
    assert (config.exploration.final_eps, config.optimizer.kind) == (0.2, "radam")
    assert config.given == {
        *("game", "head", "hidden_units", "num_quantiles", "exploration_final_eps", "optimizer"),
        *set(NetworkSettings.attributes()),  # a part that was given counts as a whole
    }
    assert ExplorationSettings(initial_eps=0.5, final_eps=0.5).initial_eps == 0.5


def test_a_copy_changes_settings_by_their_names_and_leaves_the_original():
    config = TrainConfig(game="Pong")
    changed = config.model_copy(
        update={"seed": 3, "learning_rate": 2.0, "adam_eps": 0.5, "memory": "none"}
    )
    assert (changed.seed, changed.optimizer.learning_rate, changed["adam_eps"]) == (3, 2.0, 0.5)
    assert changed.memory.kind == "none"
    assert config == TrainConfig(game="Pong")
    same = config.model_copy(update={"network": NetworkSettings(head="quantile")})
    assert same["head"] == "quantile"


def test_a_setting_is_read_by_its_name_and_an_unknown_one_is_told():
    config = TrainConfig(game="Pong")
    assert {name: config[name] for name in config.setting_names} == config.flat()
    assert config.learning_rate == config["learning_rate"]
    for unknown in ("lr", "initial_eps", "network"):
        with pytest.raises(KeyError, match=unknown):
            config[unknown]
    with pytest.raises(AttributeError, match="no_such_setting"):
        _ = config.no_such_setting


@pytest.mark.parametrize("part", PARTS)
def test_a_part_refuses_what_it_does_not_know(part):
    with pytest.raises(ConfigError, match="unknown setting"):
        TrainConfig(game="Pong", **{part: {"no_such": 1}})


def test_a_preset_is_a_configuration():
    config = TrainConfig.from_preset("quick", game="Pong", seed=7)
    values = load_preset("quick")[1]
    del values["save_interval"]
    assert config == TrainConfig(game="Pong", seed=7, **values)
    assert TrainConfig.from_preset("quick", game="Pong", n_steps=1).target.n_steps == 1
    shared = TrainConfig.from_preset("laptop", game="Pong", exploration_fraction=0.5).exploration
    assert (shared.fraction, shared.steps) == (0.5, None), "the preset's steps would hide it"
    with pytest.raises(ConfigError, match="unknown setting 'lr'. Did you mean 'learning_rate'"):
        TrainConfig.from_preset("quick", game="Pong", lr=1)
    with pytest.raises(ConfigError, match="'game' is missing"):
        TrainConfig.from_preset("quick")


def test_every_setting_has_a_help_text():
    assert {*TrainConfig.setting_names, *RunSettings.model_fields} == set(FIELDS)
    for name, field in FIELDS.items():
        assert field.description, name


def test_the_packaging_files_agree_on_what_is_installed():
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *chain(*extras.values())):
        name = requirement.split(">")[0].split("=")[0].split("[")[0].lower()
        assert name in pinned | {"rlarcade"}, f"constraints.txt does not pin {name}"
