"""rlarcade.learning.losses against published numbers and definitions written one step at a time."""

import pytest
import torch

from rlarcade.learning.losses import double_target, huber_td_loss, max_target, n_step_return

# google-deepmind/rlax @4c5d25b, rlax/_src/value_learning_test.py (Q-learning and its double form)
RLAX_Q = torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
RLAX_ACTION = torch.tensor([0, 1])
RLAX_REWARD = torch.tensor([1.0, 1.0])
RLAX_DISCOUNT = torch.tensor([0.0, 1.0])
RLAX_TD_ERROR = torch.tensor([0.0, 1.0])

# google-deepmind/rlax @4c5d25b, rlax/_src/multistep_test.py
MULTISTEP_REWARD = [[1.0, 0.0, -1.0, 0.0, 1.0], [0.5, 0.8, -0.7, 0.0, 2.1]]
MULTISTEP_DISCOUNT = [[0.5, 0.9, 1.0, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7]]
MULTISTEP_VALUE = [[3.0, 1.0, 5.0, -5.0, 3.0], [-1.7, 1.2, 2.3, 2.2, 2.7]]
MULTISTEP_RETURNS = {
    3: [[2.8, -3.15, 0.7, 1.7, 3.4], [1.2155, 0.714, 0.2576, 3.192, 3.99]],
    5: [[1.315, 0.63, 0.7, 1.7, 3.4], [1.33592, 0.9288, 0.2576, 3.192, 3.99]],
}


def transitions(seed, batch=7, actions=4):
    """Reward and discount (B,), a third of them terminal, and two sets of values (B, A)."""
    rng = torch.Generator().manual_seed(seed)
    reward = torch.randn(batch, generator=rng)
    discount = torch.rand(batch, generator=rng)
    discount[::3] = 0.0
    one, other = torch.randn(2, batch, actions, generator=rng)
    return reward, discount, one, other


# Targets


def test_max_target_gives_rlax_its_td_errors():
    next_q = torch.tensor([[0.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    target = max_target(RLAX_REWARD, RLAX_DISCOUNT, next_q)
    taken = RLAX_Q[[0, 1], RLAX_ACTION]
    torch.testing.assert_close(target - taken, RLAX_TD_ERROR)


def test_double_target_gives_rlax_its_td_errors():
    value = torch.tensor([[99.0, 1.0, 98.0], [91.0, 2.0, 66.0]])
    selector = torch.tensor([[2.0, 10.0, 1.0], [11.0, 20.0, 1.0]])
    target = double_target(RLAX_REWARD, RLAX_DISCOUNT, selector, value)
    taken = RLAX_Q[[0, 1], RLAX_ACTION]
    torch.testing.assert_close(target - taken, RLAX_TD_ERROR)


@pytest.mark.parametrize("seed", range(5))
def test_max_target_matches_the_definition(seed):
    reward, discount, next_q, _ = transitions(seed)
    expected = [
        r + d * max(values)
        for r, d, values in zip(reward.tolist(), discount.tolist(), next_q.tolist(), strict=True)
    ]
    torch.testing.assert_close(max_target(reward, discount, next_q), torch.tensor(expected))


@pytest.mark.parametrize("seed", range(5))
def test_double_target_matches_the_definition(seed):
    reward, discount, online, frozen = transitions(seed)
    expected = []
    for r, d, picks, values in zip(
        *(x.tolist() for x in (reward, discount, online, frozen)), strict=True
    ):
        best = max(range(len(picks)), key=lambda a: picks[a])
        expected.append(r + d * values[best])
    torch.testing.assert_close(
        double_target(reward, discount, online, frozen), torch.tensor(expected)
    )


def test_the_online_network_picks_and_the_target_network_values():
    picks = torch.tensor([[2.0, 10.0, 1.0]])
    values = torch.tensor([[99.0, 3.0, 98.0]])  # 99 and 98 are what a plain max would take
    target = double_target(torch.tensor([1.0]), torch.tensor([0.5]), picks, values)
    assert target.item() == 1.0 + 0.5 * 3.0


@pytest.mark.parametrize("seed", range(3))
def test_one_network_doubled_is_the_plain_maximum(seed):
    reward, discount, next_q, _ = transitions(seed)
    doubled = double_target(reward, discount, next_q, next_q)
    assert torch.equal(doubled, max_target(reward, discount, next_q))


@pytest.mark.parametrize("seed", range(3))
def test_the_double_target_never_exceeds_the_plain_one(seed):
    reward, discount, online, frozen = transitions(seed)
    doubled = double_target(reward, discount, online, frozen)
    assert (doubled <= max_target(reward, discount, frozen)).all()


def test_a_terminated_transition_does_not_bootstrap():
    reward, nothing = torch.tensor([-1.0]), torch.tensor([0.0])
    q = torch.full((1, 3), 1e6)
    assert max_target(reward, nothing, q).item() == -1.0
    assert double_target(reward, nothing, q, q).item() == -1.0


def test_no_gradient_reaches_what_targets_are_made_of():
    reward, discount = (torch.ones(2, requires_grad=True) for _ in range(2))
    online, frozen = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    assert not max_target(reward, discount, frozen).requires_grad
    assert not double_target(reward, discount, online, frozen).requires_grad


# The loss


def test_the_loss_has_dopamines_huber_values():
    # google/dopamine @5873f54, tests/dopamine/jax/losses_test.py
    q_values = torch.arange(5.0).unsqueeze(1)
    loss = huber_td_loss(q_values, torch.zeros(5, dtype=torch.int64), torch.ones(5))
    assert loss.tolist() == [0.5, 0.0, 0.5, 1.5, 2.5]


def test_the_loss_of_rlax_td_errors_is_half_their_square():
    target = RLAX_TD_ERROR + RLAX_Q[[0, 1], RLAX_ACTION]
    assert huber_td_loss(RLAX_Q, RLAX_ACTION, target).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_matches_the_definition(seed):
    reward, _, q_values, _ = transitions(seed)
    target = 3 * reward
    action = torch.randint(4, (7,), generator=torch.Generator().manual_seed(seed))
    expected = []
    for values, a, y in zip(q_values.tolist(), action.tolist(), target.tolist(), strict=True):
        error = abs(y - values[a])
        expected.append(error**2 / 2 if error <= 1 else error - 0.5)
    torch.testing.assert_close(huber_td_loss(q_values, action, target), torch.tensor(expected))


def test_the_gradient_is_the_error_clipped_to_one_at_the_action_taken():
    q_values = torch.zeros(4, 3, requires_grad=True)
    target = torch.tensor([0.5, 20.0, -0.25, -7.0])
    huber_td_loss(q_values, torch.tensor([0, 1, 2, 1]), target).sum().backward()
    assert q_values.grad.tolist() == [[-0.5, 0, 0], [0, -1, 0], [0, 0, 0.25], [0, 1, 0]]


def test_a_transition_has_its_own_loss():
    q_values, target = torch.zeros(3, 2), torch.tensor([0.0, 1.0, 2.0])
    assert huber_td_loss(q_values, torch.tensor([0, 1, 0]), target).tolist() == [0.0, 0.5, 1.5]


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
    reward, discount, _, _ = transitions(0)
    total, weight = n_step_return(reward.unsqueeze(1), discount.unsqueeze(1))
    assert torch.equal(total, reward)
    assert torch.equal(weight, discount)


def test_gamma_zero_learns_the_next_reward_alone():
    reward = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    total, weight = n_step_return(reward, torch.zeros(5, 3))
    assert torch.equal(max_target(total, weight, torch.full((5, 2), 1e6)), reward[:, 0])


def test_gamma_one_learns_the_plain_sum():
    total, weight = n_step_return(torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3))
    assert (total.item(), weight.item()) == (7.0, 1.0)


# Shapes that would broadcast

B, A = 3, 2
VECTOR, COLUMN, VALUES = torch.zeros(B), torch.zeros(B, 1), torch.zeros(B, A)
ACTION = torch.zeros(B, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: max_target(VECTOR, COLUMN, VALUES), r"discount must .* \(3,\), got \(3, 1\)"),
        (lambda: max_target(COLUMN, VECTOR, VALUES), r"reward must .* \(3,\), got \(3, 1\)"),
        (lambda: max_target(VECTOR, VECTOR, VALUES[:1]), r"next_q must .* \(3, 2\), got \(1, 2\)"),
        (
            lambda: double_target(VECTOR, COLUMN, VALUES, VALUES),
            r"discount must have shape \(3,\), got \(3, 1\)",
        ),
        (
            lambda: double_target(VECTOR, VECTOR, VALUES[:1], VALUES),
            r"next_q_online must have shape \(3, 2\), got \(1, 2\)",
        ),
        (
            lambda: double_target(VECTOR, VECTOR, VALUES, VALUES[:1]),
            r"next_q_target must have shape \(3, 2\), got \(1, 2\)",
        ),
        (
            lambda: double_target(VECTOR, VECTOR, VALUES, torch.zeros(B, A + 1)),
            r"next_q_target must have shape \(3, 2\), got \(3, 3\)",
        ),
        (
            lambda: huber_td_loss(VALUES, ACTION, COLUMN),
            r"target must have shape \(3,\), got \(3, 1\)",
        ),
        (
            lambda: huber_td_loss(torch.zeros(B + 1, A), ACTION, VECTOR),
            r"q_values must have shape \(3, 2\), got \(4, 2\)",
        ),
        (
            lambda: n_step_return(torch.zeros(B, 4), COLUMN),
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


@pytest.mark.parametrize(
    "call",
    [
        lambda: max_target(COLUMN, COLUMN, VALUES),
        lambda: double_target(COLUMN, COLUMN, VALUES, VALUES),
    ],
)
def test_columns_of_rewards_and_discounts_are_refused_together_too(call):
    with pytest.raises(ValueError, match="must have shape"):
        call()
