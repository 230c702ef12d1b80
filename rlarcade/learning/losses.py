"""Targets and losses: pure functions of tensors, no state and no I/O.

Shapes: B transitions in the batch, A actions, n steps. A transition's `discount` already says how
it ended: γⁿ if the episode went on or was only truncated, 0 if it terminated. So nothing here takes
a `done`, and a time limit can never be mistaken for a death.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def max_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """Q-learning target: y = R + discount · maxₐ Q(s′, a).

    Mnih et al. (2015), https://www.nature.com/articles/nature14236.

    Args:
        reward: float32 (B,), discounted sum of the n rewards after s.
        discount: float32 (B,), γⁿ, or 0 where the game terminated on the way.
        next_q: float32 (B, A), Q(s′, ·) under the target network.

    Returns:
        float32 (B,), detached.

    Raises:
        ValueError: shapes that would broadcast into something else.
    """
    _require_shape("reward", reward, (len(reward),))
    _require_shape("discount", discount, reward.shape)
    _require_shape("next_q", next_q, (reward.shape[0], next_q.shape[-1]))
    return (reward + discount * next_q.amax(dim=1)).detach()


def double_target(
    reward: Tensor, discount: Tensor, next_q_online: Tensor, next_q_target: Tensor
) -> Tensor:
    """Double Q-learning target: y = R + discount · Q_target(s′, argmaxₐ Q_online(s′, a)).

    One network picks the action and the other values it, which removes most of the upward bias of a
    plain max. van Hasselt, Guez & Silver (2016), https://arxiv.org/abs/1509.06461.

    Args:
        reward: float32 (B,), discounted sum of the n rewards after s.
        discount: float32 (B,), γⁿ, or 0 where the game terminated on the way.
        next_q_online: float32 (B, A), Q(s′, ·) under the online network.
        next_q_target: float32 (B, A), Q(s′, ·) under the target network.

    Returns:
        float32 (B,), detached: no gradient reaches either network through it.

    Raises:
        ValueError: shapes that would broadcast into something else.
    """
    _require_shape("reward", reward, (len(reward),))
    _require_shape("discount", discount, reward.shape)
    _require_shape("next_q_online", next_q_online, (reward.shape[0], next_q_online.shape[-1]))
    _require_shape("next_q_target", next_q_target, next_q_online.shape)
    greedy_action = next_q_online.argmax(dim=1, keepdim=True)  # (B, 1)
    bootstrap = next_q_target.gather(1, greedy_action).squeeze(1)  # (B,)
    return (reward + discount * bootstrap).detach()


def huber_td_loss(q_values: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Huber loss of each transition's TD error.

    Huber with δ = 1 has the gradient of "clipping the error term to be between −1 and 1", Mnih et
    al. (2015), Methods, https://www.nature.com/articles/nature14236.

    Args:
        q_values: float32 (B, A), Q(s, ·) under the online network.
        action: int64 (B,), the action taken in s.
        target: float32 (B,).

    Returns:
        float32 (B,), not reduced.

    Raises:
        ValueError: shapes that would broadcast into something else.
    """
    _require_shape("target", target, action.shape)
    _require_shape("q_values", q_values, (action.shape[0], q_values.shape[-1]))
    q_taken = q_values.gather(1, action.unsqueeze(1)).squeeze(1)  # (B,)
    return F.huber_loss(q_taken, target, reduction="none", delta=1.0)


def n_step_return(reward: Tensor, discount: Tensor) -> tuple[Tensor, Tensor]:
    """Sums n rewards, each discounted by the discounts before it.

    Rₙ = r₁ + γ₁r₂ + γ₁γ₂r₃ + …; the bootstrap's discount is γ₁γ₂…γₙ. Sutton & Barto (2018),
    eq. 7.1, http://incompleteideas.net/book/the-book-2nd.html.

    Args:
        reward: float32 (B, n), rewards after s in order; 0 after the window's end.
        discount: float32 (B, n), γ, 0 where the game terminated, 1 after the window's end.

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
    """Stops a (B, 1) from broadcasting against a (B,) into a (B, B) that trains on noise."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
