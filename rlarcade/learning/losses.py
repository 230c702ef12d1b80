"""Losses: pure functions of tensors, no state and no I/O.

Shapes: B transitions in the batch, N predicted returns, M returns of the target.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from rlarcade.config import TrainConfig
from rlarcade.learning.heads import Returns


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
    It has a first derivative only.

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
    # The gradient is computed beside the value, and buffers are used again. Autograd would keep
    # seven arrays of this size until the backward pass: 4 to 7 times as slow on a CPU.
    with torch.no_grad():
        error = target.unsqueeze(1) - predicted.unsqueeze(2)  # u, (B, N, M)
        slope = error.clamp(-kappa, kappa)  # L_κ'(u)
        weighted = (taus.unsqueeze(2) - (error < 0).to(error.dtype)).abs_().mul_(slope)
        gradient = weighted.sum(dim=2)
        huber = error.sub_(slope, alpha=0.5).mul_(weighted)  # L_κ(u) = L_κ'(u) · (u − L_κ'(u)/2)
        scale = 1 / (kappa * target.shape[1])
    return _with_gradient(huber.sum(dim=(1, 2)) * scale, predicted, gradient * -scale)


def _with_gradient(value: Tensor, variable: Tensor, gradient: Tensor) -> Tensor:
    """Returns a value, to autograd a function of `variable` that has the given gradient.

    Args:
        value: float32 (B,).
        variable: float32 (B, N).
        gradient: float32 (B, N), of value[b] with respect to variable[b, n].
    """
    return value + (gradient * (variable - variable.detach())).sum(dim=1)


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


def gauss_histogram(mean: Tensor, atoms: Tensor, width: float = 0.75) -> Tensor:
    """Spreads a mean over fixed atoms as a normal distribution would be, HL-Gauss.

    pᵢ ∝ Φ((zᵢ + ς/2 − y)/σ) − Φ((zᵢ − ς/2 − y)/σ), ς the distance of the atoms, σ = width·ς. Means
    beyond the atoms are clipped. Farebrother et al. (2024), section 3.1,
    https://arxiv.org/abs/2403.03950, as first proposed by Imani & White (2018).

    Args:
        mean: y, float32 (B,).
        atoms: z, float32 (N,), evenly spaced, ascending.
        width: σ/ς, above 0; 0.75 as in the paper.

    Returns:
        Probabilities of the atoms, float32 (B, N).

    Raises:
        ValueError: the shapes do not match.
    """
    require_shape("mean", mean, (len(mean),))
    require_shape("atoms", atoms, (len(atoms),))
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    edges = torch.cat([atoms - spacing / 2, atoms[-1:] + spacing / 2])
    distance = edges - mean.clamp(atoms[0], atoms[-1]).unsqueeze(1)
    below: Tensor = torch.special.ndtr(distance / (width * spacing))  # (B, N + 1)
    return below.diff(dim=1) / (below[:, -1:] - below[:, :1])


def cross_entropy(log_probabilities: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy −Σ p log q of predicted log-probabilities (B, N) under a target (B, N).

    Returns:
        float32 (B,), not reduced.

    Raises:
        ValueError: the two shapes differ.
    """
    require_shape("target", target, log_probabilities.shape)
    return -(target.detach() * log_probabilities).sum(dim=1)


TransitionLoss = Callable[[Returns, Returns], tuple[Tensor, Tensor]]
"""Takes predicted returns (B, N) of the actions taken and a target (B, M). Returns each
transition's loss and its error, both (B,), the error detached. Prioritised replay draws by it."""


def loss_of(
    config: TrainConfig, custom: Callable[[Tensor, Tensor], Tensor] | None = None
) -> TransitionLoss:
    """Returns the loss that goes with the configured head.

    Args:
        config: settings.
        custom: takes the place of Huber or squared loss of the expected head.
    """
    if custom is not None:
        return partial(_expected_loss, custom)
    if config.network.head == "categorical":
        return _categorical_loss
    if config.network.head == "gauss":
        return _gauss_loss
    if config.network.head in ("quantile", "implicit"):
        return _quantile_loss
    return partial(_expected_loss, huber_loss if config.optimizer.loss == "huber" else squared_loss)


def _expected_loss(
    loss: Callable[[Tensor, Tensor], Tensor], predicted: Returns, target: Returns
) -> tuple[Tensor, Tensor]:
    taken, aim = predicted.values.squeeze(1), target.values.squeeze(1)
    return loss(taken, aim), (aim - taken).detach().abs()


def _categorical_loss(predicted: Returns, target: Returns) -> tuple[Tensor, Tensor]:
    assert predicted.log_probabilities is not None
    assert target.log_probabilities is not None
    aim = project_onto_atoms(target.values, target.log_probabilities.exp(), predicted.values)
    losses = cross_entropy(predicted.log_probabilities, aim)
    return losses, losses.detach()


def _gauss_loss(predicted: Returns, target: Returns) -> tuple[Tensor, Tensor]:
    assert predicted.log_probabilities is not None
    assert target.log_probabilities is not None
    mean = (target.log_probabilities.exp() * target.values).sum(dim=1)
    losses = cross_entropy(predicted.log_probabilities, gauss_histogram(mean, predicted.values))
    return losses, losses.detach()


def _quantile_loss(predicted: Returns, target: Returns) -> tuple[Tensor, Tensor]:
    assert predicted.taus is not None
    losses = quantile_huber_loss(predicted.values, predicted.taus, target.values)
    return losses, losses.detach()


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuses shapes such as (B, 1) and (B,), which would broadcast to (B, B) without an error."""
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")
