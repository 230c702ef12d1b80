"""A protocol is what its name says."""

import pytest

from rlarcade import (
    ConfigError,
    DQNAgent,
    Protocol,
    TrainConfig,
    TrainingState,
    evaluate_agent,
    get_protocol,
    make_env,
    train_agent,
)

GAMES_OF = "Atari"

PUBLISHED = {  # name: sticky, all 18 actions, most no-ops, frame cap, evaluation ε; by the papers
    "v5": (0.25, False, 0, 108_000, 0.01),
    "machado": (0.25, True, 0, 108_000, 0.01),
    "nature": (0.0, False, 30, 108_000, 0.05),
}
FIELDS = ("sticky", "full_action_space", "max_noops", "frame_cap", "evaluation_epsilon")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_name_means_the_published_values(name):
    found = get_protocol(name)
    assert tuple(getattr(found, field) for field in FIELDS) == PUBLISHED[name]
    assert str(found) == name


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    ("field", "value"),
    [("sticky", 0.1), ("max_noops", 7), ("frame_cap", 400), ("evaluation_epsilon", 0.5)],
)
def test_no_other_values_go_under_a_published_name(name, field, value):
    with pytest.raises(ConfigError, match=f"protocol {name} has {field} .*Use another name"):
        get_protocol(name).model_copy(update={field: value})
    other = get_protocol(name).model_copy(update={field: value, "name": "mine"})
    assert getattr(other, field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("sticky", value) for value in (2.0, -1, 1e308, float("nan"), float("inf"), -1e-9)),
        *(("evaluation_epsilon", value) for value in (5, -0.1, float("nan"))),
        *(("max_noops", value) for value in (-1, 256, 1_000_000)),
        *(("frame_cap", value) for value in (0, -4, 108_001)),
        *(("name", value) for value in ("", "a b", "x\x1b[31m", "-v5", "x" * 41, "a/b", "v5\n")),
    ],
)
def test_values_out_of_bounds_are_no_protocol(field, value):
    with pytest.raises(ConfigError, match=field):
        Protocol(**{"name": "mine", field: value})


def test_a_protocol_of_your_own_is_accepted_where_a_name_is_and_shown_with_what_differs():
    mine = Protocol(name="sticky10", sticky=0.1, max_noops=5)
    assert make_env("Pong", protocol=mine).protocol == mine
    assert str(mine) == "sticky10 (v5 but sticky 0.1, max_noops 5)"
    assert str(Protocol(name="same")) == "same (as v5)"
    assert Protocol.model_validate_json(mine.model_dump_json()) == mine


@pytest.mark.parametrize("name", ["v4", "", None, 5])
def test_an_unknown_name_is_told_which_there_are_and_how_to_make_one(name):
    with pytest.raises(ConfigError, match=r"Choose one of v5, machado, nature, or make one: Pro"):
        get_protocol(name)


def test_a_run_and_its_checkpoints_may_have_a_protocol_of_your_own(tmp_path):
    mine = Protocol(name="sticky10", sticky=0.1, frame_cap=400)
    config = TrainConfig(
        game="Pong",
        protocol=mine,
        total_timesteps=40,
        num_envs=2,
        learning_starts=20,
        buffer_size=40,
        batch_size=4,
        conv_channels=(2, 2, 2),
        hidden_units=4,
        device="cpu",
        torch_threads=1,
    )
    state = TrainingState.create(config)
    for _ in train_agent(state):
        pass
    state.agent.save(tmp_path / "agent", steps=state.steps)
    loaded = DQNAgent.load(tmp_path / "agent")
    assert loaded.protocol == mine == loaded.manifest.protocol
    assert TrainConfig.model_validate(loaded.manifest.config).protocol == mine
    assert evaluate_agent(loaded, episodes=1).protocol == mine
    with pytest.raises(ConfigError, match="protocol v5 has sticky 0.25, not 0.5"):
        TrainConfig(game="Pong", protocol={"name": "v5", "sticky": 0.5})


def test_a_preset_with_a_protocol_of_its_own_is_for_code(command, tmp_path):
    (tmp_path / "mine.toml").write_text('protocol = {name = "sticky10", sticky = 0.1}\n')
    code, _, err = command("train", "--game", "Pong", "--preset", tmp_path / "mine.toml")
    assert code == 2
    assert "has its own protocol, but commands only use v5, machado, nature" in err
