"""Loads players by name: a checkpoint, a version, `search:` of one, `random`, `module:factory`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlarcade.errors import ConfigError
from rlarcade.foreign import attribute_of, own_words
from rlarcade.games.names import resolve_game
from rlarcade.games.protocols import Protocol, get_protocol
from rlarcade.learning.playable import load_agent
from rlarcade.playing.players import (
    AgentPlayer,
    Player,
    RandomPlayer,
)
from rlarcade.playing.references import load_named
from rlarcade.playing.search import SearchPlayer
from rlarcade.search_names import search_name
from rlarcade.text import printable, quoted, said
from rlarcade.zoo import is_zoo_name

if TYPE_CHECKING:
    from rlarcade.learning.policy import DQNAgent

RANDOM, HUMAN = "random", "human"
_SEARCH_OPTIONS = ("simulations", "depth", "skip", "kind")
_NUMBER = re.compile(r"[0-9]{1,18}")
_VERSION = re.compile(r"[!-~]{1,200}")
_ENTRY_POINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(=.*)?", re.DOTALL)


def named_players(
    names: Sequence[str],
    *,
    game: str | None = None,
    protocol: str | None = None,
    device: str = "cpu",
    registry: str | Path | None = None,
) -> list[Player]:
    """Loads players by name. All are loaded before the first game, so errors come early.

    Args:
        names: each is a checkpoint or run folder, an agent of the zoo (`zoo:Pong`), a version of a
            registry (`7`, `champion@pong`), one of these that looks ahead (`search:7`,
            `search,simulations=64:zoo:Pong`), `random`, or `module:factory`. `factory(game)`
            returns a `Policy` or an object with `predict`. `module:factory=ARGUMENT` calls
            `factory(game, "ARGUMENT")`; the argument is mostly a path. Loading runs the code of the
            module, which may be in the working directory. The policy may have a `version`
            attribute; otherwise its version is None.
        game: game of the players that are not checkpoints. Unset: the game of the checkpoints.
        protocol: protocol of all players. Unset: the protocol that the checkpoints were trained
            under, or `v5`.
        device: device of the networks.
        registry: folder or address of the registry with the versions; None:
            `checkpoints/registry`.

    Raises:
        CheckpointError: a checkpoint is missing, damaged, foreign or hostile.
        ConfigError: a name is not a player, the game is unknown, or a checkpoint plays another
            game.
        RegistryError: the registry or a version does not exist, or a version is broken.
    """
    if HUMAN in names:
        raise ConfigError(
            f"{HUMAN} is a published score and cannot play. Name a checkpoint, or random."
        )
    if not names:
        return []
    meant = {name: _checkpoint_of(name) for name in names}
    agents = {
        checkpoint: load_agent(load_named(checkpoint, registry), device=device)
        for checkpoint in dict.fromkeys(meant.values())
        if checkpoint is not None
    }
    asked = None if protocol is None else get_protocol(protocol)
    for agent in agents.values():
        _check_game(agent, game)
        if asked is not None:
            _check_actions(agent, asked)
    known = list(dict.fromkeys(agent.game for agent in agents.values()))
    if None in meant.values() and len(known) != 1 and game is None:
        found = f"the checkpoints play {' and '.join(known)}" if known else "no checkpoint says"
        raise ConfigError(f"which game should the others play? Name it with --game; {found}.")
    game = resolve_game(game or known[0])
    rules = asked or next((agent.protocol for agent in agents.values()), get_protocol("v5"))
    return [
        _other(name, game, rules)
        if (checkpoint := meant[name]) is None
        else _player(name, agents[checkpoint], asked)
        for name in names
    ]


def _is_entry_point(name: str) -> bool:
    # os.path.exists accepts a name that is too long for a file; Path.exists raises.
    is_file = os.path.exists(name)  # noqa: PTH110
    return _ENTRY_POINT.fullmatch(name) is not None and not is_file and not is_zoo_name(name)


def _checkpoint_of(name: str) -> str | None:
    """The checkpoint or version that a name means; None: it means another policy."""
    search = search_name(name)
    agent = name if search is None else search.agent
    if not agent and search is not None:
        raise ConfigError(
            f"{printable(name)} does not say which agent looks ahead. Write search:CHECKPOINT."
        )
    if agent != RANDOM and not _is_entry_point(agent):
        return agent
    if search is not None:
        raise ConfigError(
            f"{printable(agent)} has no action values, so it cannot look ahead. Name a checkpoint: "
            "search:CHECKPOINT."
        )
    return None


def _player(name: str, agent: "DQNAgent", asked: Protocol | None) -> Player:
    search = search_name(name)
    if search is None:
        return AgentPlayer(agent, protocol=asked)
    options: dict[str, Any] = {}
    for option, text in search.options:
        if option not in _SEARCH_OPTIONS or option in options:
            problem = "is there twice" if option in options else "is not one of them"
            raise ConfigError(
                f"a search has the options {', '.join(_SEARCH_OPTIONS)}; {quoted(option)} "
                f"{problem}. Write search,simulations=64,kind=iw:CHECKPOINT."
            )
        options[option] = int(text) if _NUMBER.fullmatch(text) else text
    return SearchPlayer(agent, protocol=asked, **options)


def _check_game(agent: "DQNAgent", game: str | None) -> None:
    if game is not None and agent.game != resolve_game(game):
        raise ConfigError(
            f"{agent.name} plays {agent.game}, not {resolve_game(game)}. Leave --game out."
        )


def _check_actions(agent: "DQNAgent", rules: Protocol) -> None:
    if rules.full_action_space != agent.protocol.full_action_space:
        raise ConfigError(
            f"{agent.name} was trained under {agent.protocol.name}, which has other actions than "
            f"{rules.name}. Leave --protocol out."
        )


def _other(name: str, game: str, rules: Protocol) -> Player:
    if name == RANDOM:
        return RandomPlayer(game, rules)
    entry_point, equals, argument = name.partition("=")
    arguments = (game, argument) if equals else (game,)
    made = False
    try:
        policy: Any = attribute_of(entry_point)(*arguments)
        made = True
        version = _version_of(policy, entry_point)
        return Player(policy, game=game, protocol=rules, name=name, version=version)
    except ConfigError as error:
        if made:  # rlarcade's own error, which names the player
            raise
        raise ConfigError(f"{name}: {said(error)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # user code may raise anything, even SystemExit
        call = f"{entry_point.partition(':')[2]}({', '.join(map(quoted, arguments))})"
        hint = f" {name}=TEXT gives it a second argument." if not equals else ""
        raise ConfigError(
            f"{name} gave no policy: {own_words(error)}. {call} must return a function of an "
            f"observation, or an object with predict.{hint if isinstance(error, TypeError) else ''}"
        ) from error


def _version_of(policy: Any, name: str) -> str | None:
    """Returns a policy's own unique version, or None.

    Its source file cannot identify it: the weights are elsewhere and may have changed. The argument
    of the factory is no part of it: a file that was moved holds the same policy.
    """
    version = getattr(policy, "version", None)
    if version is None:
        return None
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise ConfigError(
            f"{name} has version {printable(repr(version), 60)}. A version must be a text of 1 to "
            "200 printable ASCII characters, such as a digest of the policy's weights."
        )
    return f"{name}@{version}"


def told_unkept(players: Sequence[Player]) -> str | None:
    """Returns a warning about games that cannot be kept; None if all can."""
    unknown = list(dict.fromkeys(player.name for player in players if player.version is None))
    if not unknown:
        return None
    return (
        f"{' and '.join(unknown)} has no version, so these games are not kept for a later command. "
        "Give the policy a `version`, a text such as a digest of its weights."
    )
