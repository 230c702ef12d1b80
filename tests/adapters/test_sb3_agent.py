"""Models that Stable-Baselines3 trained and saved act in rlarcade as they act there."""

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.atari_wrappers import AtariWrapper, MaxAndSkipEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage
from tiers import quick
from wrapped_games import RIGID, SEED, played_here, raw_game

import rlarcade.games  # registers the ids  # noqa: F401
from rlarcade import ConfigError, Player, evaluate_agent
from rlarcade.playing.named import named_players

GAMES_OF = "Atari"


def wrapped(recorder=None, **wrapper):
    """One game in SB3's own wrappers."""
    game = raw_game() if recorder is None else recorder
    envs = DummyVecEnv([lambda: AtariWrapper(game, **wrapper)])
    envs.seed(SEED)
    return VecTransposeImage(VecFrameStack(envs, 4))


def qrdqn():
    from sb3_contrib import QRDQN

    return QRDQN


SMALL = {"buffer_size": 100, "learning_starts": 16, "batch_size": 8, "train_freq": 4}
ROLLOUT = {"n_steps": 16}
ALGORITHMS = {
    "DQN": (lambda: DQN, SMALL),
    "QR-DQN": (qrdqn, SMALL | {"policy_kwargs": {"n_quantiles": 5}}),
    "PPO": (lambda: PPO, ROLLOUT | {"batch_size": 8, "n_epochs": 1}),
    "A2C": (lambda: A2C, ROLLOUT),
}


def trained(name, path, envs=None, **settings):
    """Trains a model for a moment, and saves it."""
    algorithm, usual = ALGORITHMS[name]
    envs = wrapped() if envs is None else envs
    model = algorithm()("CnnPolicy", envs, seed=0, device="cpu", **(usual | settings))
    model.learn(32)
    model.save(path)
    return model


@pytest.fixture(scope="module")
def zips(tmp_path_factory):
    """Makes each model once: (path, model) by the name of its algorithm."""
    made, folder = {}, tmp_path_factory.mktemp("zips")

    def get(name):
        if name not in made:
            path = folder / f"{name}.zip"
            made[name] = path, trained(name, path)
        return made[name]

    return get


def played_there(model, recorder, envs, steps):
    """Plays in SB3; returns the action of each step of four frames, and what the model saw."""
    observation, seen = envs.reset(), []
    while len(recorder.actions) < 4 * steps and recorder.games == 1:
        seen.append(observation[0])
        action, _ = model.predict(observation, deterministic=True)
        observation, *_ = envs.step(action)
    return recorder.actions[::4], seen


@pytest.mark.parametrize("name", quick([*ALGORITHMS], ["DQN", "PPO"]))
def test_a_zip_sees_and_does_what_it_sees_and_does_in_sb3s_own_wrappers(zips, name):
    import sb3_agent

    path, model = zips(name)
    actions, seen = played_here(sb3_agent.make("breakout", path))
    recorder = raw_game()
    envs = wrapped(recorder, noop_max=0)
    there, seen_there = played_there(model, recorder, envs, len(actions))
    assert actions == there[: len(actions)]
    assert len(seen) > 100
    for one, other in zip(seen, seen_there, strict=False):
        np.testing.assert_array_equal(one, other)
    assert actions.count(1) >= 2, "FIRE was pressed, at the beginning and after a lost life"


def test_a_model_of_colour_screens_sees_them(tmp_path):
    import sb3_agent

    def colour(recorder):
        envs = DummyVecEnv([lambda: MaxAndSkipEnv(recorder)])
        envs.seed(SEED)
        return VecTransposeImage(VecFrameStack(envs, 2))

    model = trained("PPO", tmp_path / "colour.zip", colour(raw_game()), n_steps=8)
    actions, seen = played_here(sb3_agent.make("breakout", tmp_path / "colour.zip"))
    recorder = raw_game()
    there, seen_there = played_there(model, recorder, colour(recorder), 40)
    assert actions[:40] == there[:40]
    assert seen[0].shape == (6, 210, 160)
    np.testing.assert_array_equal(seen[:40], seen_there[:40])


def test_a_model_of_rlarcades_own_environments_sees_their_observations(tmp_path):
    import sb3_agent

    envs = make_vec_env(
        "rlarcade/Breakout-v5", n_envs=1, env_kwargs={"render_mode": None, "protocol": RIGID}
    )
    model = trained("DQN", tmp_path / "plain.zip", envs)
    agent = sb3_agent.make_plain("breakout", tmp_path / "plain.zip")
    player = Player(agent, game="breakout", protocol=RIGID)
    ours = evaluate_agent(player, episodes=2).episodes
    assert (
        ours == evaluate_agent(Player(model, game="breakout", protocol=RIGID), episodes=2).episodes
    )
    with pytest.raises(ConfigError, match=r"plays from \(6, 210, 160\), not from \(4, 84, 84\)"):
        sb3_agent.make_plain("breakout", a_zip(tmp_path, shape=(6, 210, 160)))


def test_drawn_actions_are_the_models_and_the_games_own(zips):
    import sb3_agent

    path, model = zips("PPO")
    agent = sb3_agent.make_sampled("breakout", path)
    frames = np.random.default_rng(0).integers(0, 256, (4, 84, 84), dtype=np.uint8)
    rng = np.random.default_rng(1)
    counts = np.bincount([agent.action(frames, rng) for _ in range(400)], minlength=4)
    observation, _ = model.policy.obs_to_tensor(frames[None])
    shares = model.policy.get_distribution(observation).distribution.probs[0].detach().numpy()
    assert np.abs(counts / 400 - shares).max() < 0.12  # five standard errors
    one, other = (
        evaluate_agent(Player(agent, game="breakout", protocol=RIGID), episodes=2, num_lanes=n)
        for n in (1, 2)
    )
    assert one.episodes == other.episodes, "the dice are the game's"
    with pytest.raises(ConfigError, match="has values and no probabilities"):
        sb3_agent.make_sampled("breakout", zips("DQN")[0])


def test_the_version_is_that_of_the_weights_and_of_how_they_are_used(zips, tmp_path):
    import sb3_agent

    path, model = zips("PPO")
    moved = tmp_path / "moved.zip"
    model.save(moved)
    version = sb3_agent.make("breakout", path).version
    assert sb3_agent.make("breakout", moved).version == version
    others = {sb3_agent.make_sampled("breakout", path).version}
    with torch.no_grad():
        model.policy.action_net.bias[0] += 1e-3
        model.save(moved)
        model.policy.action_net.bias[0] -= 1e-3
    others.add(sb3_agent.make("breakout", moved).version)
    assert len({version, *others}) == 3


# Pickles


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def changed(path, to, **files):
    """Copies a zip with some of its files replaced."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(to, "w") as target:
        for name in source.namelist():
            target.writestr(name, files.get(name.replace(".", "_"), source.read(name)))
    return to


def a_zip(folder, **settings):
    """A zip of PPO without training, with other settings in its JSON."""
    policy = {k: v for k, v in settings.items() if k != "shape"}
    shape = settings.get("shape", (4, 84, 84))

    class Still(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        action_space = gymnasium.spaces.Discrete(4)

    model = PPO("CnnPolicy", DummyVecEnv([Still]), n_steps=8, batch_size=8, policy_kwargs=policy)
    model.save(folder / "model.zip")
    return folder / "model.zip"


def test_no_pickle_of_a_zip_is_opened(zips, tmp_path):
    import sb3_agent

    bomb = base64.b64encode(pickle.dumps(Bomb(tmp_path / "opened"))).decode()
    data = json.loads(zipfile.Path(zips("PPO")[0], "data").read_text())
    pickled = [key for key, value in data.items() if ":serialized:" in str(value)]
    assert len(pickled) > 3
    for key in pickled:
        data[key][":serialized:"] = bomb
    path = changed(zips("PPO")[0], tmp_path / "bomb.zip", data=json.dumps(data))
    agent = sb3_agent.make("breakout", path)
    assert agent.version == sb3_agent.make("breakout", zips("PPO")[0]).version
    assert not (tmp_path / "opened").exists()


def test_weights_that_are_more_than_tensors_are_refused(zips, tmp_path):
    import sb3_agent

    file = io.BytesIO()
    torch.save({"action_net.bias": Bomb(tmp_path / "opened")}, file)
    path = changed(zips("PPO")[0], tmp_path / "bomb.zip", policy_pth=file.getvalue())
    for trusted in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(sb3_agent.TRUST, trusted)
            with pytest.raises(ConfigError, match="hold more than tensors"):
                sb3_agent.make("breakout", path)
    assert not (tmp_path / "opened").exists()


def test_what_only_pickles_tell_needs_trust_and_the_reason_is_told(tmp_path, monkeypatch):
    import sb3_agent

    path = a_zip(tmp_path, net_arch=[8], activation_fn=torch.nn.ELU)
    with pytest.raises(
        ConfigError,
        match=r"pickles: its policy_kwargs have activation_fn\. A pickle can run any program when "
        r"it is opened\. If you trust whoever made this file, set RLARCADE_TRUST_PICKLES=1",
    ):
        sb3_agent.make("breakout", path)
    monkeypatch.setenv(sb3_agent.TRUST, "1")
    agent = sb3_agent.make("breakout", path)
    assert "ELU" in str(agent.network)


@pytest.mark.parametrize("net_arch", [[16], {"pi": [8, 8], "vf": [4]}])
def test_settings_that_json_holds_need_no_trust(tmp_path, net_arch):
    import sb3_agent

    path = a_zip(tmp_path, net_arch=net_arch, ortho_init=False, normalize_images=False)
    saved = PPO.load(path, device="cpu").policy
    agent = sb3_agent.make("breakout", path)
    frames = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84), dtype=np.uint8)
    np.testing.assert_array_equal(
        agent.network.predict(frames, deterministic=True)[0],
        saved.predict(frames, deterministic=True)[0],
    )


def test_a_zip_of_an_older_sb3_plays_as_the_same_model(zips, tmp_path):
    import sb3_agent

    path = zips("PPO")[0]
    with zipfile.ZipFile(path).open("policy.pth") as file:
        weights = torch.load(file, weights_only=True)
    file = io.BytesIO()
    torch.save({k: v for k, v in weights.items() if k[:7] not in ("pi_feat", "vf_feat")}, file)
    older = changed(path, tmp_path / "older.zip", policy_pth=file.getvalue())
    version = sb3_agent.make("breakout", path).version
    assert sb3_agent.make("breakout", older).version == version
    for name in ("action_net.weight", "features_extractor.cnn.0.bias"):
        file = io.BytesIO()
        torch.save({k: v for k, v in weights.items() if k != name}, file)
        with pytest.raises(ConfigError, match="pickles: it is no CnnPolicy"):
            sb3_agent.make(
                "breakout", changed(path, tmp_path / "less.zip", policy_pth=file.getvalue())
            )


def test_what_is_no_model_of_games_is_refused(tmp_path):
    import sb3_agent

    with pytest.raises(ConfigError, match=r"nowhere.zip is no model that SB3 saved"):
        sb3_agent.make("breakout", "nowhere.zip")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(ConfigError, match="is no model that SB3 saved .* not a zip"):
        sb3_agent.make("breakout", tmp_path / "text.zip")
    with pytest.raises(ConfigError, match=r"plays from \(4, 64, 64\), not from"):
        sb3_agent.make("breakout", a_zip(tmp_path, shape=(4, 64, 64)))
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "poles.zip")
    with pytest.raises(ConfigError, match="pickles: it is no CnnPolicy"):
        sb3_agent.make("breakout", tmp_path / "poles.zip")


@pytest.mark.slow
def test_a_recurrent_ppo_is_told_its_adapter(tmp_path):
    import sb3_agent
    from sb3_contrib import RecurrentPPO

    RecurrentPPO("CnnLstmPolicy", wrapped(), n_steps=8, batch_size=8).save(tmp_path / "lstm.zip")
    with pytest.raises(ConfigError, match="is a RecurrentPPO. .* recurrent_agent.py"):
        sb3_agent.make("breakout", tmp_path / "lstm.zip")


def test_a_model_of_other_actions_is_refused_before_the_first_game(zips, copied):
    (copied / "breakout.zip").write_bytes(zips("DQN")[0].read_bytes())
    with pytest.raises(ConfigError, match="was made for 4 actions, but Pong has 6 under v5"):
        named_players(["sb3_agent:make=breakout.zip"], game="Pong")
    (player,) = named_players(["sb3_agent:make=breakout.zip"], game="Breakout")
    assert not player.one_at_a_time


@pytest.mark.slow
def test_a_zip_meets_an_agent_of_rlarcade_from_the_command_line(copied, run_verb):
    """From a model of SB3 to a verdict, by what the docs tell a user to type."""
    game = raw_game("ALE/SpaceInvaders-v5")
    trained("DQN", copied / "dqn.zip", wrapped(game))
    late = Path(__file__).parents[1] / "data" / "space-invaders-late"
    done = run_verb(
        *("compare", late, "sb3_agent:make=dqn.zip"),
        *("--max-pairs", 8, "--json", "match.json", "--report", "match.html"),
    )
    assert done.returncode == 3, done.stderr
    match = json.loads((copied / "match.json").read_text())
    assert match["verdict"] == "reject"
    assert match["candidate"]["checkpoint"] == "sb3_agent:make=dqn.zip"
    assert (copied / "match.html").stat().st_size > 10_000
    words = "sb3_agent:make=dqn.zip", "--game", "SpaceInvaders", "--episodes", 2
    again = run_verb("evaluate", *words)
    assert again.returncode == 0, again.stderr
    assert "sb3_agent:make=dqn.zip" in again.stdout
    wrong = run_verb("evaluate", "sb3_agent:make=none.zip", "--game", "SpaceInvaders")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "none.zip is no model that SB3 saved" in wrong.stderr
