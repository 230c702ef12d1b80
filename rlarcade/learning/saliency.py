"""What an agent looks at: how much each pixel's change would change an action's value."""

import numpy as np
import torch
from numpy.typing import NDArray

from rlarcade.errors import ConfigError
from rlarcade.learning.acting import require_observations
from rlarcade.learning.hardware import one_thread
from rlarcade.learning.policy import DQNAgent
from rlarcade.text import quoted

_ROWS = 32  # observations in a pass; the gradients of more would take much memory


def saliency(
    agent: DQNAgent, observation: NDArray[np.uint8], action: int | None = None
) -> NDArray[np.float32]:
    """Returns |∂Q(s, a)/∂x| of every pixel x: the change of value per grey level.

    Simonyan, Vedaldi & Zisserman (2014), https://arxiv.org/abs/1312.6034. Wang et al. (2016),
    https://arxiv.org/abs/1511.06581, show it of a DQN's values.

    Args:
        agent: the agent. A network with a user's own torso must take float frames, too.
        observation: uint8 (B, 4, 84, 84) or (4, 84, 84), newest frame last.
        action: the action that the value belongs to. None: the best action of each observation.

    Returns:
        float32 of the observation's shape, 0 or more.

    Raises:
        ValueError: `observation` has another shape or dtype.
        ConfigError: the action is outside the agent's actions.
    """
    if isinstance(observation, np.ndarray) and observation.ndim == 3:
        one: NDArray[np.float32] = saliency(agent, observation[None], action)[0]
        return one
    require_observations(observation)
    if action is not None and not 0 <= action < agent.num_actions:
        raise ConfigError(f"action must be 0 to {agent.num_actions - 1}, not {quoted(action)}.")
    found = np.empty(observation.shape, dtype=np.float32)
    with one_thread():
        for first in range(0, len(observation), _ROWS):
            some = torch.from_numpy(observation[first : first + _ROWS]).to(agent.device)
            pixels = some.float().requires_grad_()
            q_values = agent.q_network(pixels)
            best = q_values.argmax(dim=1) if action is None else torch.full((len(some),), action)
            taken = q_values.gather(1, best.to(q_values.device).unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(taken, pixels)
            found[first : first + _ROWS] = gradient.abs().cpu().numpy()
    return found
