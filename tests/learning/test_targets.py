"""rlarcade.learning.targets against published numbers and definitions, one step at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlarcade.learning.heads import Returns
from rlarcade.learning.targets import (
    double_target,
    lambda_targets,
    munchausen_bonus,
    munchausen_target,
    n_step_return,
    q_target,
    soft_policy,
    soft_values,
    td_target,
)

# google-deepmind/rlax @4c5d25b, rlax/_src/multistep_test.py
MULTISTEP_REWARD = [[1.0, 0.0, -1.0, 0.0, 1.0], [0.5, 0.8, -0.7, 0.0, 2.1]]
MULTISTEP_DISCOUNT = [[0.5, 0.9, 1.0, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7]]
MULTISTEP_VALUE = [[3.0, 1.0, 5.0, -5.0, 3.0], [-1.7, 1.2, 2.3, 2.2, 2.7]]
MULTISTEP_RETURNS = {
    3: [[2.8, -3.15, 0.7, 1.7, 3.4], [1.2155, 0.714, 0.2576, 3.192, 3.99]],
    5: [[1.315, 0.63, 0.7, 1.7, 3.4], [1.33592, 0.9288, 0.2576, 3.192, 3.99]],
}
LAMBDA_RETURNS = [  # λ = 0.75
    [1.6460547, 0.72281253, 0.7375001, 0.6500001, 3.4],
    [0.7866317, 0.9913063, 0.1101501, 2.834, 3.99],
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def transitions(seed, batch=7):
    """Reward and discount (B,), a third of them terminal."""
    rng = seeded(seed)
    reward = torch.randn(batch, generator=rng)
    discount = torch.rand(batch, generator=rng)
    discount[::3] = 0.0
    return reward, discount


# Targets


@pytest.mark.parametrize("samples", [1, 4])
def test_a_target_is_the_reward_and_the_discounted_return(samples):
    reward, discount = transitions(0)
    values = torch.randn(7, samples, generator=seeded(1))
    expected = [
        [r + d * z for z in row]
        for r, d, row in zip(reward.tolist(), discount.tolist(), values.tolist(), strict=True)
    ]
    torch.testing.assert_close(td_target(reward, discount, values), torch.tensor(expected))


def test_atoms_that_all_transitions_share_are_moved_for_each():
    target = td_target(
        torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.0]), torch.tensor([-2.0, 0.0, 2.0])
    )
    assert target.tolist() == [[0.0, 1.0, 2.0], [-1.0, -1.0, -1.0]]


def test_a_terminated_transition_does_not_bootstrap():
    target = td_target(torch.tensor([-1.0]), torch.tensor([0.0]), torch.full((1, 3), 1e6))
    assert target.tolist() == [[-1.0] * 3]


def test_no_gradient_reaches_what_targets_are_made_of():
    reward, discount = (torch.ones(2, requires_grad=True) for _ in range(2))
    values = torch.ones(2, 3, requires_grad=True)
    assert not td_target(reward, discount, values).requires_grad
    bonus = munchausen_bonus(values, torch.tensor([0, 1]), alpha=0.9, tau=0.03, clip=-1.0)
    assert not bonus.requires_grad
    carry = torch.ones(2, 3, dtype=torch.bool)
    assert not lambda_targets(values, values, values, carry, 0.5).requires_grad


# Targets of the algorithms, one transition and one action after the other


def problem(samples, seed=3, batch=5, actions=3):
    reward, discount = transitions(seed, batch)
    values = torch.randn(batch, actions, samples, generator=seeded(seed))
    return reward, discount, values


def slow_target(reward, discount, values, picks):
    """R + discount · z of the action that `picks` values highest."""
    rows = []
    for r, d, z, q in zip(
        reward.tolist(), discount.tolist(), values.tolist(), picks.tolist(), strict=True
    ):
        best = q.index(max(q))
        rows.append([r + d * one for one in z[best]])
    return torch.tensor(rows)


@pytest.mark.parametrize("samples", [1, 4])
def test_q_learnings_target_takes_the_action_with_the_highest_mean(samples):
    reward, discount, values = problem(samples)
    target = q_target(reward, discount, Returns(values))
    means = torch.tensor([[sum(z) / samples for z in row] for row in values.tolist()])
    torch.testing.assert_close(target.values, slow_target(reward, discount, values, means))


@pytest.mark.parametrize("samples", [1, 4])
def test_the_double_target_takes_the_action_that_was_picked_and_its_own_values_of_it(samples):
    reward, discount, values = problem(samples)
    picks = torch.randn(5, 3, generator=seeded(9))
    target = double_target(reward, discount, Returns(values), picks)
    torch.testing.assert_close(target.values, slow_target(reward, discount, values, picks))
    plain = q_target(reward, discount, Returns(values))
    assert (target.values != plain.values).any()


def test_a_categorical_target_moves_the_atoms_and_keeps_the_probabilities_of_the_best_action():
    atoms = torch.tensor([-1.0, 0.0, 1.0])
    probabilities = torch.tensor([[[0.6, 0.2, 0.2], [0.1, 0.2, 0.7]]])  # means -0.4 and 0.6
    ahead = Returns(atoms, log_probabilities=probabilities.log())
    target = q_target(torch.tensor([2.0]), torch.tensor([0.5]), ahead)
    assert target.values.tolist() == [[1.5, 2.0, 2.5]]
    torch.testing.assert_close(target.log_probabilities.exp(), torch.tensor([[0.1, 0.2, 0.7]]))


@pytest.mark.parametrize("samples", [1, 4])
def test_the_munchausen_target_adds_the_bonus_to_the_reward_and_averages_over_the_policy(samples):
    reward, discount, values = problem(samples)
    q_values, action = torch.randn(5, 3, generator=seeded(7)), torch.tensor([0, 2, 1, 1, 0])
    target = munchausen_target(
        reward, discount, Returns(values), q_values, action, alpha=0.7, tau=0.5, clip=-0.8
    )
    expected = []
    for b in range(5):
        here = [math.exp(q / 0.5) for q in q_values[b].tolist()]
        log_policy = math.log(here[action[b]] / sum(here))
        bonus = 0.7 * max(-0.8, 0.5 * log_policy)
        rows = values[b].tolist()
        there = [math.exp(sum(z) / samples / 0.5) for z in rows]
        policy = [x / sum(there) for x in there]
        soft = [
            sum(p * (z[j] - 0.5 * math.log(p)) for p, z in zip(policy, rows, strict=True))
            for j in range(samples)
        ]
        expected.append([reward[b].item() + bonus + discount[b].item() * z for z in soft])
    torch.testing.assert_close(target.values, torch.tensor(expected), rtol=1e-5, atol=1e-5)


# Soft policies

HUGE = [[1e6, 1e6 - 1.0, -1e6], [-3e7, -3e7, -3e7]]


@pytest.mark.parametrize("tau", [0.03, 0.5, 4.0])
def test_the_soft_policy_is_the_boltzmann_distribution(tau):
    q_values = torch.randn(5, 3, generator=seeded(0)).double()
    policy, scaled_log = soft_policy(q_values, tau)
    for row, probabilities, logs in zip(q_values.tolist(), policy, scaled_log, strict=True):
        weights = [math.exp(q / tau) for q in row]
        expected = [w / sum(weights) for w in weights]
        assert probabilities.tolist() == pytest.approx(expected, rel=1e-9)
        assert logs.tolist() == pytest.approx([tau * math.log(p) for p in expected], rel=1e-9)


@pytest.mark.parametrize("actions", [2, 3, 18])
def test_equal_values_are_taken_equally_often(actions):
    policy, scaled_log = soft_policy(torch.full((1, actions), 5.0), 0.03)
    torch.testing.assert_close(policy, torch.full((1, actions), 1 / actions))
    torch.testing.assert_close(
        scaled_log, torch.full((1, actions), -0.03 * math.log(actions)), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("tau", [1e-4, 0.03, 1.0])
def test_huge_values_do_not_overflow(tau):
    policy, scaled_log = soft_policy(torch.tensor(HUGE), tau)
    assert policy.isfinite().all()
    assert scaled_log.isfinite().all()
    torch.testing.assert_close(policy.sum(dim=1), torch.ones(2))
    soft = soft_values(torch.tensor(HUGE).unsqueeze(-1), tau)
    assert soft.isfinite().all()
    torch.testing.assert_close(soft[:, 0], torch.tensor([1e6, -3e7]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("tau", [0.03, 0.5, 4.0])
@pytest.mark.parametrize("samples", [1, 6])
def test_the_mean_soft_value_is_the_scaled_logsumexp_of_the_means(tau, samples):
    values = torch.randn(5, 3, samples, generator=seeded(0)).double()
    soft = soft_values(values, tau)
    assert soft.shape == (5, samples)
    for row, mean in zip(values.tolist(), soft.mean(dim=1).tolist(), strict=True):
        total = sum(math.exp(sum(action) / samples / tau) for action in row)
        assert mean == pytest.approx(tau * math.log(total), rel=1e-9)


def test_each_possible_return_is_averaged_over_the_policy_with_its_entropy():
    values = torch.randn(4, 3, 5, generator=seeded(1)).double()
    soft = soft_values(values, 0.7)
    for b, row in enumerate(values.tolist()):
        weights = [math.exp(sum(z) / 5 / 0.7) for z in row]
        policy = [w / sum(weights) for w in weights]
        for j in range(5):
            expected = sum(p * (z[j] - 0.7 * math.log(p)) for p, z in zip(policy, row, strict=True))
            assert soft[b, j].item() == pytest.approx(expected, rel=1e-9)


def test_without_temperature_the_soft_value_is_the_maximum():
    values = torch.randn(50, 4, 1, generator=seeded(0))
    soft, best = soft_values(values, 1e-6)[:, 0], values[:, :, 0].max(dim=1).values
    torch.testing.assert_close(soft, best, rtol=0, atol=1e-5)
    warm = soft_values(values, 0.5)[:, 0]
    assert ((best < warm) & (warm <= best + 0.5 * math.log(4) + 1e-6)).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_the_bonus_is_the_clipped_log_policy_of_the_action_taken(alpha):
    q_values = torch.tensor([[0.0, 0.02, 0.01], [0.5, 0.0, 3.0], [1.0, 1.0, 1.0]])
    action = torch.tensor([2, 0, 1])
    bonus = munchausen_bonus(q_values, action, alpha=alpha, tau=0.03, clip=-1.0)
    expected = []
    for row, a in zip(q_values.tolist(), action.tolist(), strict=True):
        total = math.log(sum(math.exp((q - max(row)) / 0.03) for q in row))
        expected.append(alpha * max(-1.0, row[a] - max(row) - 0.03 * total))
    assert bonus.tolist() == pytest.approx(expected, abs=1e-6)
    assert bonus[1].item() == pytest.approx(-alpha), "2.5 below the best is clipped"
    assert bonus[2].item() == pytest.approx(-alpha * 0.03 * math.log(3), abs=1e-6), "uniform"


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.01, 1.0, 1e3, 1e7]))
@settings(max_examples=30)
def test_the_bonus_lies_between_the_clip_and_zero(seed, scale):
    q_values = scale * torch.randn(9, 4, generator=seeded(seed))
    action = torch.randint(4, (9,), generator=seeded(seed))
    bonus = munchausen_bonus(q_values, action, alpha=0.9, tau=0.03, clip=-1.0)
    assert ((bonus >= -0.9 - 1e-6) & (bonus <= 0)).all()


# Targets of Q(λ)


def targets_by_lanes(reward, discount, value, q_lambda):
    """Targets of lanes given as rows, in one unbroken episode each."""
    reward, discount, value = (
        torch.as_tensor(x, dtype=torch.float64).T for x in (reward, discount, value)
    )
    carry = torch.ones(reward.shape, dtype=torch.bool)
    return lambda_targets(reward, discount, value, carry, q_lambda).T


def test_lambda_targets_are_the_lambda_returns_of_rlax():
    targets = targets_by_lanes(MULTISTEP_REWARD, MULTISTEP_DISCOUNT, MULTISTEP_VALUE, 0.75)
    np.testing.assert_allclose(targets, LAMBDA_RETURNS, rtol=1e-5)


def test_lambda_targets_give_rlax_its_q_lambda_errors():
    # QLambdaTest of rlax
    taken = [[1.1, 1.1, 3.1], [3.1, -1.1, -2.1]]
    next_q = [
        [[1.2, 2.2], [-1.2, 0.2], [2.2, -1.2]],
        [[4.2, 2.2], [1.2, 1.2], [-1.2, -2.2]],
    ]
    targets = targets_by_lanes(
        [[-1.3, -1.3, 2.3], [1.3, 5.3, -3.3]],
        [[0.0, 0.89, 0.85], [0.88, 1.0, 0.83]],
        np.max(next_q, axis=2),
        0.75,
    )
    expected = [[-2.4, 0.427975, 1.07], [0.69348, 3.478, -2.196]]
    np.testing.assert_allclose(targets - torch.tensor(taken), expected, rtol=1e-5)


def test_lambda_one_sums_rewards_to_the_rollouts_end():
    targets = targets_by_lanes(MULTISTEP_REWARD, MULTISTEP_DISCOUNT, MULTISTEP_VALUE, 1.0)
    np.testing.assert_allclose(targets, MULTISTEP_RETURNS[5], rtol=1e-5)


def test_lambda_zero_is_one_step_temporal_difference():
    rng = np.random.default_rng(0)
    reward, discount, value = rng.random((3, 4, 6))
    targets = targets_by_lanes(reward, discount, value, 0.0)
    np.testing.assert_allclose(targets, reward + discount * value)


def mixture_of_n_step_returns(reward, discount, value, carry, q_lambda):
    """(1 − λ) Σ λⁿ⁻¹ Gₙ + λᴺ⁻¹ G_N, N the steps to the episode's or the rollout's end."""
    steps, lanes = reward.shape
    targets = np.empty((steps, lanes))
    for lane in range(lanes):
        for start in range(steps):
            returns, total, weight = [], 0.0, 1.0
            for t in range(start, steps):
                total += weight * reward[t, lane]
                weight *= discount[t, lane]
                returns.append(total + weight * value[t, lane])
                if not carry[t, lane]:
                    break
            last = q_lambda ** (len(returns) - 1) * returns[-1]
            rest = [(1 - q_lambda) * q_lambda**n * g for n, g in enumerate(returns[:-1])]
            targets[start, lane] = sum(rest) + last
    return targets


@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(1, 9),
    lanes=st.integers(1, 4),
    q_lambda=st.sampled_from([0.0, 0.3, 0.65, 1.0]),
)
@settings(max_examples=80)
def test_lambda_targets_are_mixtures_of_n_step_returns(seed, steps, lanes, q_lambda):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, steps, lanes))
    terminated, truncated = rng.random((2, steps, lanes)) < 0.2
    discount = np.where(terminated, 0.0, 0.99)
    carry = ~(terminated | truncated)
    expected = mixture_of_n_step_returns(reward, discount, value, carry, q_lambda)
    targets = lambda_targets(*map(torch.from_numpy, (reward, discount, value, carry)), q_lambda)
    np.testing.assert_allclose(targets, expected, atol=1e-12)


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
def test_a_terminated_episode_neither_bootstraps_nor_sees_the_next(q_lambda):
    reward = torch.tensor([[1.0], [2.0], [1e6]])
    discount = torch.tensor([[0.5], [0.0], [0.5]])
    value = torch.tensor([[3.0], [1e6], [1e6]])
    carry = torch.tensor([[True], [False], [True]])
    targets = lambda_targets(reward, discount, value, carry, q_lambda)
    assert targets[1].item() == 2.0
    assert targets[0].item() == pytest.approx(1 + 0.5 * (q_lambda * 2 + (1 - q_lambda) * 3))


@pytest.mark.parametrize("q_lambda", [0.0, 0.65, 1.0])
def test_a_truncated_episode_bootstraps_from_its_own_last_observation(q_lambda):
    reward = torch.tensor([[1.0], [2.0], [1e6]])
    discount, value = torch.full((3, 1), 0.5), torch.tensor([[3.0], [8.0], [1e6]])
    carry = torch.tensor([[True], [False], [True]])
    targets = lambda_targets(reward, discount, value, carry, q_lambda)
    assert targets[1].item() == 2.0 + 0.5 * 8.0
    assert targets[0].item() == pytest.approx(1 + 0.5 * (q_lambda * 6 + (1 - q_lambda) * 3))


@pytest.mark.parametrize("carry", [True, False])
def test_the_last_row_bootstraps_whatever_its_carry_says(carry):
    one = torch.ones(1, 2)
    targets = lambda_targets(one, 0.5 * one, 4 * one, torch.full((1, 2), carry), 0.65)
    assert targets.tolist() == [[3.0, 3.0]]


# Returns


@pytest.mark.parametrize("n", [3, 5])
def test_n_step_returns_are_those_of_rlax(n):
    for rewards, discounts, values, expected in zip(
        MULTISTEP_REWARD, MULTISTEP_DISCOUNT, MULTISTEP_VALUE, MULTISTEP_RETURNS[n], strict=True
    ):
        for start in range(5):
            end = min(start + n, 5)
            # after a window's end the reward is 0 and the discount 1
            reward = torch.tensor([rewards[start:end] + [0.0] * (n - end + start)])
            discount = torch.tensor([discounts[start:end] + [1.0] * (n - end + start)])
            total, weight = n_step_return(reward, discount)
            bootstrapped = total + weight * values[end - 1]
            assert bootstrapped.item() == pytest.approx(expected[start], abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_n_step_return_matches_the_definition(seed):
    rng = torch.Generator().manual_seed(seed)
    reward, discount = torch.randn(2, 6, 4, generator=rng).double()
    expected_total, expected_weight = [], []
    for rewards, discounts in zip(reward.tolist(), discount.tolist(), strict=True):
        total = sum(
            r * torch.tensor(discounts[:k], dtype=torch.float64).prod().item()
            for k, r in enumerate(rewards)
        )
        expected_total.append(total)
        expected_weight.append(torch.tensor(discounts, dtype=torch.float64).prod().item())
    total, weight = n_step_return(reward, discount)
    torch.testing.assert_close(total, torch.tensor(expected_total, dtype=torch.float64))
    torch.testing.assert_close(weight, torch.tensor(expected_weight, dtype=torch.float64))


def test_rewards_after_the_games_end_do_not_count():
    reward = torch.tensor([[1.0, 2.0, 1e6], [4.0, 1e6, 1e6], [1.0, 1.0, 8.0]])
    discount = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    total, weight = n_step_return(reward, discount)
    assert total.tolist() == [2.0, 4.0, 1.0 + 0.5 + 2.0]
    assert weight.tolist() == [0.0, 0.0, 0.0]


def test_a_window_cut_short_bootstraps_with_the_discount_of_its_own_length():
    total, weight = n_step_return(
        torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    )
    assert (total.item(), weight.item()) == (2.0, 0.25)


def test_one_step_is_temporal_difference():
    reward, discount = transitions(0)
    total, weight = n_step_return(reward.unsqueeze(1), discount.unsqueeze(1))
    assert torch.equal(total, reward)
    assert torch.equal(weight, discount)


def test_gamma_zero_learns_the_next_reward_alone():
    reward = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    total, weight = n_step_return(reward, torch.zeros(5, 3))
    assert torch.equal(td_target(total, weight, torch.full((5, 1), 1e6))[:, 0], reward[:, 0])


def test_gamma_one_learns_the_plain_sum():
    total, weight = n_step_return(torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3))
    assert (total.item(), weight.item()) == (7.0, 1.0)


# Shapes that would broadcast

B, N = 3, 4
VECTOR, COLUMN, VALUES = torch.zeros(B), torch.zeros(B, 1), torch.zeros(B, N)
ACTION = torch.zeros(B, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: td_target(VECTOR, COLUMN, VALUES), r"discount must .* \(3,\), got \(3, 1\)"),
        (lambda: td_target(COLUMN, VECTOR, VALUES), r"reward must .* \(3,\), got \(3, 1\)"),
        (lambda: td_target(COLUMN, COLUMN, VALUES), r"reward must .* \(3,\), got \(3, 1\)"),
        (lambda: td_target(VECTOR, VECTOR, VALUES[:1]), r"values must .* \(3, 4\), got \(1, 4\)"),
        (
            lambda: td_target(VECTOR, VECTOR, VALUES.unsqueeze(1)),
            r"values must .* \(3, 4\), got \(3, 1, 4\)",
        ),
        (
            lambda: munchausen_bonus(VALUES[:1], ACTION, alpha=0.9, tau=0.03, clip=-1),
            r"q_values must have shape \(3, 4\), got \(1, 4\)",
        ),
        (
            lambda: lambda_targets(VALUES, COLUMN, VALUES, VALUES.bool(), 0.5),
            r"discount must have shape \(3, 4\), got \(3, 1\)",
        ),
        (
            lambda: lambda_targets(VALUES, VALUES, VALUES[:1], VALUES.bool(), 0.5),
            r"next_value must have shape \(3, 4\), got \(1, 4\)",
        ),
        (
            lambda: lambda_targets(VALUES, VALUES, VALUES, COLUMN.bool(), 0.5),
            r"carry must have shape \(3, 4\), got \(3, 1\)",
        ),
        (
            lambda: n_step_return(VALUES, COLUMN),
            r"discount must have shape \(3, 4\), got \(3, 1\)",
        ),
        (
            lambda: n_step_return(COLUMN, VECTOR),
            r"discount must have shape \(3, 1\), got \(3,\)",
        ),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
