"""What rlarcade.learning.learner learns: targets, losses and gradient steps.

Most tests put tables in the networks' place, whose rows are picked by the first pixel. Rows that a
target must not look at hold NaN, which would spread.
"""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim import radam

from rlarcade.config import TrainConfig
from rlarcade.errors import ConfigError, DivergenceError
from rlarcade.learning.algorithms import UpdateDraws, algorithm_of
from rlarcade.learning.heads import Draws, Returns
from rlarcade.learning.learner import Learner, make_optimizer
from rlarcade.learning.policy import DQNAgent
from rlarcade.learning.replay import Batch
from rlarcade.learning.targets import n_step_return

NAN = float("nan")
NO_DRAWS = UpdateDraws(Draws(), Draws(), Draws())

# google-deepmind/rlax @4c5d25b, rlax/_src/value_learning_test.py
RLAX_Q = [[1.0, 1.0, 0.0], [1.0, 2.0, 0.0]]
RLAX = {"action": [0, 1], "reward": [1.0, 1.0], "discount": [0.0, 1.0]}
RLAX_TD_ERROR = [0.0, 1.0]

C51_ATOMS = [0.5, 1.0, 1.5]
C51_LOGITS = [
    [[1, 1, 1], [0, 9, 9], [0, 9, 0], [0, 0, 0]],
    [[9, 9, 0], [9, 0, 9], [0, 0, 0], [9, -9, 0]],
    [[1, 1, 1], [0, 9, 9], [0, 0, 0], [0, 9, 0]],
    [[9, 9, 0], [9, 0, 9], [0, 0, 0], [9, -9, 0]],
    [[9, 9, 0], [9, 0, 9], [0, 0, 0], [9, -9, 0]],
]
C51_NEXT_LOGITS = [
    [[1, 1, 1], [9, 0, 9], [1, 0, 0], [0, 0, 9]],
    [[9, 9, 0], [9, 0, 0], [1, 1, 1], [9, -9, 0]],
    [[1, 1, 1], [9, 0, 9], [0, 0, 9], [1, 0, 0]],
    [[9, 9, 0], [9, 0, 0], [1, 1, 1], [9, -9, 0]],
    [[9, 9, 0], [9, 0, 0], [0, 9, 9], [9, -9, 0]],
]
C51_SELECTOR = [[1, 0, 0, 9], [9, 0, 1, 1], [1, 9, 1, 1], [0, 1, 0, 9], [1, 1, 1, 9]]
C51 = {
    "action": [2, 1, 3, 0, 1],
    "reward": [0.5, 0.0, 0.5, 0.8, -0.1],
    "discount": [0.8, 1.0, 0.8, 0.0, 1.0],
}
C51_LOSS = [8.998915, 3.6932087, 8.998915, 0.69320893, 5.1929307]
C51_DOUBLE_LOSS = [8.998915, 5.192931, 5.400247, 0.693209, 0.693431]

# QuantileLearningTest, whose shapes are batch, quantiles, actions
QR_QUANTILES = [
    [[0, 1, -5, 6], [-1, 3, 0, -2]],
    [[-5, 9, -5, 6], [2, 3, 1, -4]],
    [[5, 1, -5, 7], [-1, 3, 0, -2]],
]
QR_TAUS = [[0.2, 0.7], [0.1, 0.5], [0.3, 0.4]]
QR = {"action": [1, 2, 0], "reward": [0.5, -1.0, 0.0], "discount": [0.5, 0.0, 1.0]}
QR_NEXT = [
    [[0, 5, 2, 2], [0, -3, 2, 2]],
    [[-3, -1, 4, -3], [1, 3, 1, -4]],
    [[-2, 2, -5, -7], [1, 3, 2, -2]],
]
QR_SELECTOR = [
    [[0, 7, 2, -2], [0, 4, 2, 2]],
    [[-3, -1, 4, 3], [1, 3, 1, 4]],
    [[-1, -2, -5, -6], [-1, -5, 2, -2]],
]
QR_TARGET = [[3.0, -1.0], [-1.0, -1.0], [-2.0, 1.0]]  # a comment there works them out


class Lookup:
    """A table's head: it draws nothing, and finds the rows of states."""

    def __init__(self, table):
        self.table = table

    def draw(self, batch_size, rng, *, taus=True):
        return Draws()

    def __call__(self, states, draws=None):
        table = self.table
        rows = table.rows[states]
        if table.atoms is not None:
            return Returns(table.atoms, log_probabilities=rows.log_softmax(dim=-1))
        return Returns(rows, taus=None if table.taus is None else table.taus[states])


class Table(torch.nn.Module):
    """A network of a few states: row s (A, N) is learned of the state whose first pixel is s."""

    def __init__(self, rows, taus=None, atoms=None):
        super().__init__()
        rows = torch.as_tensor(np.array(rows, dtype=np.float32))
        self.rows = torch.nn.Parameter(rows.unsqueeze(-1) if rows.dim() == 2 else rows)
        self.taus = None if taus is None else torch.tensor(taus)
        self.atoms = None if atoms is None else torch.tensor(atoms)
        self.head = Lookup(self)

    def features(self, frames):
        return frames[:, 0, 0, 0].long()

    def returns(self, frames, draws=None):
        return self.head(self.features(frames), draws)

    def forward(self, frames, draws=None):
        return self.returns(frames, draws).mean()


def make_learner(num_actions=3, **settings):
    small = {"conv_channels": (4, 4, 4), "hidden_units": 16, "num_quantiles": 5, "num_atoms": 11}
    config = TrainConfig(game="pong", **{**small, **settings})
    return Learner(DQNAgent(config, num_actions=num_actions), config)


def tabular(online, target, *, rate=1.0, **settings):
    """A learner of two tables, which learns by plain gradient descent."""
    learner = make_learner(**settings)
    learner.online, learner.target = online, target.requires_grad_(False)
    learner.optimizer = torch.optim.SGD(online.parameters(), lr=rate)
    return learner


def targets_of(learner, batch):
    _, target = algorithm_of(learner.config)(learner.online, learner.target, batch, NO_DRAWS)
    return target


def states(numbers):
    frames = torch.zeros(len(numbers), 4, 84, 84, dtype=torch.uint8)
    frames[:, 0, 0, 0] = torch.tensor(numbers)
    return frames


def tabular_batch(action, reward, discount, weight=None):
    """Transitions from states 0, 1, … to as many others that follow them."""
    count = len(action)
    return Batch(
        observation=states(list(range(count))),
        action=torch.tensor(action),
        reward=torch.tensor(reward),
        discount=torch.tensor(discount),
        next_observation=states(list(range(count, 2 * count))),
        weight=None if weight is None else torch.tensor(weight),
    )


def nan_like(rows):
    return np.full_like(np.array(rows, dtype=np.float32), NAN)


def before_and_after(before, after):
    return np.concatenate([np.array(before, np.float32), np.array(after, np.float32)])


def random_problem(seed, batch=6, actions=3, samples=4):
    """Two tables' rows for states and for next states (4 × (B, A, N)), and a batch."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, batch, actions, samples)).astype(np.float32)
    discount = rng.random(batch).astype(np.float32)
    discount[::3] = 0.0
    parts = {
        "action": rng.integers(0, actions, batch).tolist(),
        "reward": rng.normal(size=batch).astype(np.float32).tolist(),
        "discount": discount.tolist(),
    }
    return rows, parts


# The maximum


def test_plain_q_learning_gives_rlax_its_td_errors():
    next_q = [[0.0, 1.0, 0.0], [1.0, 2.0, 0.0]]
    online = Table(before_and_after(RLAX_Q, nan_like(next_q)))
    learner = tabular(online, Table(before_and_after(nan_like(RLAX_Q), next_q)))
    batch = tabular_batch(**RLAX)
    target = targets_of(learner, batch).values[:, 0]
    taken = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(target - taken, torch.tensor(RLAX_TD_ERROR))
    assert learner.update(batch).error.tolist() == RLAX_TD_ERROR


def test_double_q_learning_gives_rlax_its_td_errors():
    value = [[99.0, 1.0, 98.0], [91.0, 2.0, 66.0]]
    selector = [[2.0, 10.0, 1.0], [11.0, 20.0, 1.0]]
    online = Table(before_and_after(RLAX_Q, selector))
    learner = tabular(online, Table(before_and_after(nan_like(RLAX_Q), value)), double=True)
    assert learner.update(tabular_batch(**RLAX)).error.tolist() == RLAX_TD_ERROR


def test_the_target_network_values_what_the_online_network_picks():
    online = Table([[0.0, 0.0, 0.0], [2.0, 10.0, 1.0]])
    frozen = Table([[NAN] * 3, [99.0, 3.0, 98.0]])  # 99 and 98 are what a maximum would take
    learner = tabular(online, frozen, double=True)
    target = targets_of(learner, tabular_batch([2], [1.0], [0.5]))
    assert target.values.tolist() == [[1.0 + 0.5 * 3.0]]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_targets_match_the_definition(double, samples, seed):
    rows, parts = random_problem(seed, samples=samples)
    online_next, target_next = rows[1], rows[3]
    online = Table(before_and_after(rows[0], online_next if double else nan_like(online_next)))
    learner = tabular(
        online, Table(before_and_after(nan_like(rows[2]), target_next)), double=double
    )
    expected = []
    for b, (r, d) in enumerate(zip(parts["reward"], parts["discount"], strict=True)):
        picks = (online_next if double else target_next)[b].mean(axis=1)
        best = max(range(3), key=lambda a: picks[a])
        expected.append([r + d * z for z in target_next[b, best].tolist()])
    target = targets_of(learner, tabular_batch(**parts))
    torch.testing.assert_close(target.values, torch.tensor(expected))
    assert not target.values.requires_grad


def test_a_terminated_transition_does_not_bootstrap():
    table = [[0.0] * 3, [1e6, 2e6, 3e6]]
    for settings in ({}, {"double": True}):
        learner = tabular(Table(table), Table(table), **settings)
        target = targets_of(learner, tabular_batch([0], [-1.0], [0.0]))
        assert target.values.tolist() == [[-1.0]]


def test_the_discount_of_n_steps_is_used_as_it_comes():
    reward, discount = n_step_return(torch.tensor([[1.0, 2.0, 4.0]]), torch.full((1, 3), 0.5))
    learner = tabular(Table([[0.0, 0.0], [NAN] * 2]), Table([[NAN] * 2, [16.0, 8.0]]), gamma=0.9)
    batch = tabular_batch([1], reward.tolist(), discount.tolist())
    expected = 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 16
    assert targets_of(learner, batch).values.tolist() == [[expected]]


# Distributions


def test_categorical_learning_gives_rlax_its_losses():
    online = Table(before_and_after(C51_LOGITS, nan_like(C51_NEXT_LOGITS)), atoms=C51_ATOMS)
    frozen = Table(before_and_after(nan_like(C51_LOGITS), C51_NEXT_LOGITS), atoms=C51_ATOMS)
    update = tabular(online, frozen, head="categorical").update(tabular_batch(**C51))
    np.testing.assert_allclose(update.error, C51_LOSS, rtol=1e-4)
    assert update.loss.item() == pytest.approx(np.mean(C51_LOSS), rel=1e-4)


def test_gauss_learning_descends_towards_a_normal_distribution_around_the_target():
    from scipy.stats import norm

    online = Table(before_and_after(C51_LOGITS, nan_like(C51_NEXT_LOGITS)), atoms=C51_ATOMS)
    frozen = Table(before_and_after(nan_like(C51_LOGITS), C51_NEXT_LOGITS), atoms=C51_ATOMS)
    update = tabular(online, frozen, head="gauss").update(tabular_batch(**C51))
    expected = []
    for b, action in enumerate(C51["action"]):
        means = [np.dot(softmax(logits), C51_ATOMS) for logits in C51_NEXT_LOGITS[b]]
        target = C51["reward"][b] + C51["discount"][b] * max(means)
        normal = norm(np.clip(target, 0.5, 1.5), 0.75 * 0.5)
        shares = np.array([normal.cdf(z + 0.25) - normal.cdf(z - 0.25) for z in C51_ATOMS])
        predicted = np.log(softmax(C51_LOGITS[b][action]))
        expected.append(-np.dot(shares / shares.sum(), predicted))
    np.testing.assert_allclose(update.error, expected, rtol=1e-4)
    assert update.loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


def softmax(logits):
    weights = np.exp(np.array(logits, dtype=float) - max(logits))
    return weights / weights.sum()


def test_double_categorical_learning_gives_rlax_its_losses():
    # logits (0, 0, x) have a mean that grows with x, as the selector's values do
    selector = [[[0, 0, x] for x in row] for row in C51_SELECTOR]
    online = Table(before_and_after(C51_LOGITS, selector), atoms=C51_ATOMS)
    frozen = Table(before_and_after(nan_like(C51_LOGITS), C51_NEXT_LOGITS), atoms=C51_ATOMS)
    learner = tabular(online, frozen, head="categorical", double=True)
    update = learner.update(tabular_batch(**C51))
    np.testing.assert_allclose(update.error, C51_DOUBLE_LOSS, rtol=1e-4)


def slow_quantile_loss(predicted, taus, target):
    total = 0.0
    for theta, tau in zip(predicted, taus, strict=True):
        for y in target:
            u = y - theta
            huber = u * u / 2 if abs(u) <= 1 else abs(u) - 0.5
            total += abs(tau - (1.0 if u < 0 else 0.0)) * huber / len(target)
    return total


def test_quantile_learning_regresses_to_rlax_targets():
    quantiles, following, selector = (
        np.array(x, np.float32).transpose(0, 2, 1) for x in (QR_QUANTILES, QR_NEXT, QR_SELECTOR)
    )
    online = Table(before_and_after(quantiles, selector), taus=[*QR_TAUS, *[[NAN] * 2] * 3])
    frozen = Table(before_and_after(nan_like(quantiles), following), taus=[[NAN] * 2] * 6)
    learner = tabular(online, frozen, head="quantile", double=True)
    batch = tabular_batch(**QR)
    assert targets_of(learner, batch).values.tolist() == QR_TARGET
    expected = [
        slow_quantile_loss(quantiles[b, a].tolist(), QR_TAUS[b], QR_TARGET[b])
        for b, a in enumerate(QR["action"])
    ]
    np.testing.assert_allclose(learner.update(batch).error, expected, rtol=1e-6)


# Munchausen


def slow_munchausen(row, following, action, reward, discount, *, alpha, tau, clip):
    """Vieillard et al. (2020), eq. 2 and 4, of one transition: (A, N) rows -> N returns."""

    def log_policy(values):
        q = [sum(zs) / len(zs) / tau for zs in values]
        total = max(q) + math.log(sum(math.exp(x - max(q)) for x in q))
        return [x - total for x in q]

    bonus = alpha * min(0.0, max(clip, tau * log_policy(row)[action]))
    logs, returns = log_policy(following), []
    for j in range(len(following[0])):
        soft = sum(
            math.exp(log) * (zs[j] - tau * log) for log, zs in zip(logs, following, strict=True)
        )
        returns.append(reward + bonus + discount * soft)
    return returns


@pytest.mark.parametrize("policy", ["target", "online"])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("tau", [0.03, 0.5])
def test_munchausen_targets_match_the_definition(policy, samples, tau):
    rows, parts = random_problem(0, samples=samples)
    judged, following = (rows[2] if policy == "target" else rows[0]), rows[3]
    own = rows[2] if policy == "target" else nan_like(rows[2])
    online = Table(before_and_after(rows[0], nan_like(rows[1])))
    learner = tabular(
        online,
        Table(before_and_after(own, following)),
        munchausen=True,
        munchausen_policy=policy,
        munchausen_tau=tau,
        munchausen_alpha=0.7,
        munchausen_clip=-0.8,
        n_steps=3,  # the discount says it already, and the bonus is added once
    )
    expected = [
        slow_munchausen(
            judged[b].tolist(), following[b].tolist(), a, r, d, alpha=0.7, tau=tau, clip=-0.8
        )
        for b, (a, r, d) in enumerate(zip(*parts.values(), strict=True))
    ]
    target = targets_of(learner, tabular_batch(**parts))
    torch.testing.assert_close(target.values, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert not target.values.requires_grad


def test_munchausen_without_bonus_and_temperature_is_q_learning():
    rows, parts = random_problem(1, samples=1)
    batch, targets = tabular_batch(**parts), []
    for settings in (
        {},
        {"munchausen": True, "munchausen_alpha": 0.0, "munchausen_tau": 1e-6},
    ):
        learner = tabular(
            Table(before_and_after(rows[0], rows[1])),
            Table(before_and_after(rows[2], rows[3])),
            **settings,
        )
        targets.append(targets_of(learner, batch).values)
    torch.testing.assert_close(targets[1], targets[0], rtol=0, atol=1e-5)


def test_munchausen_does_not_bootstrap_past_a_terminal_but_adds_its_bonus():
    table = [[0.0, 0.0, 0.0, 0.0], [1e6, 2e6, 3e6, 4e6]]
    learner = tabular(Table(table), Table(table), munchausen=True)
    target = targets_of(learner, tabular_batch([1], [-1.0], [0.0]))
    expected = -1.0 - 0.9 * 0.03 * math.log(4)
    assert target.values.item() == pytest.approx(expected, abs=1e-6)


# The loss and the step


def one_step_problem(rate=1.0, **settings):
    """Q(s, a) of 0, 1, 2, 3 for targets of 0.5, 0, -3, 13: TD errors 0.5, -1, -5, 10."""
    online = Table([[0.0, 7.0], [7.0, 1.0], [2.0, 7.0], [7.0, 3.0], *[[NAN] * 2] * 4])
    frozen = Table([*[[NAN] * 2] * 4, [0.0, -1.0], [5.0, 8.0], [-8.0, -4.0], [20.0, 0.0]])
    learner = tabular(online, frozen, rate=rate, **settings)
    return learner, {
        "action": [0, 1, 0, 1],
        "reward": [0.5, 0.0, -1.0, 3.0],
        "discount": [0.5, 0.0, 0.5, 0.5],
    }


ERRORS = torch.tensor([0.5, -1.0, -5.0, 10.0])


def test_the_error_of_the_expected_head_is_the_td_errors_size():
    for loss in ("huber", "mse"):
        learner, parts = one_step_problem(loss=loss)
        assert torch.equal(learner.update(tabular_batch(**parts)).error, ERRORS.abs())


@pytest.mark.parametrize(
    ("loss", "losses", "slopes"),
    [
        ("huber", [0.125, 0.5, 4.5, 9.5], [0.5, -1.0, -1.0, 1.0]),
        ("mse", [0.125, 0.5, 12.5, 50.0], [0.5, -1.0, -5.0, 10.0]),
    ],
)
@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 0.25, 0.0]])
def test_a_step_moves_taken_values_down_the_weighted_mean_loss(loss, losses, slopes, weight):
    learner, parts = one_step_problem(loss=loss)
    before = learner.online.rows.detach().clone()
    update = learner.update(tabular_batch(**parts, weight=weight))
    scale = torch.tensor(weight or [1.0] * 4)
    assert update.loss.item() == pytest.approx((torch.tensor(losses) * scale).mean().item())
    assert torch.equal(update.error, ERRORS.abs()), "priorities are not weighted"
    expected = before.clone()
    for state, action in enumerate(parts["action"]):
        expected[state, action, 0] += scale[state] * slopes[state] / 4
    torch.testing.assert_close(learner.online.rows.detach(), expected, equal_nan=True)


@pytest.mark.parametrize("kind", ["categorical", "gauss", "quantile"])
def test_weights_scale_the_losses_of_distributions_too(kind):
    weight, updates = [1.0, 0.5, 0.25, 0.0, 0.1], []
    taus, atoms = ([[0.1, 0.5, 0.8]] * 10, None) if kind == "quantile" else (None, C51_ATOMS)
    for some in (None, weight):
        rows = before_and_after(C51_LOGITS, C51_NEXT_LOGITS)
        learner = tabular(Table(rows, taus, atoms), Table(rows, taus, atoms), head=kind)
        updates.append(learner.update(tabular_batch(**C51, weight=some)))
    plain, weighted = updates
    assert torch.equal(plain.error, weighted.error)
    expected = (plain.error * torch.tensor(weight)).mean().item()
    assert weighted.loss.item() == pytest.approx(expected)
    assert plain.loss.item() == pytest.approx(plain.error.mean().item())


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_weights_come_ready_from_replay(exponent):
    learner, parts = one_step_problem(
        prioritized=True, priority_exponent=exponent, importance_exponent=exponent
    )
    update = learner.update(tabular_batch(**parts, weight=[0.5] * 4))
    assert update.loss.item() == 0.5 * (0.125 + 0.5 + 4.5 + 9.5) / 4


def test_mean_q_is_that_of_the_online_network_over_states_and_actions():
    learner, parts = one_step_problem()
    assert learner.update(tabular_batch(**parts)).mean_q.item() == (4 * 7 + 0 + 1 + 2 + 3) / 8


def test_the_gradient_is_clipped_to_its_largest_norm():
    for limit, expected in (
        (0.25, 0.25),
        (100.0, (0.5**2 + 1 + 25 + 100) ** 0.5 / 4),
        (None, None),
    ):
        learner, parts = one_step_problem(loss="mse", max_grad_norm=limit)
        before = learner.online.rows.detach().clone()
        learner.update(tabular_batch(**parts))
        moved = (learner.online.rows.detach() - before).nan_to_num().norm().item()
        assert moved == pytest.approx(expected or (0.5**2 + 1 + 25 + 100) ** 0.5 / 4, rel=1e-4)


@pytest.mark.parametrize("kind", ["expected", "quantile", "categorical"])
@pytest.mark.parametrize("double", [False, True])
def test_values_of_a_chain_become_discounted_rewards(kind, double):
    """States 0 → 1 → 2 → end with reward 1 at the end by action 1; action 0 goes nowhere."""
    start, gamma = np.zeros((3, 2, 11 if kind == "categorical" else 3)), 0.5
    taus = [[1 / 6, 1 / 2, 5 / 6]] * 3 if kind == "quantile" else None
    atoms = np.linspace(0, 1, 11, dtype=np.float32).tolist() if kind == "categorical" else None
    start = start[..., :1] if kind == "expected" else start
    learner = tabular(
        Table(start, taus, atoms), Table(start, taus, atoms), head=kind, double=double
    )
    learner.optimizer = torch.optim.Adam(learner.online.parameters(), lr=0.1)
    batch = Batch(
        observation=states([0, 0, 1, 1, 2, 2]),
        action=torch.tensor([0, 1, 0, 1, 0, 1]),
        reward=torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
        discount=torch.tensor([gamma] * 5 + [0.0]),
        next_observation=states([0, 1, 1, 2, 2, 2]),
    )
    for step in range(360):
        learner.update(batch)
        if step % 60 == 59:
            learner.sync_target()
    values = learner.online(states([0, 1, 2])).detach()
    best = torch.tensor([gamma**2, gamma, 1.0])
    expected = torch.stack([gamma * best, best], dim=1)
    torch.testing.assert_close(values, expected, rtol=0, atol=0.03)


# Known returns


def test_fit_takes_a_step_to_the_returns_it_is_given():
    learner, parts = one_step_problem()
    before = learner.online.rows.detach().clone()
    targets = torch.tensor([0.5, 0.0, -3.0, 13.0])
    update = learner.fit(states([0, 1, 2, 3]), torch.tensor(parts["action"]), targets)
    assert torch.equal(update.error, ERRORS.abs())
    assert update.loss.item() == (0.125 + 0.5 + 4.5 + 9.5) / 4
    assert update.mean_q.item() == (4 * 7 + 0 + 1 + 2 + 3) / 8
    for state, slope in enumerate([0.5, -1.0, -1.0, 1.0]):
        before[state, parts["action"][state], 0] += slope / 4
    torch.testing.assert_close(learner.online.rows.detach(), before, equal_nan=True)


@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_fitting_again_and_again_learns_the_returns(loss):
    learner = make_learner(memory="none", norm="layer", learning_rate=3e-3, loss=loss)
    frames, action = random_frames(4), torch.tensor([0, 1, 2, 1])
    target = torch.tensor([1.0, -2.0, 0.5, 3.0])
    for _ in range(150):
        update = learner.fit(frames, action, target)
    assert update.error.max() < 0.05
    values = torch.from_numpy(learner.agent.q_values(frames.numpy()))
    torch.testing.assert_close(values[torch.arange(4), action], target, rtol=0, atol=0.1)


# Real networks


def random_frames(batch, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (batch, 4, 84, 84), dtype=np.uint8))


def real_batch(size=4, seed=0):
    rng = np.random.default_rng(seed)
    return Batch(
        observation=random_frames(size, seed),
        action=torch.from_numpy(rng.integers(0, 3, size)),
        reward=torch.from_numpy(rng.normal(size=size).astype(np.float32)),
        discount=torch.tensor([0.9, 0.0] * (size // 2)),
        next_observation=random_frames(size, seed + 1),
    )


def spy_on_draws(learner, batch):
    """Draws of each forward pass of an update: of the online and of the target network."""
    seen = {"online": [], "target": []}
    for name, network in (("online", learner.online), ("target", learner.target)):
        network.head.register_forward_pre_hook(
            lambda _, inputs, name=name: seen[name].append(inputs[1])
        )
    learner.update(batch)
    return seen["online"], seen["target"]


@pytest.mark.parametrize(
    "settings", [{"double": True}, {"munchausen": True, "munchausen_policy": "online"}]
)
def test_the_three_passes_of_an_update_have_draws_of_their_own(settings):
    learner = make_learner(head="implicit", noisy=True, num_taus=6, **settings)
    (pick, learning), (ahead,) = spy_on_draws(learner, real_batch())
    assert pick.taus is None, "means are taken at midpoints"
    assert learning.taus.shape == ahead.taus.shape == (4, 6)
    assert (learning.taus != ahead.taus).any()
    for one, other in itertools.combinations((pick, learning, ahead), 2):
        assert len(one.noise) == len(other.noise) == 4
        for mine, yours in zip(one.noise, other.noise, strict=True):
            assert (mine != yours).any()


@pytest.mark.parametrize(("policy", "passes"), [("online", (1, 1)), ("target", (1, 2))])
def test_munchausen_takes_the_policy_from_features_that_are_there_anyway(policy, passes):
    learner, seen = (
        make_learner(munchausen=True, munchausen_policy=policy),
        {"online": 0, "target": 0},
    )
    for name, network in (("online", learner.online), ("target", learner.target)):

        def count(*_, name=name):
            seen[name] += 1

        network.torso.register_forward_pre_hook(count)
    learner.update(real_batch())
    assert tuple(seen.values()) == passes


@pytest.mark.parametrize(
    "settings", [{}, {"double": True}, {"munchausen": True, "munchausen_policy": "online"}]
)
def test_what_the_backward_pass_needs_is_made_last(settings):
    learner, seen = make_learner(**settings), []
    for network in (learner.online, learner.target):
        network.torso.register_forward_pre_hook(
            lambda torso, _: seen.append((torso is learner.online.torso, torch.is_grad_enabled()))
        )
    learner.update(real_batch())
    assert seen[-1] == (True, True)
    assert (False, False) in seen
    assert not any(keeps for _, keeps in seen[:-1])


def test_munchausen_may_ask_the_target_network_twice():
    learner = make_learner(head="implicit", noisy=True, munchausen=True)
    (learning,), (ahead, judging) = spy_on_draws(learner, real_batch())
    assert judging.taus is None
    assert (ahead.noise[0] != judging.noise[0]).any()
    assert (learning.noise[0] != judging.noise[0]).any()


COMPOSITIONS = [
    {"head": head, "noisy": noisy, **extra}
    for head, noisy, extra in itertools.product(
        ("expected", "categorical", "gauss", "quantile", "implicit"),
        (False, True),
        ({"double": True}, {"munchausen": True, "dueling": True}),
    )
    if not (head in ("categorical", "gauss") and "munchausen" in extra)
]


@pytest.mark.parametrize(
    "settings",
    COMPOSITIONS,
    ids=lambda s: " ".join(k if v is True else str(v) for k, v in s.items() if v),
)
def test_updates_are_a_function_of_weights_batch_and_generator(settings):
    def learned(seed):
        learner = make_learner(learning_rate=1e-2, **settings)
        learner.rng = np.random.default_rng(seed)
        losses = [learner.update(real_batch(seed=i)).loss.item() for i in range(2)]
        return losses, learner.agent.weights()

    torch.manual_seed(1)
    losses, weights = learned(seed=3)
    torch.manual_seed(2)
    same_losses, same_weights = learned(seed=3)
    assert losses == same_losses
    for name, array in weights.items():
        np.testing.assert_array_equal(array, same_weights[name], err_msg=name)
    other_losses, _ = learned(seed=4)
    random = settings["noisy"] or settings["head"] == "implicit"
    assert (losses != other_losses) == random


@pytest.mark.parametrize("settings", COMPOSITIONS[::3], ids=str)
def test_every_composition_learns_in_bf16_with_float32_parameters(settings):
    config = TrainConfig(game="pong", conv_channels=(4, 4, 4), hidden_units=16, **settings)
    learner = Learner(DQNAgent(config, num_actions=3, precision="bf16"), config)
    before = learner.agent.weights()
    update = learner.update(real_batch())
    assert update.loss.dtype == update.error.dtype == torch.float32
    assert update.loss.isfinite()
    assert tuple(update.error.shape) == (4,)
    for name, array in learner.agent.weights().items():
        assert array.dtype == np.float32
        assert (array != before[name]).any(), name


def test_the_target_network_is_left_alone_until_it_is_synced():
    learner, batch = make_learner(learning_rate=1e-2), real_batch()
    before = {name: t.clone() for name, t in learner.target.state_dict().items()}
    learner.update(batch)
    for name, tensor in learner.target.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert (learner.online.state_dict()[name] != tensor).any(), name
    learner.sync_target()
    for name, tensor in learner.target.state_dict().items():
        assert torch.equal(learner.online.state_dict()[name], tensor), name
    learner.update(batch)
    moved = [
        (learner.online.state_dict()[name] != tensor).any()
        for name, tensor in learner.target.state_dict().items()
    ]
    assert all(moved), "it is a copy, not the same memory"


def test_with_a_small_tau_the_target_network_is_a_moving_average():
    learner = make_learner(learning_rate=1e-2, target_tau=0.25)
    average = {name: t.double() for name, t in learner.target.state_dict().items()}
    for seed in range(4):
        learner.update(real_batch(seed=seed))
        learner.update_target()
        for name, tensor in learner.online.state_dict().items():
            average[name] = 0.75 * average[name] + 0.25 * tensor.double()
    for name, tensor in learner.target.state_dict().items():
        torch.testing.assert_close(tensor.double(), average[name], rtol=1e-5, atol=1e-6)
        assert (learner.online.state_dict()[name] != tensor).any(), name


def test_with_tau_one_the_target_network_is_a_copy():
    learner = make_learner(learning_rate=1e-2)
    learner.update(real_batch())
    learner.update_target()
    for name, tensor in learner.target.state_dict().items():
        assert torch.equal(learner.online.state_dict()[name], tensor), name


def test_an_average_network_has_the_newest_vectors_of_spectral_norm():
    learner = make_learner(
        torso="impala", spectral_norm=True, pool_size=2, learning_rate=1e-2, target_tau=0.5
    )
    learner.update(real_batch(2))
    learner.update_target()
    for (name, kept), newest in zip(
        learner.target.named_buffers(), learner.online.buffers(), strict=True
    ):
        assert torch.equal(kept, newest), name
    assert any(
        (kept != newest).any()
        for kept, newest in zip(
            learner.target.parameters(), learner.online.parameters(), strict=True
        )
    )


def test_spectral_norm_iterates_in_updates_alone_and_is_synced():
    learner = make_learner(
        torso="impala", spectral_norm=True, pool_size=2, learning_rate=1e-2, double=True
    )
    frames = random_frames(2)

    def vectors(network):
        return {name: t.clone() for name, t in network.named_buffers() if name[-2:] in ("_u", "_v")}

    start = vectors(learner.online)
    assert len(start) == 24
    learner.agent.q_values(frames.numpy())
    learner.agent.act(frames.numpy(), 0.0, np.random.default_rng(0))
    assert all(torch.equal(t, start[name]) for name, t in vectors(learner.online).items())
    learner.update(real_batch(2))
    for name, tensor in vectors(learner.online).items():
        assert (tensor != start[name]).any(), name
    assert all(torch.equal(t, start[name]) for name, t in vectors(learner.target).items())
    assert not any(module.training for module in learner.online.modules())
    with torch.no_grad():
        assert (learner.online(frames) != learner.target(frames)).any()
        learner.sync_target()
        assert torch.equal(learner.online(frames), learner.target(frames))
    synced = vectors(learner.online)
    assert all(torch.equal(t, synced[name]) for name, t in vectors(learner.target).items())


# Acting in training


def small_learner(precision="fp32", **settings):
    config = TrainConfig(game="pong", **{"conv_channels": (4, 4, 4), "hidden_units": 16} | settings)
    return Learner(DQNAgent(config, num_actions=6, precision=precision), config)


@pytest.fixture
def threads():
    """Gives torch the number of its threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("acting", ["online", "target"])
def test_the_acting_network_plays_and_is_what_a_checkpoint_holds(acting, tmp_path):
    learner, frames = make_learner(acting_network=acting), random_frames(3).numpy()
    agent = learner.agent
    online = agent.q_values(frames)
    with torch.no_grad():
        learner.target.head.values.bias += 1
    expected = online + (acting == "target")
    for values in (agent.q_values(frames), learner.q_values(frames)):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    agent.save(tmp_path / "agent")
    loaded = DQNAgent.load(tmp_path / "agent")
    np.testing.assert_allclose(loaded.q_values(frames), expected, rtol=0, atol=1e-5)


def test_the_target_network_starts_as_the_online_network_and_does_not_learn():
    learner = make_learner()
    for online, target in zip(
        learner.online.parameters(), learner.target.parameters(), strict=True
    ):
        assert torch.equal(online, target)
        assert online.requires_grad
        assert not target.requires_grad
        assert online.data_ptr() != target.data_ptr()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("threads")
def test_lanes_of_training_see_the_same_values_but_for_rounding_as_a_game_played_alone(precision):
    torch.set_num_threads(1)
    learner = small_learner(precision, conv_channels=(32, 64, 64), hidden_units=512)
    frames = random_frames(19).numpy()
    together, alone = learner.q_values(frames), learner.agent.q_values(frames)
    assert (together.dtype, together.shape) == (np.float32, (19, 6))
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6 if precision == "fp32" else 1e-3)
    np.testing.assert_array_equal(together, learner.q_values(frames))


@pytest.mark.usefixtures("threads")
def test_lanes_of_training_go_through_the_network_together_on_all_threads(monkeypatch):
    learner, passes = small_learner(), []
    frames, forward = random_frames(11).numpy(), learner.online.forward

    def counted(frames, draws=None):
        passes.append((len(frames), torch.get_num_threads()))
        return forward(frames, draws)

    monkeypatch.setattr(learner.online, "forward", counted)
    torch.set_num_threads(2)
    learner.act(frames, 0.0, np.random.default_rng(0))
    assert passes == [(11, 2)]
    passes.clear()
    learner.agent._same_bits.update({4: False, 12: False})
    learner.agent.act(frames, 0.0, np.random.default_rng(0))
    assert passes == [(8, 1), (8, 1)], "evaluation: rows of the same bits, on one thread"


def test_noisy_layers_explore_in_training_and_are_off_in_evaluation():
    learner, frames = small_learner(noisy=True), random_frames(5).numpy()
    drawn = [learner.q_values(frames) for _ in range(2)]
    assert (drawn[0] != drawn[1]).all(), "noise is drawn anew for each look"
    values = learner.agent.q_values(frames)
    np.testing.assert_array_equal(learner.agent.q_values(frames), values)
    assert (values != drawn[0]).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_training_draws_the_random_actions_that_the_agent_alone_would_draw(epsilon):
    learner, frames = small_learner(), random_frames(40).numpy()
    dice = [np.random.default_rng(4) for _ in range(3)]
    expected = learner.agent.act(frames, epsilon, dice[0])
    np.testing.assert_array_equal(learner.act(frames, epsilon, dice[1]), expected)
    q_values = learner.q_values(frames)
    np.testing.assert_array_equal(learner.explore(q_values, epsilon, dice[2]), expected)
    assert dice[0].bit_generator.state == dice[1].bit_generator.state
    assert dice[0].bit_generator.state == dice[2].bit_generator.state


def test_training_refuses_what_are_no_observations():
    learner = small_learner()
    with pytest.raises(ValueError, match=r"are uint8 .*; got float32 \(2, 4, 84, 84\)"):
        learner.q_values(np.zeros((2, 4, 84, 84), np.float32))
    with pytest.raises(ValueError, match=r"are uint8 .*; got uint8 \(4, 84, 84\)"):
        learner.act(np.zeros((4, 84, 84), np.uint8), 0.0, np.random.default_rng(0))


def test_values_that_are_no_numbers_stop_training():
    learner, dice = small_learner(), np.random.default_rng(0)
    with torch.no_grad():
        learner.online.head.values.bias[2] = float("nan")
    with pytest.raises(DivergenceError, match="of agent are not finite numbers: .*nan"):
        learner.act(np.zeros((3, 4, 84, 84), dtype=np.uint8), 0.0, dice)
    values = np.array([[1, 2], [3, np.nan], [4, np.inf]], dtype=np.float32)
    with pytest.raises(DivergenceError, match="finite numbers: .3.0, nan. for observation 1 of 3"):
        learner.explore(values, 0.0, dice)
    assert learner.explore(values[:1], 0.0, dice).tolist() == [1]


@pytest.mark.parametrize("acting", ["online", "target"])
def test_a_loaded_agent_that_learns_begins_with_a_copy_of_what_it_loaded(tmp_path, acting):
    settings = {"conv_channels": (2, 2, 2), "hidden_units": 4, "acting_network": acting}
    config = TrainConfig(game="pong", learning_rate=0.1, **settings)
    DQNAgent(config, num_actions=6, seed=3).save(tmp_path / "agent")
    agent = DQNAgent.load(tmp_path / "agent")
    before = agent.weights()
    learner = Learner(agent, config)
    frames = torch.zeros((5, 4, 84, 84), dtype=torch.uint8)
    learner.fit(frames, torch.zeros(5, dtype=torch.int64), torch.ones(5))
    for name, tensor in learner.target.state_dict().items():
        np.testing.assert_array_equal(tensor, before[name], err_msg=name)
    moved = any(
        (t.numpy() != before[name]).any() for name, t in learner.online.state_dict().items()
    )
    assert moved
    plays = learner.online if acting == "online" else learner.target
    assert agent.q_network is plays


def test_an_agent_with_another_network_cannot_learn_by_these_settings():
    agent = make_learner(head="quantile").agent
    with pytest.raises(ConfigError, match="agent has another network than the settings of learn"):
        Learner(agent, TrainConfig(game="pong"))


# On a GPU, as far as a CPU shows it


@pytest.fixture
def cpu_as_gpu(monkeypatch):
    """Has PyTorch take this CPU for a GPU that captures a CUDA graph."""
    tensor, gpu = torch.tensor, torch.device("cuda")
    stream = SimpleNamespace(is_capturing=lambda: True)
    monkeypatch.setattr(torch, "tensor", lambda value, device=None, **how: tensor(value, **how))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: gpu)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda *_: stream)
    monkeypatch.setattr(radam, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])
    return gpu


@pytest.mark.parametrize("kind", ["adam", "radam"])
def test_an_optimizer_on_a_gpu_can_be_captured_and_takes_the_steps_of_one_on_a_cpu(
    cpu_as_gpu, kind
):
    on_cpu, on_gpu = (make_learner(optimizer=kind, learning_rate=1e-2) for _ in range(2))
    on_gpu.optimizer = make_optimizer(on_gpu.config, on_gpu.online, cpu_as_gpu)
    for number in range(12):  # radam changes its kind of step at the sixth
        for learner in (on_cpu, on_gpu):
            learner.set_learning_rate(1e-2 / (1 + number))
            with pytest.MonkeyPatch.context() as patched:
                if learner is on_cpu:
                    patched.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
                learner.update(real_batch(seed=number))
    fresh = make_learner().online
    for one, other, first in zip(
        on_cpu.online.parameters(), on_gpu.online.parameters(), fresh.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(one, first, rtol=1e-3, atol=1e-5)


def test_without_replay_radam_is_not_captured_and_counts_its_steps_on_the_cpu(cpu_as_gpu):
    learner = make_learner(optimizer="radam", memory="none", double=False)
    learner.optimizer = make_optimizer(learner.config, learner.online, cpu_as_gpu)
    assert not learner.optimizer.defaults["capturable"]
    assert not isinstance(learner.optimizer.defaults["lr"], torch.Tensor)
