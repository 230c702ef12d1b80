"""Protocols: how a game is played. A score without its protocol means nothing.

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
MOST_ACTIONS = 18  # all joystick actions

MOST_NOOPS = 255
LARGEST_FRAME_CAP = 108_000
"""Half an hour of play: the cap of every published protocol."""

ProtocolName = Literal["v5", "machado", "nature"]
"""The protocols that come with the package."""

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Protocol(Checked):
    """One way of playing, stored in every checkpoint and every result.

        Protocol(name="sticky10", sticky=0.1)  # else as v5

    is accepted wherever a protocol's name is accepted. The names of the package's protocols are
    reserved for their exact values, so that a name in a table always means the same.

    Raises:
        ConfigError: a value is out of bounds, or the name is reserved for other values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]
    sticky: _Share = 0.25
    """Probability that the emulator repeats the previous action, per frame."""
    full_action_space: bool = False
    """True: all 18 joystick actions. False: only actions that have an effect in the game."""
    max_noops: Annotated[int, Field(ge=0, le=MOST_NOOPS)] = 0
    """An episode starts with 0 to this many no-op frames; the seed decides how many."""
    frame_cap: Annotated[int, Field(gt=0, le=LARGEST_FRAME_CAP)] = LARGEST_FRAME_CAP
    """An episode is truncated after this many emulator frames (60 per second). They count from the
    first observation, without no-ops and the game's own start-up frames."""
    evaluation_epsilon: _Share = 0.01
    """Share of random actions in evaluation."""

    @model_validator(mode="after")
    def _is_what_its_name_says(self) -> Self:
        shipped = _VALUES.get(self.name)
        if shipped is not None and (unlike := self._unlike(shipped)):
            raise ValueError(
                f"protocol {self.name} has {' and '.join(unlike)}. Use another name for other "
                "values"
            )
        return self

    def _unlike(self, values: Mapping[str, Any]) -> list[str]:
        found = {name: getattr(self, name) for name in values}
        return [f"{k} {values[k]:g}, not {found[k]:g}" for k in values if found[k] != values[k]]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a copy with some values changed. Changed values need another `name`, too.

        Raises:
            ConfigError: as for a new `Protocol`.
        """
        del deep  # nothing in it can change
        return type(self)(**{**self.model_dump(), **(update or {})})

    def __str__(self) -> str:
        """The name. A protocol that is not from the package adds its differences to v5."""
        if self.name in _VALUES:
            return self.name
        values = {name: getattr(self, name) for name in _VALUES["v5"]}
        unlike = [f"{k} {v:g}" for k, v in values.items() if v != _VALUES["v5"][k]]
        return f"{self.name} (v5 but {', '.join(unlike)})" if unlike else f"{self.name} (as v5)"

    def vector_env_settings(self) -> dict[str, Any]:
        """Arguments for `ale_py.vector_env.AtariVectorEnv`, with every dangerous default set."""
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
    """Returns the protocol with this name. A `Protocol` is returned unchanged.

    Raises:
        ConfigError: there is no protocol with this name.
    """
    if isinstance(name, Protocol):
        return name
    if isinstance(name, str) and name in _PROTOCOLS:
        return _PROTOCOLS[name]
    raise ConfigError(
        f"unknown protocol {quoted(name)}. Choose one of {', '.join(_PROTOCOLS)}, or make one: "
        'Protocol(name="sticky10", sticky=0.1).'
    )
