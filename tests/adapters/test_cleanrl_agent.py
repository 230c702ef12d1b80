"""Models of CleanRL's scripts act in rlarcade as they act there.

CleanRL is no package: its networks and wrappers are written down here as its scripts have them
(commit fe8d8a03, https://github.com/vwxyzjn/cleanrl).
"""

import cv2
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv, FireResetEnv, MaxAndSkipEnv
from tiers import quick
from torch import nn
from torch.distributions import Categorical
from wrapped_games import RIGID, SEED, played_here, raw_game

from rlarcade import ConfigError, Player, evaluate_agent

GAMES_OF = "Atari"


def wrapped(recorder, stack=4):
    """CleanRL's wrappers; those of gym 0.28 that Gymnasium 1 has no more are written out."""
    env = FireResetEnv(EpisodicLifeEnv(MaxAndSkipEnv(recorder, skip=4)))
    seen = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
    env = TransformObservation(
        env,
        lambda screen: cv2.cvtColor(
            cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        ),
        seen,
    )
    return FrameStackObservation(env, stack)  # pads with the first frame


def torso(channels=4):
    return [
        *(nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(3136, 512), nn.ReLU()),
    ]


class DQN(nn.Module):
    def __init__(self, actions=4):
        super().__init__()
        self.network = nn.Sequential(*torso(), nn.Linear(512, actions))

    def forward(self, x):
        return self.network(x / 255.0)

    def act(self, x):
        return int(torch.argmax(self(x), dim=1))

    def train_a_step(self, x, action, reward):
        return nn.functional.mse_loss(self(x).gather(1, action[:, None]).squeeze(), reward)


class C51(nn.Module):
    def __init__(self, actions=4, n_atoms=101, v_min=-100, v_max=100):
        super().__init__()
        self.n_atoms, self.n = n_atoms, actions
        self.register_buffer("atoms", torch.linspace(v_min, v_max, steps=n_atoms))
        self.network = nn.Sequential(*torso(), nn.Linear(512, actions * n_atoms))

    def get_action(self, x, action=None):
        logits = self.network(x / 255.0)
        pmfs = torch.softmax(logits.view(len(x), self.n, self.n_atoms), dim=2)
        q_values = (pmfs * self.atoms).sum(2)
        if action is None:
            action = torch.argmax(q_values, 1)
        return action, pmfs[torch.arange(len(x)), action]

    def act(self, x):
        return int(self.get_action(x)[0])

    def train_a_step(self, x, action, reward):
        _, pmfs = self.get_action(x, action)
        return -pmfs[torch.arange(len(x)), 50 + reward.long()].log().mean()


class PPO(nn.Module):
    def __init__(self, actions=4):
        super().__init__()
        self.network = nn.Sequential(*torso())
        self.actor, self.critic = nn.Linear(512, actions), nn.Linear(512, 1)

    def logits(self, x):
        return self.actor(self.network(x / 255.0))

    def act(self, x):
        return int(self.logits(x).argmax())

    def train_a_step(self, x, action, reward):
        value = self.critic(self.network(x / 255.0)).squeeze()
        return ((value - reward) ** 2 - Categorical(logits=self.logits(x)).log_prob(action)).mean()


class LSTM(nn.Module):
    """ppo_atari_lstm."""

    def __init__(self, actions=4):
        super().__init__()
        self.network = nn.Sequential(*torso(1))
        self.lstm = nn.LSTM(512, 128)
        self.actor, self.critic = nn.Linear(128, actions), nn.Linear(128, 1)

    def get_states(self, x, lstm_state, done):
        hidden = self.network(x / 255.0)
        hidden = hidden.reshape((-1, lstm_state[0].shape[1], self.lstm.input_size))
        done, new_hidden = done.reshape((-1, lstm_state[0].shape[1])), []
        for h, d in zip(hidden, done, strict=True):
            h, lstm_state = self.lstm(  # noqa: PLW2901 - as in the script
                h.unsqueeze(0),
                tuple((1.0 - d).view(1, -1, 1) * state for state in lstm_state),
            )
            new_hidden += [h]
        return torch.flatten(torch.cat(new_hidden), 0, 1), lstm_state

    def train_a_step(self, x, action, reward):
        state = (torch.zeros(1, len(x), 128), torch.zeros(1, len(x), 128))
        hidden, _ = self.get_states(x, state, torch.zeros(len(x)))
        return -Categorical(logits=self.actor(hidden)).log_prob(action).mean()


NETWORKS = {"dqn": DQN, "c51": C51, "ppo": PPO}


def trained(network, channels=4):
    """Trains a few steps on frames of the real game."""
    torch.manual_seed(0)
    model, env, rng = network(), wrapped(raw_game(), channels), np.random.default_rng(0)
    env.reset(seed=SEED)
    rows = [(a, *env.step(a)) for a in rng.integers(0, 4, 24).tolist()]
    x = torch.as_tensor(np.stack([row[1] for row in rows]), dtype=torch.float32)
    action = torch.as_tensor([row[0] for row in rows])
    reward = torch.as_tensor([float(row[2]) for row in rows])
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    for _ in range(3):
        optimizer.zero_grad()
        model.train_a_step(x, action, reward).backward()
        optimizer.step()
    return model.eval()


def saved(model, path):
    """Saves as the scripts do: C51 with its arguments, the others as a state dict."""
    weights = model.state_dict()
    torch.save(
        {"model_weights": weights, "args": {"seed": 1}} if hasattr(model, "n_atoms") else weights,
        path,
    )
    return path


def played_there(act, steps, stack=4):
    """Plays in CleanRL's wrappers; returns the actions, and what the agent saw."""
    recorder, seen, done = raw_game(), [], True
    env = wrapped(recorder, stack)
    while True:
        if done:  # of a life, or of the game
            observation, _ = env.reset(seed=SEED)
        if recorder.games > 1 or len(recorder.actions) >= 4 * steps:
            return recorder.actions[::4], seen
        seen.append(observation)
        with torch.no_grad():
            action = act(torch.Tensor(observation[None]), done)
        observation, _, terminated, truncated, _ = env.step(action)
        done = terminated or truncated


@pytest.mark.parametrize("name", quick([*NETWORKS], ["dqn"]))
def test_a_state_dict_sees_and_does_what_it_sees_and_does_in_cleanrls_wrappers(name, tmp_path):
    import cleanrl_agent

    model = trained(NETWORKS[name])
    agent = cleanrl_agent.make("breakout", saved(model, tmp_path / "model.pt"))
    actions, seen = played_here(agent)
    there, seen_there = played_there(lambda x, _: model.act(x), len(actions))
    assert len(seen) > 100
    np.testing.assert_array_equal(seen[:100], seen_there[:100])
    count = min(len(actions), len(there))
    assert actions[:count] == there[:count]
    assert actions.count(1) >= 2, "FIRE was pressed, at the beginning and after a lost life"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_are_those_of_the_scripts(name, tmp_path):
    import cleanrl_agent

    torch.manual_seed(1)
    model = NETWORKS[name](6)
    agent = cleanrl_agent.make("pong", saved(model, tmp_path / "model.pt"))
    assert agent.num_actions == 6
    frames = np.random.default_rng(0).integers(0, 256, (40, 4, 84, 84), dtype=np.uint8)
    wanted = [model.act(torch.Tensor(one[None])) for one in frames]
    assert [agent.action(one, None) for one in frames] == wanted


def test_ppo_draws_its_actions_if_asked(tmp_path):
    import cleanrl_agent

    model = PPO()
    path = saved(model, tmp_path / "ppo.pt")
    agent = cleanrl_agent.make_sampled("breakout", path)
    frames, rng = np.full((4, 84, 84), 90, dtype=np.uint8), np.random.default_rng(0)
    counts = np.bincount([agent.action(frames, rng) for _ in range(400)], minlength=4)
    shares = torch.softmax(model.logits(torch.Tensor(frames[None])), 1)[0].detach().numpy()
    assert np.abs(counts / 400 - shares).max() < 0.12  # five standard errors
    with pytest.raises(ConfigError, match="has values and no probabilities"):
        cleanrl_agent.make_sampled("breakout", saved(DQN(), tmp_path / "dqn.pt"))
    assert agent.version != cleanrl_agent.make("breakout", path).version


def test_the_version_is_that_of_the_weights(tmp_path):
    import cleanrl_agent

    model = C51()
    one = cleanrl_agent.make("breakout", saved(model, tmp_path / "one.pt")).version
    assert cleanrl_agent.make("breakout", saved(model, tmp_path / "two.pt")).version == one
    model.atoms += 1
    assert cleanrl_agent.make("breakout", saved(model, tmp_path / "two.pt")).version != one


def test_what_is_no_state_dict_of_the_scripts_is_refused(tmp_path):
    import cleanrl_agent

    path = tmp_path / "model.pt"
    torch.save(DQN(), path)  # pickles the class
    with pytest.raises(ConfigError, match=r"A pickle can run .* Save model\.state_dict"):
        cleanrl_agent.make("breakout", path)
    torch.save([1, 2], path)
    with pytest.raises(ConfigError, match="is no state dict"):
        cleanrl_agent.make("breakout", path)
    torch.save(nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(ConfigError, match="holds none of the networks of dqn_atari"):
        cleanrl_agent.make("breakout", path)
    path.write_text("text")
    with pytest.raises(ConfigError, match=r"model\.pt"):
        cleanrl_agent.make("breakout", path)
    with pytest.raises(ConfigError, match="nowhere cannot be read"):
        cleanrl_agent.make("breakout", "nowhere")


# An agent with a memory


def test_a_recurrent_agent_sees_and_does_what_it_sees_and_does_in_cleanrls_wrappers(
    tmp_path, monkeypatch
):
    import recurrent_agent

    model = trained(LSTM, 1)
    agent = recurrent_agent.make("breakout", saved(model, tmp_path / "lstm.pt"))
    seen, state = [], [(torch.zeros(1, 1, 128), torch.zeros(1, 1, 128))]
    act = recurrent_agent.Game.action
    monkeypatch.setattr(
        recurrent_agent.Game, "action", lambda s, frames: (seen.append(frames), act(s, frames))[1]
    )
    agent.action = None
    actions, _ = played_here(agent)

    def there(x, done):
        hidden, state[0] = model.get_states(x, state[0], torch.tensor([float(done)]))
        return int(model.actor(hidden).argmax())

    wanted, seen_there = played_there(there, len(actions), stack=1)
    np.testing.assert_array_equal(seen[:100], seen_there[:100])
    assert actions[:100] == wanted[:100]


def test_games_of_a_recurrent_agent_do_not_mix(tmp_path):
    import recurrent_agent

    torch.manual_seed(3)
    agent = recurrent_agent.make("breakout", saved(LSTM(), tmp_path / "lstm.pt"))
    short = RIGID.model_copy(update={"name": "short", "frame_cap": 240, "sticky": 0.25})
    one, many = (
        evaluate_agent(Player(agent, game="breakout", protocol=short), episodes=4, num_lanes=n)
        for n in (1, 4)
    )
    assert one.episodes == many.episodes


# A module of one's own


def test_a_module_of_ones_own_plays_by_its_values(tmp_path):
    import torch_agent

    torch.manual_seed(0)
    net = torch_agent.Net(4)
    net.layers[3].weight.data *= 30  # so that more than the bias decides
    torch.save(net.state_dict(), tmp_path / "mine.pt")
    policy = torch_agent.make("breakout", tmp_path / "mine.pt")
    observations = np.random.default_rng(0).integers(0, 256, (20, 4, 84, 84), dtype=np.uint8)
    wanted = net(torch.as_tensor(observations)).argmax(1).tolist()
    assert [policy(one) for one in observations] == wanted
    assert len(set(wanted)) > 1
    assert evaluate_agent(Player(policy, game="breakout", protocol=RIGID), episodes=1).episodes
    torch.save(torch_agent.Net(4).state_dict(), tmp_path / "other.pt")
    assert torch_agent.make("breakout", tmp_path / "other.pt").version != policy.version


@pytest.mark.slow
def test_adapters_play_from_the_command_line(copied, run_verb):
    import torch_agent

    saved(trained(PPO), copied / "ppo.pt")
    saved(LSTM(), copied / "lstm.pt")
    torch.save(torch_agent.Net(4).state_dict(), copied / "mine.pt")
    names = "cleanrl_agent:make=ppo.pt", "recurrent_agent:make=lstm.pt", "torch_agent:make=mine.pt"
    done = run_verb("evaluate", *names, "--game", "Breakout", "--episodes", 2)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in names)
