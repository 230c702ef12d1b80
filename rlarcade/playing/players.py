"""One interface for everything that plays: agents, functions, and objects with `predict`.

An agent with action values sees all its games in one batch. Any other policy sees one observation
at a time, so that its actions cannot depend on other games.
"""

import atexit
import ctypes
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from rlarcade.checked import number_of, require
from rlarcade.errors import ConfigError, PolicyError
from rlarcade.games.names import display_name, resolve_game
from rlarcade.games.protocols import Protocol, get_protocol
from rlarcade.games.simulator import GameState
from rlarcade.games.single import make_env
from rlarcade.text import quoted, said

_SEES = ("observation", "screen")
_DECISION_SECONDS = 60.0
_LONGEST_SECONDS = 1e9  # Python cannot wait much longer


class _TooSlowError(PolicyError):
    """A policy did not return an action in time."""


class Policy(Interface):
    """Anything that chooses actions, such as a plain function.

    A policy may have these attributes:

    - `reset(rng)` is called before each game. Use it for a policy with memory or randomness. `rng`
      is a NumPy generator that is seeded by the game, so that the game can be repeated. Such a
      policy plays one game at a time.
    - `new_game(rng)`, instead of `reset`, returns a policy for one game, with that game's memory.
      Then many games are played at a time. What they share, such as weights, must not change.
    - `life_lost()` is called after a life was lost, if another is left, before the next action. It
      is called on the policy of the game.
    - `num_actions` is the number of actions that the policy was made for. It must be that of the
      game under the protocol.
    - `sees = "screen"` gives the policy the RGB screen instead of the observation. Use it for a
      policy with its own preprocessing.
    - `version` is a unique text, such as a digest of the weights. With it, commands can keep the
      policy's games on disk. Without it, changed weights would not be noticed.
    """

    def __call__(self, observation: NDArray[np.uint8], /) -> int:
        """Returns an action.

        Args:
            observation: uint8 (4, 84, 84), newest frame last. With `sees = "screen"`, the screen
                as uint8 (210, 160, 3).
        """


class _Predicts(Interface):
    """Anything with the `predict` method of Stable-Baselines3, recurrent or not."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Returns actions (1,) for observations uint8 (1, 4, 84, 84), and the next state."""


class _BeginsGames(Interface):
    """Anything that gives each game a policy of its own."""

    def new_game(self, rng: np.random.Generator, /) -> Policy | _Predicts:
        """Returns the policy of one game, with that game's memory."""


class Agent(Interface):
    """An agent that plays ε-greedily by its action values, as `DQNAgent` does.

    It may have a `name`, which appears in results, and a unique `version`.
    """

    game: str
    protocol: Protocol

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns float32 (B, A) values of uint8 (B, 4, 84, 84) observations."""


League = Literal["screen", "emulator"]
"""What players may see: the screen alone, or also the state of the emulator."""
LEAGUES: dict[League, str] = {
    "screen": "sees only the screen",
    "emulator": "has emulator access",
}
"""What a player of each league does, in words."""


class View(NamedTuple):
    """A player's view of one game that waits for an action."""

    observation: NDArray[np.uint8]
    """uint8 (4, 84, 84), or the screen (210, 160, 3) if the player sees the screen."""
    memory: Any
    """Return value of `sit` for this game."""
    num_actions: int
    life_lost: bool = False
    """Whether the step before lost a life, and another is left."""
    state: GameState | None = None
    """State of the emulator, for a player of the league `emulator`."""


class SearchTree(NamedTuple):
    """The future that a player looked at before it chose. Node 0 is the present state.

    The nodes are in preorder: each one is followed by all nodes below it.
    """

    parents: NDArray[np.int32]
    """int32 (N,): index of each node's parent; -1 for node 0."""
    actions: NDArray[np.int32]
    """int32 (N,): the action that leads to each node; -1 for node 0."""
    sizes: NDArray[np.int32]
    """int32 (N,): number of nodes below each node, and itself."""
    rewards: NDArray[np.float32]
    """float32 (N,): reward on the way from the parent."""


class Choice(NamedTuple):
    """A player's decision in one game."""

    action: int
    values: NDArray[np.float32] | None = None
    """float32 (A,), if the player has action values."""
    tree: SearchTree | None = None
    """The tree that it grew, if it looks ahead."""


class Player:
    """A policy with its game, for `evaluate_agent`, `compare_agents` and `play_steps`.

        evaluate_agent(Player(lambda observation: 0, game="Pong"))

    The protocol's evaluation ε applies, as it does to agents: that share of actions is random.

    Attributes:
        name: name in results.
        version: unique text that identifies the policy, so that its matches can be kept; or None.
        game: ROM id.
        protocol: protocol of its games.
        sees_screen: whether it sees RGB screens instead of observations.
        one_at_a_time: whether it has a `reset` and no `new_game`. Then it plays one game at a time.
        league: what it sees of its games. Scores of different leagues are not compared.
    """

    game: str
    protocol: Protocol
    name: str
    version: str | None
    sees_screen: bool = False
    one_at_a_time: bool = False
    league: League = "screen"

    def __init__(
        self,
        policy: Policy | _Predicts | _BeginsGames,
        *,
        game: str,
        protocol: str | Protocol = "v5",
        name: str = "policy",
        version: str | None = None,
        decision_seconds: float = _DECISION_SECONDS,
    ) -> None:
        """Wraps a policy.

        Args:
            policy: a function, another `Policy`, or an object with `predict` or `new_game`.
            game: any spelling of a game's name.
            protocol: name of a protocol, or a `Protocol`.
            name: name in results.
            version: unique text that identifies the policy, such as a digest of its weights.
            decision_seconds: time limit for one action. A policy that exceeds it has failed.

        Raises:
            ConfigError: the policy, the game, the protocol or the time limit is invalid, or the
                policy was made for another number of actions.
        """
        if not _acts(policy) and not hasattr(policy, "new_game"):
            raise ConfigError(
                f"{name} is no policy: {type(policy).__name__} cannot be called with an "
                "observation, and has no method predict or new_game."
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
        self._check_actions(getattr(policy, "num_actions", None))
        self._new_game: Callable[[np.random.Generator], Any] | None = getattr(
            policy, "new_game", None
        )
        self._reset: Callable[[np.random.Generator], None] | None = getattr(policy, "reset", None)
        self.one_at_a_time = self._reset is not None and self._new_game is None
        self._policy: Any = policy
        self._worker = _Worker(decision_seconds)

    def _check_actions(self, wanted: int | None) -> None:
        """Requires that a policy was made for the actions of its game. Others would be misread."""
        if wanted is None:
            return
        there = make_env(self.game, protocol=self.protocol).num_actions
        if wanted != there:
            raise ConfigError(
                f"{self.name} was made for {quoted(wanted)} actions, but {display_name(self.game)} "
                f"has {there} under {self.protocol.name}. Choose its own game and protocol."
            )

    def sit(self, rng: np.random.Generator) -> Any:
        """Begins a game of the policy. Returns what belongs to that game alone."""
        memory = _Memory(self._policy)
        try:
            if self._new_game is not None:
                memory.policy = self._worker.call(self._new_game, rng)
                if not _acts(memory.policy):
                    raise PolicyError(f"its new_game returned no policy: {quoted(memory.policy)}")
            elif self._reset is not None:
                self._worker.call(self._reset, rng)
        except Exception as error:  # reported at its first action, so only this game is lost
            memory.failure = error
        return memory

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Chooses an action in one game after the other."""
        return [self._choice(view) for view in views]

    def _choice(self, view: View) -> Choice | Exception:
        if view.memory.failure is not None:
            failure: Exception = view.memory.failure
            return failure
        try:
            return Choice(self._worker.call(self._decide, view))
        except Exception as error:  # any error counts as the policy's failure
            return error

    def _decide(self, view: View) -> int:
        memory: _Memory = view.memory
        if view.life_lost and hasattr(memory.policy, "life_lost"):
            memory.policy.life_lost()
        if not hasattr(memory.policy, "predict"):
            return _whole(memory.policy(view.observation))
        actions, memory.state = memory.policy.predict(
            view.observation[None],
            state=memory.state,
            episode_start=np.array([memory.first]),
            deterministic=True,
        )
        memory.first = False
        return _whole(actions)


class AgentPlayer(Player):
    """A player around an agent with action values.

    Args:
        agent: the agent.
        protocol: protocol of its games, with its evaluation ε. None: that of the agent.
        name: name in results. None: that of the agent.
        decision_seconds: time limit for one batch. An agent that exceeds it fails in all games of
            the batch. `DQNAgent` has no limit, because the timing thread would slow it down.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        protocol: Protocol | None = None,
        name: str | None = None,
        decision_seconds: float = _DECISION_SECONDS,
    ) -> None:
        self._agent = agent
        self._timed = None if _is_dqn_agent(agent) else _Worker(decision_seconds)
        self.game, self.protocol = resolve_game(agent.game), protocol or agent.protocol
        self.name: str = getattr(agent, "name", "agent") if name is None else name
        self.version: str | None = getattr(agent, "version", None)

    @property
    def agent(self) -> Agent:
        """The agent."""
        return self._agent

    def sit(self, rng: np.random.Generator) -> None:
        """Prepares nothing: the evaluator draws the random actions of ε."""

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Chooses an action in each game, in one batch. If the batch fails, one game at a time."""
        observations = np.stack([view.observation for view in views])
        try:
            if self._timed is None:
                values = self._agent.q_values(observations)
            else:
                values = self._timed.call(self._agent.q_values, observations)
        except _TooSlowError as error:  # one game at a time would time out again and again
            return [error for _ in views]
        except Exception as error:  # any error counts as the agent's failure
            if len(views) == 1:
                return [error]
            return [choice for view in views for choice in self.choose([view])]
        return [_greedy(row, views[0].num_actions) for row in values]


def _is_dqn_agent(agent: Agent) -> bool:
    # The module is not imported: it needs torch, and other agents play without torch. While it is
    # not loaded, nothing can be a DQNAgent.
    module = sys.modules.get("rlarcade.learning.policy")
    return isinstance(agent, getattr(module, "DQNAgent", ()))


def _greedy(values: NDArray[np.float32], num_actions: int) -> Choice | Exception:
    if values.shape != (num_actions,):
        return PolicyError(
            f"it returned {values.size} action values, but the game has {num_actions} actions. "
            "Was it made for another game or action set?"
        )
    if not np.isfinite(values).all():
        return PolicyError(f"its action values are not finite: {values.tolist()}")
    return Choice(int(values.argmax()), values)


class RandomPlayer(Player):
    """Plays every action with the same probability: the lowest baseline of every table.

    Args:
        game: any spelling of a game's name.
        protocol: name of a protocol, or a `Protocol`.
    """

    name = version = "random"

    def __init__(self, game: str, protocol: str | Protocol = "v5") -> None:
        self.game, self.protocol = resolve_game(game), get_protocol(protocol)

    def sit(self, rng: np.random.Generator) -> np.random.Generator:
        """Returns the random generator of the game."""
        return rng

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Draws an action for each game from the game's random generator."""
        return [Choice(int(view.memory.integers(view.num_actions))) for view in views]


class _Memory:
    """State that belongs to one game of a policy."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.state: Any = None
        self.first = True
        self.failure: Exception | None = None


def _acts(policy: Any) -> bool:
    return callable(policy) or hasattr(policy, "predict")


def _whole(action: Any) -> int:
    """The action as an int. The evaluator checks that it is in the action set."""
    array = np.asarray(action)
    if array.size != 1 or not np.issubdtype(array.dtype, np.integer):
        raise PolicyError(f"an action is one whole number, not {quoted(action)}")
    return int(array.reshape(-1)[0])


class _Worker:
    """A thread that runs all calls of a policy. A call that never returns can be abandoned.

    All calls share one thread, because torch keeps a pool of workers for each calling thread.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = number_of(seconds, "decision_seconds", 0, _LONGEST_SECONDS)
        self._lock = threading.Lock()  # games begin in other threads than they are played in
        self._calls: queue.SimpleQueue[Any] | None = None
        self._thread = threading.current_thread()  # replaced when the first call starts one
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __reduce__(self) -> "tuple[type[_Worker], tuple[float]]":
        return _Worker, (self._seconds,)  # a pickled player gets a thread of its own

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Returns the function's result, or raises the function's error.

        Raises:
            PolicyError: the function did not return in time, or ended its thread.
        """
        with self._lock:
            return self._answer(function, argument)

    def _answer(self, function: Callable[[Any], Any], argument: Any) -> Any:
        if self._calls is None:
            self._calls, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
            self._thread = threading.Thread(
                target=_answer_calls, args=(self._calls, self._answers), daemon=True
            )
            self._thread.start()
            self._at_the_end = weakref.finalize(self, _end, self._thread, self._calls)
        self._calls.put((function, argument))
        try:
            answer, error = self._answers.get(timeout=self._seconds)
        except queue.Empty:
            self._at_the_end.detach()
            _abandon(self._thread, self._calls)
            self._calls = None  # the thread may never return; the next call starts a new one
            raise _TooSlowError(f"it did not decide within {self._seconds:g} s") from None
        if isinstance(error, Exception):
            raise error
        if error is not None:  # such as SystemExit
            raise PolicyError(f"it ended its thread ({said(error, repr)})")
        return answer


_abandoned: list[threading.Thread] = []
_LAST_WAIT = 5.0  # seconds for threads to end, when the process ends


def _end(thread: threading.Thread, calls: "queue.SimpleQueue[Any]") -> None:
    """Lets an idle thread end, and waits for it.

    A thread that still runs when Python ends may abort the process, as described at `_abandon`.
    """
    calls.put(None)
    if thread is not threading.current_thread():
        thread.join(_LAST_WAIT)


def _abandon(thread: threading.Thread, calls: "queue.SimpleQueue[Any]") -> None:
    """Asks a thread to end: Python raises SystemExit in it when it next runs Python code.

    If it still computed in native code while Python ends, such as in torch, it would abort the
    process, and the exit code would not be the outcome's. A thread that only waits does no harm.
    """
    calls.put(None)  # for a call that returns after all
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
        )
        _abandoned.append(thread)


@atexit.register
def _wait_for_the_abandoned() -> None:
    end = time.monotonic() + _LAST_WAIT
    for thread in _abandoned:
        thread.join(max(0.0, end - time.monotonic()))


def _answer_calls(calls: "queue.SimpleQueue[Any]", answers: "queue.SimpleQueue[Any]") -> None:
    while (call := calls.get()) is not None:
        answer = _answered(*call)
        del call  # an idle thread must not keep a policy and its memory alive
        answers.put(answer)
        del answer


def _answered(function: Callable[[Any], Any], argument: Any) -> tuple[Any, BaseException | None]:
    try:
        return function(argument), None
    except BaseException as error:  # the caller must not wait forever, even on SystemExit
        return None, error


def as_player(agent: Agent | Player) -> Player:
    """Returns an agent as a player, and a player as it is.

    Raises:
        ConfigError: it is neither.
    """
    known = isinstance(agent, Player) or hasattr(agent, "q_values")
    if not known or not hasattr(agent, "game"):
        raise ConfigError(
            f"{quoted(agent)} cannot play. Give an agent such as DQNAgent.load(PATH), or a "
            "policy of your own as Player(policy, game=GAME)."
        )
    return agent if isinstance(agent, Player) else AgentPlayer(agent)
