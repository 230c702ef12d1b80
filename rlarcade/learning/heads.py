"""Heads turn features into returns: their mean, or their distribution.

Every head gives `Returns`: N possible returns for each of A actions. The expected head is the case
N = 1. So one loss and one target serve all heads. Random numbers (noise, quantile fractions) are
drawn outside, as `Draws`, which makes a forward pass a pure function. Without draws a head is
deterministic: noise is off and quantile fractions are at their midpoints.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rlarcade.config import NetworkSettings
from rlarcade.learning.torsos import make_norm

_COSINES = 64


class Draws(NamedTuple):
    """Random numbers of one forward pass."""

    noise: tuple[Tensor, ...] = ()
    """For each noisy layer in turn its inputs' and outputs' noise, float32 (in,) and (out,).
    Empty: noise off."""
    taus: Tensor | None = None
    """Quantile fractions, float32 (B, N). None: midpoints."""


class Returns(NamedTuple):
    """N possible returns of each action."""

    values: Tensor
    """float32 (B, A, N), or (B, N) for one action each; (N,) if all share the same atoms."""
    taus: Tensor | None = None
    """Quantile fractions of `values`, float32 (B, N) or (1, N)."""
    log_probabilities: Tensor | None = None
    """float32 (B, A, N), or (B, N) for one action each. None: all returns are equally likely."""

    def mean(self) -> Tensor:
        """Returns the expected return, float32 (B, A)."""
        if self.log_probabilities is None:
            return self.values.mean(dim=-1)
        return (self.log_probabilities.exp() * self.values).sum(dim=-1)

    def of(self, action: Tensor) -> "Returns":
        """Returns the returns of one action each; `action` is int64 (B,)."""

        def chosen(x: Tensor) -> Tensor:
            index = action.view(-1, 1, 1).expand(-1, 1, x.shape[-1])
            return x.gather(1, index).squeeze(1)

        if self.log_probabilities is None:
            return self._replace(values=chosen(self.values))
        return self._replace(log_probabilities=chosen(self.log_probabilities))


class Dense(nn.Linear):
    """A linear layer, optionally with factorised Gaussian noise on its parameters.

    Fortunato et al. (2018), https://arxiv.org/abs/1706.10295, eqs. 9-11: parameters are μ + σ ⊙ ε.
    For weights, ε is the outer product of f(outputs) and f(inputs). μ has the usual initialisation;
    σ begins at σ₀/√inputs.
    """

    def __init__(self, inputs: int, outputs: int, noisy_sigma: float | None = None) -> None:
        super().__init__(inputs, outputs)
        self.weight_sigma = self.bias_sigma = None
        if noisy_sigma is not None:
            sigma = noisy_sigma / math.sqrt(inputs)
            self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma))
            self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma))

    def forward(self, x: Tensor, noise: tuple[Tensor, ...] = ()) -> Tensor:
        """Returns (…, outputs) in x's dtype; `noise` is empty, or of shapes (in,) and (out,)."""
        y = F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        if not noise or self.weight_sigma is None or self.bias_sigma is None:
            return y
        inputs, outputs = (part.to(x.dtype) for part in noise)
        noisy = F.linear(x * inputs, self.weight_sigma.to(x.dtype), self.bias_sigma.to(x.dtype))
        return y + noisy * outputs


class Head(nn.Module):
    """The layers that all heads share: one hidden layer and `outputs` numbers per action.

    With dueling, a second stream of the same width predicts the value of the state, which all
    actions share: Wang et al. (2016), https://arxiv.org/abs/1511.06581, eq. 9.
    """

    def __init__(
        self, num_features: int, num_actions: int, outputs: int, settings: NetworkSettings
    ) -> None:
        super().__init__()
        sigma = settings.noisy_sigma if settings.noisy else None
        width = settings.hidden_units
        self.num_actions, self.outputs = num_actions, outputs
        self.hidden = Dense(num_features, width, sigma)
        self.hidden_norm = make_norm(settings.norm, width)
        self.values = Dense(width, num_actions * outputs, sigma)
        self.state_hidden = self.state_norm = self.state_values = None
        if settings.dueling:
            self.state_hidden = Dense(num_features, width, sigma)
            self.state_norm = make_norm(settings.norm, width)
            self.state_values = Dense(width, outputs, sigma)

    def draw(self, batch_size: int, rng: np.random.Generator, *, taus: bool = True) -> Draws:
        """Draws the random numbers of one forward pass of `batch_size` rows.

        All rows share the noise. If `taus` is false, quantile fractions stay at their midpoints.
        """
        noise = tuple(
            torch.from_numpy(_factor(rng.standard_normal(size, dtype=np.float32)))
            for layer in self._layers()
            if layer.weight_sigma is not None
            for size in (layer.in_features, layer.out_features)
        )
        count = self.num_taus if taus else 0
        drawn = rng.random((batch_size, count), dtype=np.float32) if count else None
        return Draws(noise, None if drawn is None else torch.from_numpy(drawn))

    @property
    def num_taus(self) -> int:
        """Quantile fractions to draw for each row; 0 if the head draws none."""
        return 0

    def _layers(self) -> list[Dense]:
        own = (self.hidden, self.values, self.state_hidden, self.state_values)
        return [layer for layer in own if layer is not None]

    def stream(self, features: Tensor, noise: tuple[Tensor, ...] = ()) -> Tensor:
        """Returns float32 (…, A, outputs) of features (…, F)."""
        x = self._one(self.hidden, self.hidden_norm, self.values, features, noise[:4])
        x = x.view(*x.shape[:-1], self.num_actions, self.outputs)
        if self.state_hidden is None or self.state_norm is None or self.state_values is None:
            return x
        state = self._one(
            self.state_hidden, self.state_norm, self.state_values, features, noise[4:]
        )
        return state.unsqueeze(-2) + x - x.mean(dim=-2, keepdim=True)

    @staticmethod
    def _one(
        hidden: Dense, norm: nn.Module, last: Dense, features: Tensor, noise: tuple[Tensor, ...]
    ) -> Tensor:
        x = norm(hidden(features, noise[:2])).relu_()
        # fp32 from here: differences between actions are smaller than bf16's resolution
        out: Tensor = last(x.float(), noise[2:])
        return out


class ExpectedHead(Head):
    """One expected return per action, as in Mnih et al. (2015)."""

    def __init__(self, num_features: int, num_actions: int, settings: NetworkSettings) -> None:
        super().__init__(num_features, num_actions, 1, settings)

    def forward(self, features: Tensor, draws: Draws | None = None) -> Returns:
        """Returns values (B, A, 1)."""
        return Returns(self.stream(features, draws.noise if draws else ()))


class CategoricalHead(Head):
    """Probabilities of fixed returns (atoms), C51: Bellemare, Dabney & Munos (2017).

    https://arxiv.org/abs/1707.06887
    """

    def __init__(self, num_features: int, num_actions: int, settings: NetworkSettings) -> None:
        super().__init__(num_features, num_actions, settings.num_atoms, settings)
        atoms = torch.linspace(settings.value_min, settings.value_max, settings.num_atoms)
        self.register_buffer("atoms", atoms, persistent=False)  # the settings hold them already

    def forward(self, features: Tensor, draws: Draws | None = None) -> Returns:
        """Returns atoms (N,) and log-probabilities (B, A, N)."""
        logits = self.stream(features, draws.noise if draws else ())
        atoms = self.get_buffer("atoms")
        return Returns(atoms, log_probabilities=logits.log_softmax(dim=-1))


class GaussHead(CategoricalHead):
    """Mean returns as probabilities of fixed returns, HL-Gauss: Farebrother et al. (2024).

    https://arxiv.org/abs/2403.03950. The network is that of `CategoricalHead`. It learns a
    histogram around the target's mean, not its distribution, see `losses.gauss_histogram`.
    """


class QuantileHead(Head):
    """Quantiles at fixed fractions (QR-DQN): Dabney et al. (2018), https://arxiv.org/abs/1710.10044.

    The fractions are the midpoints (i + ½)/N.
    """

    def __init__(self, num_features: int, num_actions: int, settings: NetworkSettings) -> None:
        super().__init__(num_features, num_actions, settings.num_quantiles, settings)
        midpoints = _midpoints(settings.num_quantiles)
        self.register_buffer("midpoints", midpoints, persistent=False)

    def forward(self, features: Tensor, draws: Draws | None = None) -> Returns:
        """Returns values (B, A, N) at fractions (1, N)."""
        values = self.stream(features, draws.noise if draws else ())
        return Returns(values, taus=self.get_buffer("midpoints"))


class ImplicitHead(Head):
    """Quantiles at any fractions (IQN): Dabney et al. (2018), https://arxiv.org/abs/1806.06923.

    Features are multiplied by an embedding of each fraction: the ReLU of a linear layer over
    cos(πiτ), i = 1 … 64 as in Dopamine and DQN Zoo.
    """

    def __init__(self, num_features: int, num_actions: int, settings: NetworkSettings) -> None:
        super().__init__(num_features, num_actions, 1, settings)
        self._num_taus = settings.num_taus
        self.embedding = nn.Linear(_COSINES, num_features)
        self.register_buffer("midpoints", _midpoints(settings.num_taus), persistent=False)
        frequencies = math.pi * torch.arange(1, _COSINES + 1, dtype=torch.float32)
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def num_taus(self) -> int:
        """Quantile fractions to draw for each row."""
        return self._num_taus

    def forward(self, features: Tensor, draws: Draws | None = None) -> Returns:
        """Returns values (B, A, N) at fractions (B or 1, N)."""
        taus = None if draws is None else draws.taus
        if taus is None:
            taus = self.get_buffer("midpoints")
        dtype = features.dtype
        # in fp32: the angles reach 64π, where neighbouring bf16 numbers are a radian apart
        cosines = (taus.unsqueeze(-1) * self.get_buffer("frequencies")).cos().to(dtype)
        embedded = F.linear(
            cosines, self.embedding.weight.to(dtype), self.embedding.bias.to(dtype)
        ).relu_()
        values = self.stream(features.unsqueeze(1) * embedded, draws.noise if draws else ())
        return Returns(values.squeeze(-1).transpose(1, 2), taus=taus)


_HEADS: dict[str, type[ExpectedHead | CategoricalHead | QuantileHead | ImplicitHead]] = {
    "expected": ExpectedHead,
    "categorical": CategoricalHead,
    "gauss": GaussHead,
    "quantile": QuantileHead,
    "implicit": ImplicitHead,
}


def make_head(num_features: int, num_actions: int, settings: NetworkSettings) -> Head:
    """Builds the head that the settings name, with random weights."""
    return _HEADS[settings.head](num_features, num_actions, settings)


def _midpoints(count: int) -> Tensor:
    return ((torch.arange(count, dtype=torch.float32) + 0.5) / count).unsqueeze(0)


def _factor(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns f(x) = sgn(x)·√|x|, from which factorised noise is made."""
    return np.copysign(np.sqrt(np.abs(noise)), noise)
