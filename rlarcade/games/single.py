"""One game as a `gymnasium.Env`: one lane of the vector environment, and its RGB twin."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rlarcade.errors import ActionError, ConfigError
from rlarcade.games.protocols import Protocol
from rlarcade.games.vector import LARGEST_SEED, GameVectorEnv, checked_action
from rlarcade.seeding import checked_seed
from rlarcade.text import quoted


class GameEnv(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """One game under a protocol, with Gymnasium's single-environment interface.

    Every episode begins with a seeded reset of the emulator, so it is a function of (game,
    protocol, seed, actions). `reset()` without a seed draws the next seed from `np_random`.
    Observations are uint8 (4, 84, 84), newest frame last. Rewards are raw points.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (as gymnasium.Env declares it)
        "render_modes": ["rgb_array"],
        "render_fps": 15,
    }

    def __init__(
        self, game: str, *, protocol: str | Protocol = "v5", render_mode: str | None = None
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(
                f"unknown render_mode {quoted(render_mode)}. Choose 'rgb_array', or None for no "
                "pictures. gymnasium.make('rlarcade/Pong-v5', render_mode='human') opens a window."
            )
        self.render_mode = render_mode
        self._lane = GameVectorEnv(game, 1, protocol=protocol, num_threads=1)
        self._twin = (
            GameVectorEnv(game, 1, protocol=protocol, num_threads=1, rgb=True)
            if render_mode
            else None
        )
        self.game, self.protocol = self._lane.game, self._lane.protocol
        self.observation_space = self._lane.single_observation_space
        self.action_space = self._lane.single_action_space
        self._picture: NDArray[np.uint8] | None = None
        self._over, self._lives = True, 0

    @property
    def num_actions(self) -> int:
        """Number of actions of the game under this protocol."""
        return self._lane.num_actions

    @property
    def action_names(self) -> tuple[str, ...]:
        """Name of each action, such as ("NOOP", "FIRE", …)."""
        return self._lane.action_names

    def get_action_meanings(self) -> list[str]:
        """Returns the name of each action, as ALE's own environment does."""
        return list(self.action_names)

    @property
    def ale(self) -> "EmulatorView":
        """What wrappers of Gymnasium, Stable-Baselines3 and others ask the emulator."""
        return EmulatorView(self)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: whole number, 0 or more, that makes the episode reproducible. Without it, the next
                seed is drawn from `np_random`.
            options: not used.

        Returns:
            The first observation, and info with `seed` (the emulator's seed of this episode),
            `lives` and `episode_frame_number` (the frames that the emulator counts already).

        Raises:
            ConfigError: the seed is negative or not a whole number.
        """
        given = None if seed is None else checked_seed(seed)
        super().reset(seed=given, options=options)
        # Each episode has its own 31-bit seed. A given seed of at most 31 bits is used unchanged.
        episode_seed = (
            given
            if given is not None and given <= LARGEST_SEED
            else int(self.np_random.integers(0, LARGEST_SEED, endpoint=True))
        )
        observation, info = self._lane.reset(seed=np.array([episode_seed], dtype=np.int32))
        if self._twin is not None:
            picture, _ = self._twin.reset(seed=np.array([episode_seed], dtype=np.int32))
            self._picture = picture[0, 0]
        self._over, self._lives = False, int(info["lives"][0])
        return observation[0], {
            "seed": episode_seed,
            "lives": self._lives,
            "episode_frame_number": int(info["episode_frame_number"][0]),
        }

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Plays one action for four frames.

        Raises:
            ActionError: the action is outside the game's action set, or the episode is over.
        """
        self.send(action)
        return self.recv()

    def send(self, action: np.int64 | int) -> None:
        """Begins a step. Other work can be done before `recv`. Errors are those of `step`."""
        if self._over:
            raise ActionError("the episode is over (or never began): call reset() before step().")
        actions = np.array([checked_action(action, self._lane.num_actions)])
        self._lane.send(actions)
        if self._twin is not None:
            self._twin.send(actions)

    def recv(self) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Waits for the step that `send` began. Returns what `step` returns.

        Raises:
            ActionError: no step was begun.
        """
        observation, reward, terminated, truncated, info = self._lane.recv()
        if self._twin is not None:
            self._picture = self._twin.recv()[0][0, 0]
        self._over = bool(terminated[0] or truncated[0])
        self._lives = int(info["lives"][0])
        return (
            observation[0],
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {"lives": self._lives},
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Returns the current screen, uint8 (210, 160, 3), or None without a render mode."""
        return self._picture


class EmulatorView:
    """The part of `ale_py.ALEInterface` that the native vector environment can answer."""

    def __init__(self, env: GameEnv) -> None:
        self._env = env

    def lives(self) -> int:
        """Returns the lives that are left."""
        return self._env._lives

    def game_over(self, *, with_truncation: bool = True) -> bool:
        """Whether no step can follow. Whether it was cut off (`with_truncation`) is not known."""
        del with_truncation
        return self._env._over

    def getScreenRGB(self) -> NDArray[np.uint8]:
        """Returns the screen, uint8 (210, 160, 3).

        Raises:
            ConfigError: the environment does not render.
        """
        picture = self._env.render()
        if picture is None:
            raise ConfigError(
                "there is no screen. Make the environment with render_mode='rgb_array'."
            )
        return picture

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"rlarcade's environments have no ale.{name}: ALE's native vector environment shows "
            "neither RAM nor states. gymnasium.make('ALE/Pong-v5') has them."
        )


def make_env(
    game: str, *, protocol: str | Protocol = "v5", render_mode: str | None = None
) -> GameEnv:
    """Makes one game as a `gymnasium.Env`, with the preprocessing that training uses.

    Args:
        game: any spelling of a game's name, such as `SpaceInvaders`.
        protocol: `v5`, `machado` or `nature`.
        render_mode: `rgb_array` makes `render()` return the 210×160 screen.

    Raises:
        GameError: unknown game.
        ConfigError: unknown protocol or render mode.
    """
    return GameEnv(game, protocol=protocol, render_mode=render_mode)
