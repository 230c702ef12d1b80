"""The algorithms: the forward passes of one update, in their order, and the target made from them.

Each function returns what the online network predicts of all actions in s, (B, A, N), and the
target of the action taken, (B, M). `losses.loss_of` gives the loss between the two.

The passes for the target come first. The backward pass needs the outputs of the online torso, so
their memory is not free. With the target second, the target got new memory from the system: 10,000
page faults, a seventh of the time of an update of 256 on a CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from rlarcade.config import TrainConfig
from rlarcade.learning.heads import Draws, Returns
from rlarcade.learning.networks import QNetwork
from rlarcade.learning.replay import Batch
from rlarcade.learning.targets import double_target, munchausen_target, q_target


class UpdateDraws(NamedTuple):
    """Random numbers of one update. Each forward pass has its own, as in DQN Zoo."""

    online: Draws
    target: Draws
    pick: Draws | None
    """For the pass that picks next actions (double) or gives the log-policy (Munchausen)."""


Algorithm = Callable[[QNetwork, QNetwork, Batch, UpdateDraws], tuple[Returns, Returns]]
"""Takes the online and the target network, transitions and random numbers. Returns the online
network's prediction in s, and the target."""


def algorithm_of(config: TrainConfig) -> Algorithm:
    """Returns the algorithm that the settings compose."""
    if config.target.munchausen:
        by_target = config.target.munchausen_policy == "target"
        return partial(
            munchausen_q_learning if by_target else munchausen_q_learning_online,
            alpha=config.target.munchausen_alpha,
            tau=config.target.munchausen_tau,
            clip=config.target.munchausen_clip,
        )
    return double_q_learning if config.target.double else q_learning


def needs_pick(config: TrainConfig) -> bool:
    """Whether the algorithm of `config` uses `UpdateDraws.pick`."""
    return config.target.munchausen or config.target.double


def q_learning(
    online: QNetwork, target: QNetwork, batch: Batch, draws: UpdateDraws
) -> tuple[Returns, Returns]:
    """Mnih et al. (2015), https://www.nature.com/articles/nature14236.

    With a distributional head it is C51, QR-DQN or IQN.
    """
    with torch.no_grad():
        ahead = target.returns(batch.next_observation, draws.target)
        aim = q_target(batch.reward, batch.discount, ahead)
    return online.returns(batch.observation, draws.online), aim


def double_q_learning(
    online: QNetwork, target: QNetwork, batch: Batch, draws: UpdateDraws
) -> tuple[Returns, Returns]:
    """Van Hasselt, Guez & Silver (2016), https://arxiv.org/abs/1509.06461."""
    with torch.no_grad():
        ahead = target.returns(batch.next_observation, draws.target)
        picks = online(batch.next_observation, draws.pick)
        aim = double_target(batch.reward, batch.discount, ahead, picks)
    return online.returns(batch.observation, draws.online), aim


def munchausen_q_learning(
    online: QNetwork, target: QNetwork, batch: Batch, draws: UpdateDraws, **soft: float
) -> tuple[Returns, Returns]:
    """Vieillard, Pietquin & Geist (2020), https://arxiv.org/abs/2007.14430.

    `soft` holds alpha, tau and clip of `munchausen_target`.
    """
    with torch.no_grad():
        ahead = target.returns(batch.next_observation, draws.target)
        q_values = target(batch.observation, draws.pick)
        aim = munchausen_target(batch.reward, batch.discount, ahead, q_values, batch.action, **soft)
    return online.returns(batch.observation, draws.online), aim


def munchausen_q_learning_online(
    online: QNetwork, target: QNetwork, batch: Batch, draws: UpdateDraws, **soft: float
) -> tuple[Returns, Returns]:
    """As `munchausen_q_learning`, but the online network gives the log-policy in s.

    BTR does so: Clark et al. (2024), https://arxiv.org/abs/2411.03820. The features of s are
    computed once for both, which saves a forward pass.
    """
    with torch.no_grad():
        ahead = target.returns(batch.next_observation, draws.target)
    features = online.features(batch.observation)
    with torch.no_grad():
        q_values = online.head(features, draws.pick).mean()
        aim = munchausen_target(batch.reward, batch.discount, ahead, q_values, batch.action, **soft)
    return online.head(features, draws.online), aim
