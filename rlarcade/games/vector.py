"""ALE's native vector environment under a protocol. All of rlarcade plays through it."""

import atexit
import operator
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from rlarcade.errors import ActionError, ConfigError
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import SCREEN, STACK, Protocol, get_protocol
from rlarcade.seeding import checked_seed
from rlarcade.text import quoted

LARGEST_SEED = 2**31 - 1
"""Largest seed of an emulator. A negative seed would silently mean unseeded."""
_MOST_GAMES = 1024
_UNSEEDED = -1

Seeds = int | np.integer[Any] | Sequence[int | None] | NDArray[np.integer[Any]]
_Results = tuple[Any, Any, Any, Any, dict[str, Any]]


_running: "weakref.WeakSet[GameVectorEnv]" = weakref.WeakSet()


@atexit.register
def _let_go() -> None:
    """Ends emulators in a script's globals. At interpreter shutdown they would print leaks."""
    for env in list(_running):
        vars(env).pop("ale", None)


class GameVectorEnv(AtariVectorEnv):
    """`AtariVectorEnv` with a protocol, and with actions checked before they reach C++.

    Observations are uint8 (num_envs, 4, 84, 84), newest frame last. Rewards are raw int32 points.
    Autoreset is NEXT_STEP: the step after an ending ignores its action and returns the first
    observation of the next episode, with reward 0.

    Attributes:
        game: ROM id.
        protocol: protocol of all games.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        protocol: str | Protocol = "v5",
        num_threads: int = 0,
        rgb: bool = False,
        every_frame: bool = False,
    ) -> None:
        """Starts `num_envs` emulators.

        Args:
            game: any spelling of a game's name.
            num_envs: number of games side by side, 1 to 1,024.
            protocol: name of a protocol, or a `Protocol`.
            num_threads: emulator threads; 0 lets ALE choose. It never changes a trajectory.
            rgb: observations are single 210×160 RGB frames, uint8 (num_envs, 1, 210, 160, 3). With
                the same seeds and actions, the game is the same as with 84×84 observations.
            every_frame: a step is one frame (60 per second) instead of four frames with the last
                two merged. The game is the same if each action is given four times.

        Raises:
            GameError: unknown game.
            ConfigError: unknown protocol, or `num_envs` is not 1 to 1,024.
        """
        whole = isinstance(num_envs, int | np.integer) and not isinstance(num_envs, bool)
        if not whole or not 1 <= num_envs <= _MOST_GAMES:
            raise ConfigError(
                f"num_envs must be at least 1 and at most {_MOST_GAMES}, a whole number; got "
                f"{quoted(num_envs)}."
            )
        self.game = resolve_game(game)
        self.protocol = get_protocol(protocol)
        picture: dict[str, Any] = (
            {"grayscale": False, "img_height": 210, "img_width": 160, "stack_num": 1}
            if rgb
            else {"grayscale": True, "img_height": SCREEN, "img_width": SCREEN, "stack_num": STACK}
        )
        settings = self.protocol.vector_env_settings() | picture
        if every_frame:
            settings |= {"frameskip": 1, "maxpool": False}
        super().__init__(
            self.game,
            num_envs,
            num_threads=num_threads,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            **settings,
        )
        self._begun = self._sent = False
        _running.add(self)

    @property
    def num_actions(self) -> int:
        """Number of actions of the game under this protocol."""
        return int(self.single_action_space.n)  # type: ignore[attr-defined]

    @property
    def action_names(self) -> tuple[str, ...]:
        """Name of each action, such as ("NOOP", "FIRE", …)."""
        return tuple(str(action.name) for action in self.ale.get_action_set())

    def reset(
        self, *, seed: Seeds | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts episodes, as `gymnasium.vector.VectorEnv.reset` specifies.

        Args:
            seed: a whole number s seeds game i with s + i. A sequence has one seed per game, or
                None for an unseeded game. With a mask, a sequence may have only the seeds of the
                games that are reset. A game plays what `make_env` plays with the same seed.
            options: `reset_mask`, bool (num_envs,), selects the games to reset. Without it, all
                games are reset. The first reset must reset all games.

        Returns:
            First observations (of games that are not reset: the current ones), and info.

        Raises:
            ConfigError: a seed is negative or not a whole number, the number of seeds is wrong, or
                the mask is invalid.
        """
        mask = self._checked_mask(options)
        seeds = None if seed is None else _emulator_seeds(seed, mask)
        self._begun, self._sent = True, False
        first: tuple[Any, dict[str, Any]] = super().reset(seed=seeds, options=options)
        return first

    def _checked_mask(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        """Which games are reset, bool (num_envs,)."""
        if options is None or "reset_mask" not in options:
            return np.ones(self.num_envs, dtype=np.bool_)
        mask = options["reset_mask"]
        fits = isinstance(mask, np.ndarray) and mask.shape == (self.num_envs,)
        if not fits or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(
                f"reset_mask must be a NumPy array of {self.num_envs} booleans, at least one of "
                f"them True, got {quoted(mask)}."
            )
        if not self._begun and not mask.all():
            raise ConfigError("the first reset must reset all games: leave reset_mask out.")
        checked: NDArray[np.bool_] = mask
        return checked

    def step(self, actions: NDArray[np.integer[Any]]) -> _Results:
        """Plays one action in each game.

        Returns:
            Observations, rewards, terminated, truncated and info.

        Raises:
            ActionError: as for `send`.
        """
        self.send(actions)
        return self.recv()

    def send(self, actions: NDArray[np.integer[Any]]) -> None:
        """Sends one action to each game; `recv` returns the result.

        Raises:
            ActionError: the actions have a wrong shape, are not integers, or are outside the action
                set (ALE itself would hang on them); or no episode has begun.
        """
        if not self._begun:
            raise ActionError("no episode has begun: call reset() before step().")
        super().send(checked_actions(actions, self.num_envs, self.num_actions))
        self._sent = True

    def recv(self) -> _Results:
        """Waits for the games and returns what `step` returns.

        Raises:
            ActionError: no actions were sent. ALE itself would wait forever.
        """
        if not self._sent:
            raise ActionError("no actions were sent: call send() before recv().")
        self._sent = False
        results: _Results = super().recv()
        return results


def _emulator_seeds(seed: Seeds, mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Seeds of the games that are reset, int32 (number of these games,), in lane order."""
    lanes = np.flatnonzero(mask)
    if isinstance(seed, np.ndarray) and seed.dtype == np.int32 and seed.shape == lanes.shape:
        ready: NDArray[np.int32] = seed.astype(np.int32, copy=False)
        if ready.min() >= 0:  # a fast path for TrainingLanes
            return ready
    several = isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes)
    if not several or getattr(seed, "shape", (1,)) == ():
        first = checked_seed(seed)
        return np.array([_emulator_seed(first + int(lane)) for lane in lanes], dtype=np.int32)
    given: list[Any] = list(seed)  # type: ignore[arg-type]
    if len(given) == len(mask):
        given = [given[lane] for lane in lanes]
    if len(given) != len(lanes):
        raise ConfigError(
            f"{len(lanes)} games are reset, but {len(given)} seeds were given. Give each game a "
            "seed, or give one whole number for all."
        )
    return np.array(
        [_UNSEEDED if one is None else _emulator_seed(checked_seed(one)) for one in given],
        dtype=np.int32,
    )


def _emulator_seed(seed: int) -> int:
    """A seed of 31 bits: the given one if it fits, else one that is derived from it."""
    if seed <= LARGEST_SEED:
        return seed
    rng, _ = seeding.np_random(seed)
    return int(rng.integers(0, LARGEST_SEED, endpoint=True))


def checked_action(action: Any, num_actions: int) -> int:
    """Returns one action as an int.

    As in Gymnasium's `Discrete` space, an array that contains an action is not an action.

    Raises:
        ActionError: the action is not a whole number, or outside 0 … num_actions - 1.
    """
    try:
        shape = np.shape(action)
    except ValueError:  # rows of unequal length
        shape = (len(action),)
    try:
        number = operator.index(action)
    except TypeError:
        number = None
    if number is None or shape or isinstance(action, bool):
        remedy = " Take its element: action[0]." if shape == (1,) else ""
        raise ActionError(
            f"an action is one of the integers 0 to {num_actions - 1}, such as np.int64(2); got "
            f"{quoted(action)}{f' of shape {shape}' if shape else ''}.{remedy}"
        )
    if not 0 <= number < num_actions:
        raise ActionError(
            f"action {quoted(number)} is outside 0 … {num_actions - 1}. Was the policy made "
            "for another game or action set?"
        )
    return number


def checked_actions(actions: object, num_envs: int, num_actions: int) -> NDArray[np.int64]:
    """Returns the actions as int64 (num_envs,).

    Raises:
        ActionError: the actions have a wrong shape, are not integers, or are outside
            0 … num_actions - 1.
    """
    try:
        array = np.asarray(actions)
    except (ValueError, TypeError) as error:  # rows of unequal length, a tensor on a GPU
        raise ActionError(
            f"{num_envs} games need an array of {num_envs} actions, got {quoted(actions)}."
        ) from error
    if array.shape != (num_envs,):
        raise ActionError(
            f"{num_envs} games need actions of shape ({num_envs},), got shape {array.shape}: "
            f"{quoted(actions)}."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise ActionError(
            f"actions must be integers from 0 to {num_actions - 1}, got {array.dtype} values: "
            f"{quoted(actions)}."
        )
    outside = np.flatnonzero((array < 0) | (array >= num_actions))
    if outside.size:
        lane = int(outside[0])
        raise ActionError(
            f"action {array[lane]} for game {lane} is outside 0 … {num_actions - 1}. "
            "Was the policy made for another game or action set?"
        )
    return array.astype(np.int64, copy=False)


def make_vec_env(
    game: str, num_envs: int, *, protocol: str | Protocol = "v5", num_threads: int = 0
) -> GameVectorEnv:
    """Makes the vector environment that rlarcade itself uses for training and evaluation.

    Args and errors are those of `GameVectorEnv`.
    """
    return GameVectorEnv(game, num_envs, protocol=protocol, num_threads=num_threads)
