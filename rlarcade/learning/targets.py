"""Targets: pure functions of tensors, no state and no I/O.

Shapes: B transitions in the batch, A actions, n steps. A transition's `discount` already says how
it ended: γⁿ if the episode continued or was truncated, 0 if it terminated. So no function here
takes a `done`, and a time limit cannot be mistaken for the end of the game.
"""

import torch
from torch import Tensor

from rlarcade.learning.heads import Returns
from rlarcade.learning.losses import require_shape


def q_target(reward: Tensor, discount: Tensor, ahead: Returns) -> Returns:
    """Q-learning's target: y = R + discount · z(s′, a*), where a* = argmaxₐ Q̄(s′, a).

    Mnih et al. (2015), Algorithm 1, https://www.nature.com/articles/nature14236. With returns z in
    place of their mean Q̄ it is the target of C51, QR-DQN and IQN: Bellemare, Dabney & Munos (2017),
    Algorithm 1, https://arxiv.org/abs/1707.06887.

    Args:
        reward: float32 (B,), discounted sum of the n rewards after s.
        discount: float32 (B,), γⁿ, or 0 if the game terminated within the n steps.
        ahead: the target network's returns of all actions in s′, (B, A, M).

    Returns:
        The possible returns of (s, a), (B, M), detached.
    """
    return double_target(reward, discount, ahead, ahead.mean())


def double_target(reward: Tensor, discount: Tensor, ahead: Returns, picks: Tensor) -> Returns:
    """Double Q-learning's target: as `q_target`, but a* = argmaxₐ Q(s′, a) of the online network.

    Van Hasselt, Guez & Silver (2016), eq. 4, https://arxiv.org/abs/1509.06461.

    Args:
        reward: float32 (B,), discounted sum of the n rewards after s.
        discount: float32 (B,), γⁿ, or 0 if the game terminated within the n steps.
        ahead: the target network's returns of all actions in s′, (B, A, M).
        picks: float32 (B, A), Q(s′, ·) of the online network.

    Returns:
        The possible returns of (s, a), (B, M), detached.
    """
    best = ahead.of(picks.argmax(dim=1))
    return best._replace(values=td_target(reward, discount, best.values))


def munchausen_target(
    reward: Tensor,
    discount: Tensor,
    ahead: Returns,
    q_values: Tensor,
    action: Tensor,
    *,
    alpha: float,
    tau: float,
    clip: float,
) -> Returns:
    """Munchausen's target: `q_target` with a soft maximum, and the log-policy added to the reward.

    y = R + α·τ log π(a|s) + discount · Σₐ′ π(a′|s′)·(z(s′, a′) − τ log π(a′|s′)), π = softmax(Q/τ).
    Vieillard, Pietquin & Geist (2020), eq. 4, https://arxiv.org/abs/2007.14430.

    Args:
        reward: float32 (B,), discounted sum of the n rewards after s.
        discount: float32 (B,), γⁿ, or 0 if the game terminated within the n steps.
        ahead: the target network's returns of all actions in s′, (B, A, M).
        q_values: float32 (B, A), Q(s, ·) of the network that gives the policy in s.
        action: int64 (B,), the action taken in s.
        alpha: α, the share of the log-policy that is added.
        tau: temperature.
        clip: lower bound of τ log π(a|s), at most 0.

    Returns:
        The possible returns of (s, a), (B, M), detached.
    """
    bonus = munchausen_bonus(q_values, action, alpha=alpha, tau=tau, clip=clip)
    return Returns(td_target(reward + bonus, discount, soft_values(ahead.values, tau)))


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
    require_shape("reward", reward, (len(reward),))
    require_shape("discount", discount, reward.shape)
    if values.dim() != 1:
        require_shape("values", values, (reward.shape[0], values.shape[-1]))
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
    require_shape("q_values", q_values, (action.shape[0], q_values.shape[-1]))
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
        require_shape(name, tensor, reward.shape)
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
    require_shape("discount", discount, reward.shape)
    total = torch.zeros_like(reward[:, 0])
    weight = torch.ones_like(total)
    for step in range(reward.shape[1]):
        total = total + weight * reward[:, step]
        weight = weight * discount[:, step]
    return total, weight
