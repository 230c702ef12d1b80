"""Targets and losses: pure functions of tensors, no state and no I/O.

Shapes: B transitions in the batch, A actions, n steps. A transition's `discount` already says how
it ended: γⁿ if the episode continued or was truncated, 0 if it terminated. So no function here
takes a `done`, and a time limit cannot be mistaken for the end of the game.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def td_target(reward: Tensor, discount: Tensor, values: Tensor) -> Tensor:
    """Computes the target of each transition from possible returns z of s′: y = R + discount · z.

    With z = maxₐ Q(s′, a) this is the target of Q-learning, Mnih et al. (2015),
    https://www.nature.com/articles/nature14236.

    Args:
        reward: float32 (B,), discounted sum of the n rewards after s.
        discount: float32 (B,), γⁿ, or 0 if the game terminated within the n steps.
        values: float32 (B, M), possible returns z of s′; or (M,), if all transitions share them.

    Returns:
        float32 (B, M), detached.

    Raises:
        ValueError: the shapes do not match; broadcasting would give a wrong result.
    """
    _require_shape("reward", reward, (len(reward),))
    _require_shape("discount", discount, reward.shape)
    if values.dim() != 1:
        _require_shape("values", values, (reward.shape[0], values.shape[-1]))
    return (reward.unsqueeze(1) + discount.unsqueeze(1) * values).detach()


def soft_values(values: Tensor, tau: float) -> Tensor:
    """Returns the returns of s′ under a soft policy, with entropy: Σₐ π(a)·(zₐ − τ log π(a)).

    Their mean is τ·logsumexp(Q/τ), which approaches maxₐ Q as τ falls. Vieillard, Pietquin & Geist
    (2020), https://arxiv.org/abs/2007.14430.

    Args:
        values: float32 (B, A, M), possible returns of each action; Q is their mean.
        tau: temperature, above 0.

    Returns:
        float32 (B, M).
    """
    policy, scaled_log = soft_policy(values.mean(dim=-1), tau)
    return (policy.unsqueeze(-1) * (values - scaled_log.unsqueeze(-1))).sum(dim=1)


def huber_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Huber loss of each transition's TD error.

    Huber with δ = 1 has the gradient of "clipping the error term to be between −1 and 1", Mnih et
    al. (2015), Methods, https://www.nature.com/articles/nature14236.

    Args:
        predicted: float32 (B,), Q(s, a) of the action taken.
        target: float32 (B,).

    Returns:
        float32 (B,), not reduced.

    Raises:
        ValueError: the shapes do not match; broadcasting would give a wrong result.
    """
    _require_shape("predicted", predicted, (len(predicted),))
    _require_shape("target", target, predicted.shape)
    return F.huber_loss(predicted, target.detach(), reduction="none", delta=1.0)


def squared_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Half the squared TD error of each transition. Arguments and result are those of `huber_loss`.

    Raises:
        ValueError: the shapes do not match; broadcasting would give a wrong result.
    """
    _require_shape("predicted", predicted, (len(predicted),))
    _require_shape("target", target, predicted.shape)
    return 0.5 * (predicted - target.detach()) ** 2


def quantile_huber_loss(
    predicted: Tensor, taus: Tensor, target: Tensor, *, kappa: float = 1.0
) -> Tensor:
    """Quantile regression of predicted quantiles onto samples of the target.

    ρ_τ(u) = |τ − 1{u < 0}| · L_κ(u)/κ for u = target − predicted, summed over predicted quantiles
    and averaged over target samples. Dabney et al. (2018), eq. 10, https://arxiv.org/abs/1710.10044.

    Args:
        predicted: float32 (B, N), quantiles of the action taken.
        taus: float32 (B, N) or (1, N), the fractions of the predicted quantiles.
        target: float32 (B, M), samples of the target's return; no gradient flows into them.
        kappa: error at which the loss changes from quadratic to linear.

    Returns:
        float32 (B,), not reduced.

    Raises:
        ValueError: the shapes do not match; broadcasting would give a wrong result.
    """
    _require_shape("target", target, (predicted.shape[0], target.shape[-1]))
    _require_shape("taus", taus, (taus.shape[0], predicted.shape[1]))
    if taus.shape[0] not in (1, predicted.shape[0]):
        raise ValueError(f"taus must have 1 or {predicted.shape[0]} rows, got {taus.shape[0]}")
    error = target.detach().unsqueeze(1) - predicted.unsqueeze(2)  # (B, N, M)
    size = error.abs()
    huber = torch.where(size <= kappa, 0.5 * error**2, kappa * (size - 0.5 * kappa)) / kappa
    weight = (taus.detach().unsqueeze(2) - (error.detach() < 0).to(error.dtype)).abs()
    return (weight * huber).mean(dim=2).sum(dim=1)


def project_onto_atoms(values: Tensor, probabilities: Tensor, atoms: Tensor) -> Tensor:
    """Projects a distribution onto fixed atoms: each value is split between its two neighbours.

    Values beyond the atoms are clipped. A value that equals an atom keeps its whole probability.
    Bellemare, Dabney & Munos (2017), eq. 7, https://arxiv.org/abs/1707.06887.

    Args:
        values: float32 (B, M), possible returns, in any order.
        probabilities: float32 (B, M), the probability of each return.
        atoms: float32 (N,), evenly spaced, ascending.

    Returns:
        Probabilities of the atoms, float32 (B, N).

    Raises:
        ValueError: the shapes do not match; broadcasting would give a wrong result.
    """
    _require_shape("probabilities", probabilities, values.shape)
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    clipped = values.clamp(atoms[0], atoms[-1]).unsqueeze(1)  # (B, 1, M)
    distance = (clipped - atoms.view(1, -1, 1)).abs() / spacing  # (B, N, M)
    return ((1 - distance).clamp(min=0) * probabilities.unsqueeze(1)).sum(dim=2)


def cross_entropy(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy −Σ p log q of predicted log-probabilities (B, N) under a target (B, N).

    Returns:
        float32 (B,), not reduced.

    Raises:
        ValueError: the two shapes differ.
    """
    _require_shape("target", target, log_probabilities.shape)
    return -(target.detach() * log_probabilities).sum(dim=1)


def soft_policy(q_values: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Returns the policy softmax(Q/τ), and τ times its logarithm, computed without overflow.

    Vieillard, Pietquin & Geist (2020), appendix B.1, https://arxiv.org/abs/2007.14430.

    Args:
        q_values: float32 (B, A).
        tau: temperature, above 0.

    Returns:
        The policy and its scaled logarithm, both float32 (B, A).
    """
    log_policy = (q_values / tau).log_softmax(dim=-1)
    return log_policy.exp(), tau * log_policy


def munchausen_bonus(
    q_values: Tensor, action: Tensor, *, alpha: float, tau: float, clip: float
) -> Tensor:
    """Returns Munchausen's addition to the reward: α·τ log π(a|s), τ log π clipped to [l₀, 0].

    Vieillard, Pietquin & Geist (2020), eq. 4, https://arxiv.org/abs/2007.14430. With n-step returns
    it is added once, for the first action.

    Args:
        q_values: float32 (B, A), Q(s, ·) of the network that gives the policy π.
        action: int64 (B,), the action taken in s.
        alpha: α, the share of the log-policy that is added.
        tau: temperature.
        clip: l₀, at most 0.

    Returns:
        float32 (B,), detached.
    """
    _require_shape("q_values", q_values, (action.shape[0], q_values.shape[-1]))
    _, scaled_log = soft_policy(q_values, tau)
    taken = scaled_log.gather(1, action.unsqueeze(1)).squeeze(1)
    return (alpha * taken.clamp(clip, 0)).detach()


def lambda_targets(
    reward: Tensor, discount: Tensor, next_value: Tensor, carry: Tensor, q_lambda: float
) -> Tensor:
    """Returns the Q(λ) targets of a rollout. Exploring actions are neither weighted nor cut.

    yₜ = rₜ + γₜ·[λ·yₜ₊₁ + (1 − λ)·maxₐ Q(sₜ₊₁, a)], computed backwards. At the rollout's end
    y = r + γ·max Q. Gallici et al. (2025), https://arxiv.org/abs/2407.04811.

    Args:
        reward: float32 (T, E).
        discount: float32 (T, E), γ, or 0 where the game terminated.
        next_value: float32 (T, E), maxₐ Q(sₜ₊₁, a). For a truncated episode sₜ₊₁ is its true last
            observation.
        carry: bool (T, E), whether row t + 1 continues the same episode. It is false at every
            episode's end, terminated or truncated. The last row of `carry` is not used.
        q_lambda: λ, 0 … 1.

    Returns:
        float32 (T, E), detached.

    Raises:
        ValueError: the shapes differ.
    """
    for name, tensor in (("discount", discount), ("next_value", next_value), ("carry", carry)):
        _require_shape(name, tensor, reward.shape)
    targets = torch.empty_like(reward)
    later = next_value[-1]
    for t in range(len(reward) - 1, -1, -1):
        mixed = torch.lerp(next_value[t], later, q_lambda)
        bootstrap = torch.where(carry[t], mixed, next_value[t]) if t < len(reward) - 1 else later
        targets[t] = reward[t] + discount[t] * bootstrap
        later = targets[t]
    return targets.detach()


def n_step_return(reward: Tensor, discount: Tensor) -> tuple[Tensor, Tensor]:
    """Sums n rewards, each multiplied by all discounts before it.

    Rₙ = r₁ + γ₁r₂ + γ₁γ₂r₃ + …; the bootstrap's discount is γ₁γ₂…γₙ. Sutton & Barto (2018),
    eq. 7.1, http://incompleteideas.net/book/the-book-2nd.html.

    Args:
        reward: float32 (B, n), rewards after s in order; 0 after the window's end.
        discount: float32 (B, n): γ; 0 where the game terminated; 1 after the window's end.

    Returns:
        The return, float32 (B,), and the bootstrap's discount, float32 (B,).

    Raises:
        ValueError: the two shapes differ.
    """
    _require_shape("discount", discount, reward.shape)
    total = torch.zeros_like(reward[:, 0])
    weight = torch.ones_like(total)
    for step in range(reward.shape[1]):
        total = total + weight * reward[:, step]
        weight = weight * discount[:, step]
    return total, weight


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuses shapes such as (B, 1) and (B,), which would broadcast to (B, B) without an error."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
