import tomllib

import pytest

from rlarcade.config import (
    RunSettings,
    TrainConfig,
    load_preset,
    make_settings,
    preset_names,
)
from rlarcade.errors import ConfigError


def settings(**values):
    return make_settings("dqn", {"game": "Pong", **values})


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_and_only_departs_from_defaults(name):
    loaded, values = load_preset(name)
    assert loaded == name
    config = settings(**values)
    for key, value in values.items():
        group = TrainConfig if key in TrainConfig.model_fields else RunSettings
        default = group.model_fields[key].default
        assert getattr(config.train if group is TrainConfig else config.run, key) != default, (
            f"{name}: {key} = {value} is the default already"
        )


def test_the_presets_that_the_documentation_names_are_there():
    assert {"dqn", "double-dqn", "quick"} <= set(preset_names())


def test_a_preset_may_be_any_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("batch_size = 64\n")
    assert load_preset(str(path)) == ("mine", {"batch_size": 64})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "batchsize = 64",
            r"unknown setting 'batchsize' in .*mine\.toml\. Did you mean 'batch_size'",
        ),
        ("zzzzzz = 1", r"unknown setting 'zzzzzz' in .*mine\.toml\."),
        ("batch_size = ", r"mine\.toml is not valid TOML: Invalid value"),
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


def test_a_preset_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read preset"):
        load_preset(str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"batch_size": -1},
            "setting batch_size: input should be greater than or equal to 1, got -1",
        ),
        ({"batch_size": "many"}, "setting batch_size: .*valid integer.* got 'many'"),
        ({"batch_size": 1.5}, "setting batch_size: .*integer.* got 1.5"),
        ({"gamma": 1.5}, "setting gamma: .*less than or equal to 1, got 1.5"),
        ({"learning_rate": -1.0}, "setting learning_rate: .*greater than or equal to 0, got -1.0"),
        ({"learning_rate": float("nan")}, "setting learning_rate: .*finite number"),
        ({"protocol": "v4"}, "setting protocol: .*'v5', 'machado' or 'nature', got 'v4'"),
        ({"conv_channels": [1, 2]}, "setting conv_channels.2: field required"),
        ({"num_envs": 0}, "setting num_envs: .*greater than or equal to 1, got 0"),
        ({"resume": "maybe"}, "setting resume: .*'auto' or 'never', got 'maybe'"),
        (
            {"learning_starts": 30_000, "buffer_size": 20_000},
            r"learning_starts \(30,000\) exceeds buffer_size \(20,000\).*Lower learning_starts",
        ),
        (
            {"buffer_size": 50, "learning_starts": 10, "num_envs": 16},
            r"buffer_size \(50\) is too small for num_envs \(16\).*at least 96",
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


def test_a_run_without_a_game_is_refused():
    with pytest.raises(ConfigError, match="no game was named. Add --game"):
        make_settings("dqn", {})


def test_settings_cannot_be_changed_after_they_were_made():
    with pytest.raises(ValueError, match="frozen"):
        settings().train.batch_size = 3


def test_replay_ratio_is_sampled_transitions_per_agent_step():
    config = TrainConfig(game="Pong", batch_size=32, train_freq=4, gradient_steps=2)
    assert config.replay_ratio == 16


def test_every_setting_has_a_help_text():
    for group in (TrainConfig, RunSettings):
        for name, field in group.model_fields.items():
            assert field.description or name == "preset", name


def test_the_packaging_files_agree_on_what_is_installed():
    from pathlib import Path

    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in wanted:
        name = requirement.split(">")[0].split("=")[0].split("[")[0].lower()
        assert name in pinned, f"constraints.txt does not pin {name}"
