"""rlarcade.learning.losses against published numbers and definitions written one step at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlarcade.learning.losses import (
    cross_entropy,
    gauss_histogram,
    huber_loss,
    project_onto_atoms,
    quantile_huber_loss,
    squared_loss,
)
from rlarcade.learning.targets import td_target

# QuantileRegressionLossTest of rlax @4c5d25b, rlax/_src/value_learning_test.py
QUANTILES = torch.tensor([[-1.0, 3.0], [-1.0, 3.0]])
QUANTILE_TAUS = torch.tensor([[0.2, 0.7], [0.0, 0.4]])
QUANTILE_TARGETS = torch.tensor([[-3.0, 4.0, 2.0], [-3.0, 4.0, 2.0]])

# ProjectDistributionTest of google/dopamine @5873f54,
# tests/dopamine/jax/agents/rainbow/rainbow_agent_test.py: values, probabilities, atoms, projection
DOPAMINE_PROJECTIONS = {
    "the same atoms": (
        [[0, 1, 2, 3, 4]],
        [[0.1, 0.2, 0.1, 0.3, 0.3]],
        [0, 1, 2, 3, 4],
        [[0.1, 0.2, 0.1, 0.3, 0.3]],
    ),
    "below the atoms": (
        [[0, 1, 2, 3, 4]],
        [[0.1, 0.2, 0.1, 0.3, 0.3]],
        [3, 4, 5, 6, 7],
        [[0.7, 0.3, 0, 0, 0]],
    ),
    "descending": (
        [[4, 3, 2, 1, 0]],
        [[0.1, 0.2, 0.1, 0.3, 0.3]],
        [3, 4, 5, 6, 7],
        [[0.9, 0.1, 0, 0, 0]],
    ),
    "two rows": (
        [[0, 2, 4, 6, 8], [1, 3, 4, 5, 6]],
        [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.2, 0.5, 0.1, 0.1]],
        [4, 5, 6, 7, 8],
        [[0.8, 0, 0.1, 0, 0.1], [0.8, 0.1, 0.1, 0, 0]],
    ),
    "three rows": (
        [[0, 2, 4, 6, 8], [0, 1, 2, 3, 4], [3, 4, 5, 6, 7]],
        [[0.1, 0.2, 0.3, 0.2, 0.2], [0.1, 0.2, 0.1, 0.3, 0.3], [0.1, 0.2, 0.3, 0.2, 0.2]],
        [3, 4, 5, 6, 7],
        [[0.3, 0.3, 0, 0.2, 0.2], [0.7, 0.3, 0, 0, 0], [0.1, 0.2, 0.3, 0.2, 0.2]],
    ),
    "wider spaced": (
        [[0, 2, 4, 6, 8], [8, 9, 10, 12, 14]],
        [[0.1, 0.2, 0.2, 0.2, 0.3], [0.1, 0.2, 0.4, 0.1, 0.2]],
        [0, 4, 8, 12, 16],
        [[0.2, 0.4, 0.4, 0, 0], [0, 0, 0.45, 0.45, 0.1]],
    ),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def distribution(seed, *shape):
    return torch.randn(*shape, generator=seeded(seed)).softmax(dim=-1)


# Losses of the expected return


def test_the_huber_loss_has_dopamines_values():
    # google/dopamine @5873f54, tests/dopamine/jax/losses_test.py
    assert huber_loss(torch.arange(5.0), torch.ones(5)).tolist() == [0.5, 0.0, 0.5, 1.5, 2.5]


def test_the_squared_loss_is_half_of_dopamines():
    # the same file has [1, 0, 1, 4, 9], without the ½ that makes the error the gradient
    assert squared_loss(torch.arange(5.0), torch.ones(5)).tolist() == [0.5, 0.0, 0.5, 2.0, 4.5]


@pytest.mark.parametrize("seed", range(5))
def test_both_losses_match_the_definition(seed):
    predicted, target = 2 * torch.randn(2, 7, generator=seeded(seed))
    huber, squared = [], []
    for p, y in zip(predicted.tolist(), target.tolist(), strict=True):
        error = abs(y - p)
        huber.append(error**2 / 2 if error <= 1 else error - 0.5)
        squared.append(error**2 / 2)
    torch.testing.assert_close(huber_loss(predicted, target), torch.tensor(huber))
    torch.testing.assert_close(squared_loss(predicted, target), torch.tensor(squared))


@pytest.mark.parametrize(
    ("loss", "gradient"),
    [(huber_loss, [-0.5, -1.0, 0.25, 1.0]), (squared_loss, [-0.5, -20.0, 0.25, 7.0])],
)
def test_the_gradient_is_the_error_which_huber_clips_to_one(loss, gradient):
    predicted = torch.zeros(4, requires_grad=True)
    target = torch.tensor([0.5, 20.0, -0.25, -7.0], requires_grad=True)
    loss(predicted, target).sum().backward()
    assert predicted.grad.tolist() == gradient
    assert target.grad is None


# Quantiles


def test_the_quantile_loss_has_rlax_values_without_a_quadratic_part():
    loss = quantile_huber_loss(QUANTILES, QUANTILE_TAUS, QUANTILE_TARGETS, kappa=1e-6)
    torch.testing.assert_close(loss, torch.tensor([2.0, 2.2]), rtol=0, atol=1e-5)


def test_the_quantile_loss_has_rlax_values_divided_by_kappa():
    # Dabney et al. (2018) divide by κ, so that its slope is that of quantile regression
    loss = quantile_huber_loss(QUANTILES, QUANTILE_TAUS, QUANTILE_TARGETS, kappa=2.0)
    torch.testing.assert_close(2.0 * loss, torch.tensor([2.5, 8.5 / 3]))


def slow_quantile_loss(predicted, taus, target, kappa):
    """Of one transition, from lists: summed over predicted, averaged over target quantiles."""
    total = 0.0
    for theta, tau in zip(predicted, taus, strict=True):
        for y in target:
            u = y - theta
            huber = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
            total += abs(tau - (1.0 if u < 0 else 0.0)) * huber / kappa / len(target)
    return total


@pytest.mark.parametrize("kappa", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("shared", [True, False], ids=["shared taus", "taus of each row"])
def test_the_quantile_loss_matches_the_definition(kappa, shared):
    rng = seeded(3)
    predicted, target = torch.randn(4, 3, generator=rng), 2 * torch.randn(4, 5, generator=rng)
    taus = torch.rand(1 if shared else 4, 3, generator=rng)
    expected = [
        slow_quantile_loss(*rows, kappa)
        for rows in zip(
            predicted.tolist(), taus.expand(4, 3).tolist(), target.tolist(), strict=True
        )
    ]
    loss = quantile_huber_loss(predicted, taus, target, kappa=kappa)
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize("kappa", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("shared", [True, False], ids=["shared taus", "taus of each row"])
def test_the_gradient_of_the_quantile_loss_is_its_slope(kappa, shared):
    rng = seeded(5)
    predicted, target = torch.randn(4, 3, generator=rng), 2 * torch.randn(4, 5, generator=rng)
    taus, weight = torch.rand(1 if shared else 4, 3, generator=rng), torch.rand(4, generator=rng)

    def total(predicted):
        losses = quantile_huber_loss(predicted, taus.double(), target.double(), kappa=kappa)
        return (weight * losses).sum()

    assert torch.autograd.gradcheck(total, predicted.double().requires_grad_())


def quantile_gradient(predicted, tau, target):
    theta = torch.tensor([[predicted]], requires_grad=True)
    loss = quantile_huber_loss(theta, torch.tensor([[tau]]), target, kappa=1e-3)
    loss.sum().backward()
    return theta.grad.item()


@pytest.mark.parametrize("tenths", range(1, 10))
def test_the_gradient_vanishes_at_the_targets_own_quantile_and_points_there(tenths):
    target, tau = torch.arange(1.0, 11.0).unsqueeze(0), tenths / 10
    assert quantile_gradient(tenths + 0.5, tau, target) == pytest.approx(0.0, abs=1e-6)
    assert quantile_gradient(tenths - 0.5, tau, target) == pytest.approx(-0.1, abs=1e-6)
    assert quantile_gradient(tenths + 1.5, tau, target) == pytest.approx(0.1, abs=1e-6)


def test_one_median_has_half_the_huber_loss():
    predicted, target = torch.randn(2, 6, 1, generator=seeded(0)) * 2
    loss = quantile_huber_loss(predicted, torch.full((1, 1), 0.5), target)
    torch.testing.assert_close(loss, huber_loss(predicted[:, 0], target[:, 0]) / 2)


def test_no_gradient_of_the_quantile_loss_reaches_fractions_or_target():
    predicted, taus, target = (torch.rand(2, 3, requires_grad=True) for _ in range(3))
    quantile_huber_loss(predicted, taus, target).sum().backward()
    assert predicted.grad is not None
    assert taus.grad is None
    assert target.grad is None


# Categorical


@pytest.mark.parametrize("case", DOPAMINE_PROJECTIONS)
def test_projections_are_those_of_dopamine(case):
    values, probabilities, atoms, expected = (
        torch.tensor(part, dtype=torch.float32) for part in DOPAMINE_PROJECTIONS[case]
    )
    projected = project_onto_atoms(values, probabilities, atoms)
    torch.testing.assert_close(projected, expected, rtol=0, atol=1e-6)


def test_the_projection_is_that_of_rlax():
    # L2ProjectTest of rlax; its "probabilities" are any weights
    old = torch.arange(-1, 1, 0.25)
    for shift, skipped, expected in (
        (0.0, 0, [-0.375, -0.5, 0, 0.875]),
        (1.0, 1, [0, 0.5, 1, 1.5]),
    ):
        values = (old + shift).unsqueeze(0)
        weights = values.clone()
        weights[0, skipped::2] = 0.0
        projected = project_onto_atoms(values, weights, torch.arange(-1, 1, 0.5) + shift)
        torch.testing.assert_close(projected, torch.tensor([expected]))


def slow_projection(values, probabilities, atoms):
    """Bellemare et al. (2017), algorithm 1, of one transition; its case of l = u mended."""
    spacing, projected = (atoms[-1] - atoms[0]) / (len(atoms) - 1), [0.0] * len(atoms)
    for value, p in zip(values, probabilities, strict=True):
        b = (min(max(value, atoms[0]), atoms[-1]) - atoms[0]) / spacing
        lower, upper = math.floor(b), math.ceil(b)
        if lower == upper:
            projected[lower] += p
        else:
            projected[lower] += p * (upper - b)
            projected[upper] += p * (b - lower)
    return projected


@pytest.mark.parametrize("count", [2, 51])
def test_projections_match_algorithm_one(count):
    atoms = torch.linspace(-10, 10, count, dtype=torch.float64)
    values = 8 * torch.randn(6, 13, generator=seeded(count)).double()
    probabilities = distribution(1, 6, 13).double()
    expected = [
        slow_projection(*rows, atoms.tolist())
        for rows in zip(values.tolist(), probabilities.tolist(), strict=True)
    ]
    projected = project_onto_atoms(values, probabilities, atoms)
    torch.testing.assert_close(projected, torch.tensor(expected, dtype=torch.float64))


@given(seed=st.integers(0, 10**6), shift=st.floats(-30, 30), scale=st.floats(0, 1))
@settings(max_examples=50)
def test_a_projection_loses_no_probability(seed, shift, scale):
    atoms = torch.linspace(-10, 10, 51)
    values = (shift + scale * atoms).unsqueeze(0)
    projected = project_onto_atoms(values, distribution(seed, 1, 51), atoms)
    assert (projected >= 0).all()
    assert projected.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_values_that_meet_an_atom_lose_no_probability():
    atoms = torch.linspace(-10, 10, 51)
    for steps in range(-51, 52):
        projected = project_onto_atoms((atoms + 0.4 * steps)[None], distribution(0, 1, 51), atoms)
        assert projected.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_a_terminal_return_collapses_to_the_clipped_reward():
    atoms, reward = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]), torch.tensor([1.0, 0.25, 7.0, -7.0])
    values = td_target(reward, torch.zeros(4), atoms)
    projected = project_onto_atoms(values, distribution(0, 4, 5), atoms)
    expected = torch.tensor(
        [[0, 0, 0, 1, 0], [0, 0, 0.75, 0.25, 0], [0, 0, 0, 0, 1.0], [1.0, 0, 0, 0, 0]]
    )
    torch.testing.assert_close(projected, expected)


@pytest.mark.parametrize("reward", [-1.0, -0.123, 0.0, 0.5, 1.0])
def test_inside_the_range_the_mean_moves_by_exactly_the_reward(reward):
    atoms, probabilities = torch.linspace(-10, 10, 51), torch.zeros(1, 51)
    probabilities[:, 5:-5] = distribution(2, 1, 41)
    values = td_target(torch.tensor([reward]), torch.ones(1), atoms)
    moved = (project_onto_atoms(values, probabilities, atoms) * atoms).sum()
    assert moved.item() == pytest.approx((probabilities * atoms).sum().item() + reward, abs=1e-5)


def test_no_reward_and_no_discount_leave_a_distribution_as_it_was():
    atoms, probabilities = torch.linspace(-10, 10, 51), distribution(0, 3, 51)
    values = td_target(torch.zeros(3), torch.ones(3), atoms)
    torch.testing.assert_close(
        project_onto_atoms(values, probabilities, atoms), probabilities, rtol=0, atol=1e-6
    )


def test_cross_entropy_matches_the_definition():
    predicted, target = distribution(0, 3, 4), distribution(1, 3, 4)
    expected = [
        -sum(p * math.log(q) for p, q in zip(ps, qs, strict=True))
        for ps, qs in zip(target.tolist(), predicted.tolist(), strict=True)
    ]
    torch.testing.assert_close(cross_entropy(predicted.log(), target), torch.tensor(expected))


def test_cross_entropys_gradient_is_predicted_minus_target_and_the_target_gets_none():
    logits = torch.randn(3, 4, generator=seeded(0), requires_grad=True)
    target = distribution(1, 3, 4).requires_grad_()
    cross_entropy(logits.log_softmax(dim=1), target).sum().backward()
    torch.testing.assert_close(logits.grad, (logits.softmax(dim=1) - target).detach())
    assert target.grad is None


# Shapes that would broadcast

B, N = 3, 4
VECTOR, COLUMN, VALUES = torch.zeros(B), torch.zeros(B, 1), torch.zeros(B, N)
ACTION = torch.zeros(B, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: huber_loss(VECTOR, COLUMN), r"target must have shape \(3,\), got \(3, 1\)"),
        (lambda: huber_loss(COLUMN, COLUMN), r"predicted must .* \(3,\), got \(3, 1\)"),
        (lambda: huber_loss(VECTOR, VECTOR[:1]), r"target must have shape \(3,\), got \(1,\)"),
        (lambda: squared_loss(VECTOR, COLUMN), r"target must have shape \(3,\), got \(3, 1\)"),
        (lambda: squared_loss(COLUMN, COLUMN), r"predicted must .* \(3,\), got \(3, 1\)"),
        (
            lambda: quantile_huber_loss(VALUES, VALUES, torch.zeros(1, 5)),
            r"target must have shape \(3, 5\), got \(1, 5\)",
        ),
        (
            lambda: quantile_huber_loss(VALUES, VALUES, VECTOR),
            r"target must have shape \(3, 3\), got \(3,\)",
        ),
        (
            lambda: quantile_huber_loss(VALUES, COLUMN, VALUES),
            r"taus must have shape \(3, 4\), got \(3, 1\)",
        ),
        (
            lambda: quantile_huber_loss(VALUES, torch.zeros(2, N), VALUES),
            "taus must have 1 or 3 rows, got 2",
        ),
        (
            lambda: project_onto_atoms(VALUES, VALUES[:1], torch.arange(5.0)),
            r"probabilities must have shape \(3, 4\), got \(1, 4\)",
        ),
        (
            lambda: cross_entropy(VALUES, VALUES[:1]),
            r"target must have shape \(3, 4\), got \(1, 4\)",
        ),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# HL-Gauss


@pytest.mark.parametrize("mean", [-1.0, -0.37, 0.0, 0.5, 2.0, -3.0, 9.0])
@pytest.mark.parametrize("width", [0.3, 0.75, 2.0])
def test_a_gauss_histogram_is_the_normal_distributions_share_of_each_bin(mean, width):
    from scipy.stats import norm

    atoms = np.linspace(-1, 2, 7)  # half a unit apart
    clipped = min(max(mean, -1.0), 2.0)
    normal = norm(clipped, width * 0.5)
    shares = [normal.cdf(z + 0.25) - normal.cdf(z - 0.25) for z in atoms]
    found = gauss_histogram(torch.tensor([mean]), torch.tensor(atoms, dtype=torch.float32), width)
    np.testing.assert_allclose(found[0], np.array(shares) / sum(shares), atol=2e-6)


@given(st.floats(-8, 8))
def test_the_mean_of_a_gauss_histogram_is_the_mean_it_was_made_of(mean):
    atoms = torch.linspace(-10, 10, 51)
    found = gauss_histogram(torch.tensor([mean], dtype=torch.float32), atoms)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    assert (found * atoms).sum().item() == pytest.approx(mean, abs=2e-2)


def test_a_gauss_histogram_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match="mean must have shape"):
        gauss_histogram(torch.zeros(2, 1), torch.arange(5.0))
    with pytest.raises(ValueError, match="atoms must have shape"):
        gauss_histogram(torch.zeros(2), torch.zeros(2, 5))
