"""Protocols: how a game is played. A score means nothing without one.

All protocols: frameskip 4, max-pool of the last two frames, 84×84 grey, a stack of 4 frames
zero-padded at the start, whole games, raw scores. A lost life never ends an episode.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from rlarcade.checked import Checked
from rlarcade.errors import ConfigError
from rlarcade.text import quoted

FRAMESKIP = 4
STACK = 4
SCREEN = 84
MOST_ACTIONS = 18  # of the joystick

MOST_NOOPS = 255
LARGEST_FRAME_CAP = 108_000
"""Half an hour of play: the cap of every published protocol."""

ProtocolName = Literal["v5", "machado", "nature"]
"""The protocols that come with the package."""

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Protocol(Checked):
    """One way of playing, stored in every checkpoint and every result.

        Protocol(name="sticky10", sticky=0.1)  # else as v5

    is accepted wherever a protocol's name is. What differs from the protocols that come with the
    package has a name of its own, so that a name in a table always means the same.

    Raises:
        ConfigError: a value is out of bounds, or the name belongs to a protocol with other values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
    sticky: _Share = 0.25
    """Probability that the emulator repeats the previous action, per frame."""
    full_action_space: bool = False
    """All 18 joystick actions, or only those the game reacts to."""
    max_noops: Annotated[int, Field(ge=0, le=MOST_NOOPS)] = 0
    """An episode starts with 0 to this many no-op frames, drawn from its seed."""
    frame_cap: Annotated[int, Field(gt=0, le=LARGEST_FRAME_CAP)] = LARGEST_FRAME_CAP
    """Emulator frames (60 a second) after which an episode is truncated, counted from its first
    observation: no-ops and a game's own start-up frames are not among them."""
    evaluation_epsilon: _Share = 0.01
    """Share of random actions while a policy is evaluated."""

    @model_validator(mode="after")
    def _is_what_its_name_says(self) -> Self:
        shipped = _VALUES.get(self.name)
        if shipped is not None and (unlike := self._unlike(shipped)):
            raise ValueError(
                f"protocol {self.name} has {' and '.join(unlike)}. Another way of playing has a "
                "name of its own"
            )
        return self

    def _unlike(self, values: Mapping[str, Any]) -> list[str]:
        found = {name: getattr(self, name) for name in values}
        return [f"{k} {values[k]:g}, not {found[k]:g}" for k in values if found[k] != values[k]]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a protocol with some values changed, its name among them; checked as a new one.

        Raises:
            ConfigError: as of a new one.
        """
        del deep  # nothing in it can change
        return type(self)(**{**self.model_dump(), **(update or {})})

    def __str__(self) -> str:
        """The name and, of one that does not come with the package, how it differs from v5."""
        if self.name in _VALUES:
            return self.name
        values = {name: getattr(self, name) for name in _VALUES["v5"]}
        unlike = [f"{k} {v:g}" for k, v in values.items() if v != _VALUES["v5"][k]]
        return f"{self.name} (v5 but {', '.join(unlike)})" if unlike else f"{self.name} (as v5)"

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


_VALUES: dict[str, dict[str, Any]] = {
    # What `ALE/…-v5` and Dopamine play.
    "v5": {
        "sticky": 0.25,
        "full_action_space": False,
        "max_noops": 0,
        "frame_cap": LARGEST_FRAME_CAP,
        "evaluation_epsilon": 0.01,
    },
    # Machado et al. (2018), https://arxiv.org/abs/1709.06009
    "machado": {
        "sticky": 0.25,
        "full_action_space": True,
        "max_noops": 0,
        "frame_cap": LARGEST_FRAME_CAP,
        "evaluation_epsilon": 0.01,
    },
    # Mnih et al. (2015), https://www.nature.com/articles/nature14236, to match old tables.
    "nature": {
        "sticky": 0.0,
        "full_action_space": False,
        "max_noops": 30,
        "frame_cap": LARGEST_FRAME_CAP,
        "evaluation_epsilon": 0.05,
    },
}
_PROTOCOLS = {name: Protocol(name=name, **values) for name, values in _VALUES.items()}


def get_protocol(name: str | Protocol) -> Protocol:
    """Looks a protocol up by name; a Protocol is returned as it is.

    Raises:
        ConfigError: there is no protocol of that name.
    """
    if isinstance(name, Protocol):
        return name
    if isinstance(name, str) and name in _PROTOCOLS:
        return _PROTOCOLS[name]
    raise ConfigError(
        f"unknown protocol {quoted(name)}. Choose one of {', '.join(_PROTOCOLS)}, or make one: "
        'Protocol(name="sticky10", sticky=0.1).'
    )
