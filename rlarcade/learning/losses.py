"""Losses: pure functions of tensors, no state and no I/O.

Shapes: B transitions in the batch, N predicted returns, M returns of the target.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    require_shape("predicted", predicted, (len(predicted),))
    require_shape("target", target, predicted.shape)
    return F.huber_loss(predicted, target.detach(), reduction="none", delta=1.0)


def squared_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Half the squared TD error of each transition. Arguments and result are those of `huber_loss`.

    Raises:
        ValueError: the shapes do not match; broadcasting would give a wrong result.
    """
    require_shape("predicted", predicted, (len(predicted),))
    require_shape("target", target, predicted.shape)
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
    require_shape("target", target, (predicted.shape[0], target.shape[-1]))
    require_shape("taus", taus, (taus.shape[0], predicted.shape[1]))
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
    require_shape("probabilities", probabilities, values.shape)
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
    require_shape("target", target, log_probabilities.shape)
    return -(target.detach() * log_probabilities).sum(dim=1)


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuses shapes such as (B, 1) and (B,), which would broadcast to (B, B) without an error."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
