"""Protocols: how a game is played. A score means nothing without one.

All protocols: frameskip 4, max-pool of the last two frames, 84×84 grey, a stack of 4 frames
zero-padded at the start, whole games, raw scores. A lost life never ends an episode.
"""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from rlarcade.errors import ConfigError

FRAMESKIP = 4
STACK = 4
SCREEN = 84

ProtocolName = Literal["v5", "machado", "nature"]


class Protocol(BaseModel):
    """One way of playing, stored in every checkpoint and every result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ProtocolName
    sticky: float
    """Probability that the emulator repeats the previous action, per frame."""
    full_action_space: bool
    """All 18 joystick actions, or only those the game reacts to."""
    max_noops: int
    """An episode starts with 0 to this many no-op frames, drawn from its seed."""
    frame_cap: int = 108_000
    """Emulator frames (60 a second) after which an episode is truncated, counted from its first
    observation: no-ops and a game's own start-up frames are not among them."""
    evaluation_epsilon: float
    """Share of random actions while a policy is evaluated."""

    def vector_env_settings(self) -> dict[str, Any]:
        """Arguments for `ale_py.vector_env.AtariVectorEnv`; every trap default made explicit."""
        return {
            "max_num_frames_per_episode": self.frame_cap,
            "repeat_action_probability": self.sticky,
            "full_action_space": self.full_action_space,
            # ALE draws from {0 … noop_max - 1}; 0 means none
            "noop_max": self.max_noops + 1 if self.max_noops else 0,
            "frameskip": FRAMESKIP,
            "maxpool": True,
            "use_fire_reset": False,
            "episodic_life": False,  # would restart the whole game on a lost life
            "life_loss_info": False,  # would mix lost lives into `terminated`
            "reward_clipping": False,  # would destroy the score
        }


_PROTOCOLS: dict[ProtocolName, Protocol] = {
    # What `ALE/…-v5` and Dopamine play.
    "v5": Protocol(
        name="v5", sticky=0.25, full_action_space=False, max_noops=0, evaluation_epsilon=0.01
    ),
    # Machado et al. (2018), https://arxiv.org/abs/1709.06009
    "machado": Protocol(
        name="machado", sticky=0.25, full_action_space=True, max_noops=0, evaluation_epsilon=0.01
    ),
    # Mnih et al. (2015), https://www.nature.com/articles/nature14236, to match old tables.
    "nature": Protocol(
        name="nature", sticky=0.0, full_action_space=False, max_noops=30, evaluation_epsilon=0.05
    ),
}


def get_protocol(name: str | Protocol) -> Protocol:
    """Looks a protocol up by name; a Protocol is returned as it is.

    Raises:
        ConfigError: there is no protocol of that name.
    """
    if isinstance(name, Protocol):
        return name
    for known in get_args(ProtocolName):
        if known == name:
            return _PROTOCOLS[known]
    raise ConfigError(f"unknown protocol {name!r}. Choose one of {', '.join(_PROTOCOLS)}.")
