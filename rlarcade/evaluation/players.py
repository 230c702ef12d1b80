"""Whatever plays: rlarcade's agents, functions, objects with `predict`, all behind one face.

An agent that values actions looks at all its games in one batch. Any other policy is asked about
one game at a time, so that its answers cannot depend on what else is being played.
"""

import queue
import sysconfig
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from rlarcade.checked import number_of, require
from rlarcade.errors import ConfigError, PolicyError
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import Protocol, get_protocol
from rlarcade.text import quoted, said

_SEES = ("observation", "screen")
_DECISION_SECONDS = 60.0
_LONGEST_SECONDS = 1e9  # that Python can wait for


class _TooSlowError(PolicyError):
    """A policy has not decided in time."""


def own_words(error: BaseException) -> str:
    """Returns an error with its kind and, of somebody's own code, the line where it was raised."""
    text = said(error)
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame)]
    if not frames:
        return what
    last = frames[-1]
    return f"{what} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


_OTHERS = (
    Path(__file__).parents[1],
    *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""Where code lies that is not the user's own: rlarcade, Python and what is installed."""


def _is_own(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename)
    return path.is_absolute() and not any(path.is_relative_to(folder) for folder in _OTHERS)


class Policy(Interface):
    """Anything that chooses actions; a plain function is one.

    A few more attributes are used if a policy has them. `reset(rng)` is called before each game,
    for a policy with a memory or with dice: `rng` is a NumPy generator that belongs to the game, so
    that the game can be repeated. `sees = "screen"` asks for the screen as it is in place of the
    observation, for a policy with its own preprocessing. `version`, a text that tells it from every
    other, such as a digest of its weights, lets commands keep its games from one process to the
    next: without one, nobody could know whether the weights have changed.
    """

    def __call__(self, observation: NDArray[np.uint8], /) -> int:
        """Returns an action.

        Args:
            observation: uint8 (4, 84, 84), newest frame last; or the screen, uint8 (210, 160, 3).
        """


class Predicts(Interface):
    """Anything with the `predict` of Stable-Baselines3, recurrent or not."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Returns actions (1,) for observations uint8 (1, 4, 84, 84), and the next state."""


class ValuesActions(Interface):
    """An agent that plays ε-greedily by its values, as `DQNAgent` does.

    It may have a `name`, for results, and a `version` that tells it from every other.
    """

    game: str
    protocol: Protocol

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns (B, A) values of observations (B, 4, 84, 84)."""


class View(NamedTuple):
    """What a player sees of one game that waits for its action."""

    observation: NDArray[np.uint8]
    """uint8 (4, 84, 84), or (210, 160, 3) for who sees the screen."""
    memory: Any
    """What `sit` returned for this game."""
    num_actions: int


class Choice(NamedTuple):
    """What a player decided in one game."""

    action: int
    values: NDArray[np.float32] | None = None
    """float32 (A,), of a player that values actions."""


class AgentPlayer:
    """An agent that values actions, as a player.

    Args:
        agent: the agent.
        decision_seconds: whoever takes longer for one batch has failed in all its games. rlarcade's
            own agents are not timed: the thread that it takes would cost them speed.
    """

    sees_screen = one_at_a_time = False

    def __init__(
        self, agent: ValuesActions, *, decision_seconds: float = _DECISION_SECONDS
    ) -> None:
        from rlarcade.learning.agent import DQNAgent  # here, since reports load no torch

        self._agent = agent
        self._timed = None if isinstance(agent, DQNAgent) else _Worker(decision_seconds)
        self.game, self.protocol = resolve_game(agent.game), agent.protocol
        self.name: str = getattr(agent, "name", "agent")
        self.version: str | None = getattr(agent, "version", None)

    def sit(self, rng: np.random.Generator) -> None:
        """Needs nothing: the dice of ε are the evaluator's."""

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Decides in each game, in one batch; if that fails, in each by itself."""
        observations = np.stack([view.observation for view in views])
        try:
            if self._timed is None:
                values = self._agent.q_values(observations)
            else:
                values = self._timed.call(self._agent.q_values, observations)
        except _TooSlowError as error:  # each by itself would be waited for, too
            return [error for _ in views]
        except Exception as error:  # whatever went wrong is the agent's
            if len(views) == 1:
                return [error]
            return [choice for view in views for choice in self.choose([view])]
        return [_greedy(row, views[0].num_actions) for row in values]


def _greedy(values: NDArray[np.float32], num_actions: int) -> Choice | Exception:
    if values.shape != (num_actions,):
        return PolicyError(
            f"it values {values.size} actions of a game that has {num_actions}. Was it made for "
            "another game or action set?"
        )
    if not np.isfinite(values).all():
        return PolicyError(f"its values are no finite numbers: {values.tolist()}")
    return Choice(int(values.argmax()), values)


class RandomPlayer:
    """Every action with the same probability: the floor of every table.

    Args:
        game: any spelling of a game's name.
        protocol: how it is played.
    """

    name = version = "random"
    sees_screen = one_at_a_time = False

    def __init__(self, game: str, protocol: str | Protocol = "v5") -> None:
        self.game, self.protocol = resolve_game(game), get_protocol(protocol)

    def sit(self, rng: np.random.Generator) -> np.random.Generator:
        """Takes the game's dice."""
        return rng

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Throws each game's dice."""
        return [Choice(int(view.memory.integers(view.num_actions))) for view in views]


class Player:
    """A policy and what it plays, for `evaluate_agent`, `compare_agents` and `play_steps`.

        evaluate_agent(Player(lambda observation: 0, game="Pong"))

    It plays under the protocol's evaluation ε, as agents do: that share of its actions is random.

    Attributes:
        name: what results call it.
        version: tells it from every other, so that a match of it can be kept; None: nothing does.
        game: ROM id.
        protocol: how it is played.
        sees_screen: whether it is shown RGB screens.
        one_at_a_time: whether it has a `reset`, and so cannot be in two games at once.
    """

    def __init__(
        self,
        policy: Policy | Predicts,
        *,
        game: str,
        protocol: str | Protocol = "v5",
        name: str = "policy",
        version: str | None = None,
        decision_seconds: float = _DECISION_SECONDS,
    ) -> None:
        """Takes a policy as it is.

        Args:
            policy: a function, an object of the kind of `Policy`, or one with `predict`.
            game: any spelling of a game's name.
            protocol: how it is played.
            name: what results call it.
            version: what tells it from every other, such as a digest of its weights.
            decision_seconds: whoever takes longer for one action has failed.

        Raises:
            ConfigError: the policy, the game, the protocol or the time is none.
        """
        if not callable(policy) and not hasattr(policy, "predict"):
            raise ConfigError(
                f"{name} is no policy: {type(policy).__name__} can neither be called with an "
                "observation nor has it a predict method."
            )
        sees = getattr(policy, "sees", _SEES[0])
        if sees not in _SEES:
            shown = quoted(sees)
            raise ConfigError(f"{name} sees {shown}. A policy sees 'observation' or 'screen'.")
        require(name, str, "name", "'mine'")
        require(version, str | None, "version", "a digest of the policy's weights, or None")
        self.game, self.protocol = resolve_game(game), get_protocol(protocol)
        self.name, self.version = name, version
        self.sees_screen = sees == "screen"
        self._reset: Callable[[np.random.Generator], None] | None = getattr(policy, "reset", None)
        self.one_at_a_time = self._reset is not None
        self._policy: Any = policy
        self._worker = _Worker(decision_seconds)

    def sit(self, rng: np.random.Generator) -> "_Memory":
        """Resets the policy for a game."""
        memory = _Memory()
        if self._reset is not None:
            try:
                self._worker.call(self._reset, rng)
            except Exception as error:  # told when it is to act, and then only this game is lost
                memory.failure = error
        return memory

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Decides in one game after the other."""
        return [self._choice(view) for view in views]

    def _choice(self, view: View) -> Choice | Exception:
        if view.memory.failure is not None:
            failure: Exception = view.memory.failure
            return failure
        try:
            return Choice(self._worker.call(self._decide, view))
        except Exception as error:  # whatever went wrong is the policy's
            return error

    def _decide(self, view: View) -> int:
        if not hasattr(self._policy, "predict"):
            return _whole(self._policy(view.observation))
        memory: _Memory = view.memory
        actions, memory.state = self._policy.predict(
            view.observation[None],
            state=memory.state,
            episode_start=np.array([memory.first]),
            deterministic=True,
        )
        memory.first = False
        return _whole(actions)


class _Memory:
    """What a policy's one game has left behind so far."""

    def __init__(self) -> None:
        self.state: Any = None
        self.first = True
        self.failure: Exception | None = None


def _whole(action: Any) -> int:
    """The action as an int; the evaluator checks whether the game has it."""
    array = np.asarray(action)
    if array.size != 1 or not np.issubdtype(array.dtype, np.integer):
        raise PolicyError(f"an action is one whole number, not {quoted(action)}")
    return int(array.reshape(-1)[0])


class _Worker:
    """One thread for all calls of a policy, so that one that never returns can be left behind.

    One and the same thread: torch keeps a pool of workers for each thread that calls it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = number_of(seconds, "decision_seconds", 0, _LONGEST_SECONDS)
        self._calls: queue.SimpleQueue[Any] | None = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Returns what the function does, or raises what it raises.

        Raises:
            PolicyError: it has not returned in time, or ended its thread.
        """
        if self._calls is None:
            self._calls, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
            weakref.finalize(self, self._calls.put, None)
            threading.Thread(
                target=_answer_calls, args=(self._calls, self._answers), daemon=True
            ).start()
        self._calls.put((function, argument))
        try:
            answer, error = self._answers.get(timeout=self._seconds)
        except queue.Empty:
            self._calls = None  # that thread may never come back; the next call gets another
            raise _TooSlowError(f"it did not decide within {self._seconds:g} s") from None
        if isinstance(error, Exception):
            raise error
        if error is not None:  # such as SystemExit
            raise PolicyError(f"it ended its thread ({said(error, repr)})")
        return answer


def _answer_calls(calls: "queue.SimpleQueue[Any]", answers: "queue.SimpleQueue[Any]") -> None:
    while (call := calls.get()) is not None:
        function, argument = call
        try:
            answers.put((function(argument), None))
        except BaseException as error:  # one that exits must not leave its caller waiting
            answers.put((None, error))


AnyPlayer = AgentPlayer | RandomPlayer | Player
Contender = ValuesActions | AnyPlayer
"""What can be evaluated and compared."""


def as_player(contender: Contender) -> AnyPlayer:
    """Returns an agent as a player, and a player as it is.

    Raises:
        ConfigError: it is neither.
    """
    known = isinstance(contender, AnyPlayer) or hasattr(contender, "q_values")
    if not known or not hasattr(contender, "game"):
        raise ConfigError(
            f"{quoted(contender)} cannot play. Give an agent such as DQNAgent.load(PATH), or a "
            "policy of your own as Player(policy, game=GAME)."
        )
    return contender if isinstance(contender, AnyPlayer) else AgentPlayer(contender)
