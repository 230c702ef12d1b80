"""Players that look ahead before they act: a network proposes and values, a tree search decides.

The idea of AlphaGo, Silver et al. (2016), https://www.nature.com/articles/nature16961, in the
Arcade Learning Environment. Such a player has access to the emulator: its simulators start from the
game's state. It never sees the coins of the real game that are still to come.

Two searches grow the tree from the same parts:

- `uct` goes where value and curiosity are largest: Kocsis & Szepesvári (2006), with the network's
  values as prior, as in AlphaZero, Silver et al. (2017), https://arxiv.org/abs/1712.01815.
- `iw` goes anywhere, but only on from screens that show something new at their depth: Rollout-IW,
  Bandres, Bonet & Geffner (2018), https://arxiv.org/abs/1801.03354, with the network's values at
  the leaves.

Returns are in the units of the network: rewards and ends are those that its training saw.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from rlarcade.checked import AsWritten, validated
from rlarcade.errors import ConfigError, PolicyError
from rlarcade.games.names import display_name, resolve_game
from rlarcade.games.protocols import FRAMESKIP, SCREEN, Protocol
from rlarcade.games.simulator import GameState, Simulator, check_cloned
from rlarcade.playing.players import Agent, Choice, League, Player, SearchTree, View
from rlarcade.text import quoted

SearchKind = Literal["uct", "iw"]
_MOST = {"simulations": 10_000, "depth": 1_000, "skip": 60}
"""10,000 simulations take about twenty seconds for each action."""
_CURIOSITY = 1.5
_TEMPERATURE = 0.1
"""Of the prior. The values of a state's actions differ by some hundredths or tenths."""
_PATCH = SCREEN // 14  # 6 × 6 pixels, as many patches as in the paper on one axis
_SHADES = 16
_FEATURES = 14 * 14 * _SHADES


class _Units(AsWritten):
    """How the network's training counted. A checkpoint may come from a stranger."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    gamma: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.99
    reward_clip: bool = True
    """Whether rewards are −1, 0 or 1."""
    terminal_on_life_loss: bool = True
    """Whether a lost life ends the return."""


@dataclass(slots=True, eq=False)
class _Node:
    """A state in the tree, and the simulated step that led there."""

    state: GameState | None
    """None where the return ends."""
    observation: NDArray[np.uint8]
    depth: int = 0
    reward: float = 0.0
    """Discounted rewards of the step."""
    discount: float = 1.0
    """Of all that follows the step."""
    values: NDArray[np.float32] | None = None
    """The network's values of the actions, float32 (A,)."""
    children: "dict[int, _Node]" = field(default_factory=dict)
    visits: int = 0
    total: float = 0.0
    """Sum of the returns of all visits, from before the step."""
    best: float = 0.0
    """Largest return below, from after the step."""
    features: NDArray[np.intp] | None = None
    solved: bool = False
    """`iw` need not come here again."""

    @property
    def worth(self) -> float:
        """The network's value of the state."""
        return 0.0 if self.values is None else float(self.values.max())


_Grows = Generator[NDArray[np.uint8], NDArray[np.float32], None]
"""Yields observations. Is sent the network's values of each, float32 (A,)."""


class _Tree:
    """The tree of one decision."""

    def __init__(self, simulator: Simulator, view: View, *, units: _Units, skip: int) -> None:
        self._simulator, self._units, self._skip = simulator, units, skip
        self.rng: np.random.Generator = view.memory
        self.root = _Node(view.state, view.observation)
        self.nodes: list[_Node] = []
        """All but the root, parents before their children."""

    def expand(
        self, node: _Node, action: int
    ) -> Generator[NDArray[np.uint8], NDArray[np.float32], _Node]:
        """Adds what follows an action."""
        assert node.state is not None
        self._simulator.restore(node.state)
        observation, reward, discount, ended = node.observation, 0.0, 1.0, False
        for _ in range(self._skip):
            step = self._simulator.step(action, self.rng)
            reward += discount * (
                float(np.sign(step.reward)) if self._units.reward_clip else step.reward
            )
            discount *= self._units.gamma
            observation = np.concatenate([observation[1:], step.frame[None]])
            ended = step.over or (step.life_lost and self._units.terminal_on_life_loss)
            if ended:
                break
        state = None if ended else self._simulator.state()
        child = _Node(state, observation, node.depth + 1, reward, discount)
        if not ended:
            child.values = yield observation
        node.children[action] = child
        self.nodes.append(child)
        return child


def _grow_uct(tree: _Tree, simulations: int, depth: int) -> _Grows:
    """Adds a node per simulation, where the upper bound of the value is largest."""
    low, high = math.inf, -math.inf
    for _ in range(simulations):
        path = [tree.root]
        while path[-1].values is not None and path[-1].depth < depth:
            estimates = _mean_returns(path[-1])
            low, high = min(low, estimates.min()), max(high, estimates.max())
            action = _most_promising(path[-1], (estimates - low) / max(high - low, 1e-6))
            child = path[-1].children.get(action)
            if child is None:
                path.append((yield from tree.expand(path[-1], action)))
                break
            path.append(child)
        worth = path[-1].worth
        for node in reversed(path):
            worth = node.reward + node.discount * worth
            node.visits += 1
            node.total += worth


def _mean_returns(node: _Node) -> NDArray[np.float64]:
    """Mean return of each action that was tried, and the network's value of the others."""
    assert node.values is not None
    means = node.values.astype(np.float64)
    for action, child in node.children.items():
        means[action] = child.total / child.visits
    return means


def _most_promising(node: _Node, estimates: NDArray[np.float64]) -> int:
    """PUCT: the estimate, from 0 to 1, plus what the prior does not know yet."""
    assert node.values is not None
    prior = np.exp((node.values.astype(np.float64) - node.values.max()) / _TEMPERATURE)
    visits = np.zeros(len(prior))
    for action, child in node.children.items():
        visits[action] = child.visits
    curiosity = _CURIOSITY * prior / prior.sum() * math.sqrt(visits.sum() + 1) / (1 + visits)
    return int((estimates + curiosity).argmax())


def _decide_uct(tree: _Tree) -> Choice:
    """The action with most visits; of several, the one with the largest mean return."""
    root = tree.root
    means = _mean_returns(root)
    action = max(root.children, key=lambda one: (root.children[one].visits, means[one]))
    return Choice(action, means.astype(np.float32), _summary(root))


def _grow_iw(tree: _Tree, simulations: int, depth: int) -> _Grows:
    """Adds nodes along random rollouts. A rollout ends where nothing is new."""
    least = np.full(_FEATURES, depth + 1)  # least depth at which each feature was seen
    _look(tree.root, least)
    actions = range(len(tree.root.values if tree.root.values is not None else ()))
    while len(tree.nodes) < simulations and not tree.root.solved:
        path = [tree.root]
        while not path[-1].solved and len(tree.nodes) < simulations:
            node = path[-1]
            open_ones = [
                a for a in actions if a not in node.children or not node.children[a].solved
            ]
            action = int(tree.rng.choice(open_ones))
            child = node.children.get(action)
            if child is None:
                child = yield from tree.expand(node, action)
                new = child.values is not None and _look(child, least)
                child.solved = not new or child.depth == depth
            elif not (least[child.features] == child.depth).any():
                child.solved = True  # others have shown all of it nearer to the root
            path.append(child)
        for node in reversed(path[:-1]):
            node.solved = len(node.children) == len(actions) and all(
                child.solved for child in node.children.values()
            )


def _look(node: _Node, least: NDArray[np.int64]) -> bool:
    """Notes the features of a node's newest frame. Returns whether one is new at its depth."""
    shade = node.observation[-1].astype(np.intp) * _SHADES // 256
    node.features = np.flatnonzero(np.bincount((_PATCH_OF + shade).ravel(), minlength=_FEATURES))
    new = bool((least[node.features] > node.depth).any())
    least[node.features] = np.minimum(least[node.features], node.depth)
    return new


_PATCH_OF = (
    np.add.outer(np.arange(SCREEN) // _PATCH * 14, np.arange(SCREEN) // _PATCH) * _SHADES
).astype(np.intp)
"""First feature of each pixel's patch, (84, 84). A feature is a shade in a patch."""


def _decide_iw(tree: _Tree) -> Choice:
    """The action with the largest return in the tree."""
    for node in reversed(tree.nodes):  # from the leaves to the root
        node.best = 0.0 if node.values is None else float(_best_returns(node).max())
    values = _best_returns(tree.root)
    return Choice(int(values.argmax()), values.astype(np.float32), _summary(tree.root))


def _best_returns(node: _Node) -> NDArray[np.float64]:
    """Largest return of each action that was tried, and the network's value of the others."""
    assert node.values is not None
    best = node.values.astype(np.float64)
    for action, child in node.children.items():
        best[action] = child.reward + child.discount * child.best
    return best


def _summary(root: _Node) -> SearchTree:
    """The tree without states and screens."""
    parents: list[int] = []
    actions: list[int] = []
    rewards: list[float] = []
    waiting = [(-1, -1, root)]
    while waiting:
        parent, action, node = waiting.pop()
        place = len(parents)
        parents.append(parent)
        actions.append(action)
        rewards.append(node.reward)
        for following, child in sorted(node.children.items(), reverse=True):
            waiting.append((place, following, child))
    sizes = [1] * len(parents)
    for place in reversed(range(1, len(parents))):
        sizes[parents[place]] += sizes[place]
    return SearchTree(
        parents=np.array(parents, dtype=np.int32),
        actions=np.array(actions, dtype=np.int32),
        sizes=np.array(sizes, dtype=np.int32),
        rewards=np.array(rewards, dtype=np.float32),
    )


class _Search(NamedTuple):
    """A way to grow a tree, and to decide by it."""

    grow: Callable[[_Tree, int, int], _Grows]
    decide: Callable[[_Tree], Choice]


_SEARCHES: dict[str, _Search] = {
    "uct": _Search(_grow_uct, _decide_uct),
    "iw": _Search(_grow_iw, _decide_iw),
}


class SearchPlayer(Player):
    """An agent that looks ahead. Its games belong to the league "with emulator access".

        evaluate_agent(SearchPlayer(DQNAgent.load("zoo:SpaceInvaders"), simulations=24))

    A decision takes about two milliseconds for each simulation of four steps. The same seed gives
    the same game, whatever else is played beside it.
    """

    league: League = "emulator"

    def __init__(
        self,
        agent: Agent,
        *,
        simulations: int = 12,
        depth: int = 20,
        skip: int = 4,
        kind: SearchKind = "uct",
        protocol: Protocol | None = None,
        name: str | None = None,
    ) -> None:
        """Lets an agent look ahead.

        Args:
            agent: its values are prior and leaves of the search.
            simulations: nodes of the tree of one decision, 1 to 10,000.
            depth: largest depth of the tree, 1 to 1,000 decisions.
            skip: steps of the game, of four frames, that each decision in the tree lasts, 1 to 60.
            kind: `uct` or `iw`, see above.
            protocol: protocol of its games. None: that of the agent.
            name: name in results. None: the name of this player on the command line.

        Raises:
            ConfigError: a number is out of its bounds, the kind is unknown, the agent has no action
                values, the protocol has all 18 actions, the tree is deeper than a game can be, or
                the agent's checkpoint says something impossible of its training.
            GameError: states of the agent's game cannot be cloned.
        """
        if not hasattr(agent, "q_values") or not hasattr(agent, "game"):
            raise ConfigError(
                f"{quoted(agent)} cannot look ahead. Give an agent with action values, such as "
                "DQNAgent.load(PATH)."
            )
        if kind not in tuple(_SEARCHES):  # it may be no text
            raise ConfigError(f"a search is {' or '.join(_SEARCHES)}, not {quoted(kind)}.")
        for what, number in (("simulations", simulations), ("depth", depth), ("skip", skip)):
            whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
            if not whole or not 1 <= number <= _MOST[what]:
                raise ConfigError(
                    f"{what} of a search is a whole number from 1 to {_MOST[what]:,}, not "
                    f"{quoted(number)}."
                )
        self.game, self.protocol = resolve_game(agent.game), protocol or agent.protocol
        check_cloned(self.game)
        if self.protocol.full_action_space:
            raise ConfigError(
                f"{self.protocol.name} plays with all 18 actions. A search tries each of them, and "
                f"most do the same in {display_name(self.game)}. Choose an agent that was trained "
                "with the game's own actions, such as under v5."
            )
        frames, cap = depth * skip * FRAMESKIP, self.protocol.frame_cap
        if frames > cap:
            raise ConfigError(
                f"a tree of depth {depth} with {skip} steps a decision lasts {frames:,} frames, "
                f"but a game under {self.protocol.name} ends after {cap:,}. Choose a smaller depth "
                "or skip."
            )
        self._agent = agent
        self._units = validated(_Units, getattr(agent, "trained_with", {}))
        self._simulations, self._depth, self._skip = int(simulations), int(depth), int(skip)
        self._search = _SEARCHES[kind]
        options = f"search,simulations={simulations},depth={depth},skip={skip},kind={kind}"
        self.name = name or f"{options}:{getattr(agent, 'name', 'agent')}"
        known: str | None = getattr(agent, "version", None)
        self.version = known and f"{options}:{known}"
        self._simulator: Simulator | None = None

    @property
    def agent(self) -> Agent:
        """The agent that looks ahead."""
        return self._agent

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_simulator": None}  # an emulator is no data

    def sit(self, rng: np.random.Generator) -> np.random.Generator:
        """Returns the dice of the game's simulators."""
        return rng

    def choose(self, views: Sequence[View]) -> list[Choice | Exception]:
        """Searches in all games side by side: their newest leaves go through the network at once.

        If that fails, one game at a time.
        """
        dice = [view.memory.bit_generator.state for view in views]
        try:
            return [*self._searched(views)]
        except Exception as error:  # any error counts as the agent's failure
            if len(views) == 1:
                return [error]
            for view, before in zip(views, dice, strict=True):
                view.memory.bit_generator.state = before
            return [choice for view in views for choice in self.choose([view])]

    def _searched(self, views: Sequence[View]) -> list[Choice]:
        if self._simulator is None:
            self._simulator = Simulator(self.game, self.protocol)
        trees = [_Tree(self._simulator, view, units=self._units, skip=self._skip) for view in views]
        growing = [self._grown(tree) for tree in trees]
        asked = {place: next(one) for place, one in enumerate(growing)}
        while asked:
            rows = self._agent.q_values(np.stack([*asked.values()]))
            if rows.shape != (len(asked), views[0].num_actions) or not np.isfinite(rows).all():
                raise PolicyError(
                    f"its action values are not finite, or not {views[0].num_actions} numbers."
                )
            following = {}
            for place, row in zip(asked, rows, strict=True):
                try:
                    following[place] = growing[place].send(row)
                except StopIteration:
                    continue
            asked = following
        return [self._search.decide(tree) for tree in trees]

    def _grown(self, tree: _Tree) -> _Grows:
        tree.root.values = yield tree.root.observation
        yield from self._search.grow(tree, self._simulations, self._depth)
