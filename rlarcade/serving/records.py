"""Writes what a running rollout has learnt to the registry: its games, and what its shadow counted.

What cannot be written now stays in memory, and is written the next time.
"""

from rlarcade.registry.registry import Registry, default_actor
from rlarcade.registry.rollouts import ServedGame
from rlarcade.serving import rollout_store as store
from rlarcade.serving.live import LiveRollout
from rlarcade.serving.service import Service
from rlarcade.serving.shadow import record_shadow

_MOST_GAMES = 500  # new ones or results in one change


async def write_games(service: Service, registry: Registry, running: LiveRollout) -> None:
    """Writes new games, and results with the documents of the games as the referee played them.

    While the registry cannot be written, games wait. Each change writes a part of them, because a
    database takes only so many values at once, and an entry of the audit log only so many bytes.

    Raises:
        StaleError: another server has recorded one of these games.
        UnusableRegistryError: the registry cannot be written.
    """
    assigned, ended = len(running.assigned), len(running.ended)
    while assigned or ended:
        new = running.assigned[: min(assigned, _MOST_GAMES)]
        assigned -= len(new)
        over = [] if assigned else running.ended[: min(ended, _MOST_GAMES)]  # each was new before
        ended -= len(over)
        for game in await service.at_registry(_written, registry, running, new, over):
            running.games[game.number] = game  # with the digest of its record
            running.episodes.pop(game.number, None)
        del running.assigned[: len(new)]
        del running.ended[: len(over)]


def _written(
    registry: Registry, running: LiveRollout, new: list[ServedGame], over: list[ServedGame]
) -> list[ServedGame]:
    results = [_with_record(registry, running, game) for game in over]
    store.record_games(registry, running.rollout.id, default_actor(), assigned=new, ended=results)
    return results


def _with_record(registry: Registry, running: LiveRollout, game: ServedGame) -> ServedGame:
    episode = running.episodes.get(game.number)
    if episode is None:
        return game
    return game.model_copy(update={"record": registry.put_document(episode)})


async def write_shadow(
    service: Service, registry: Registry, running: LiveRollout, least: int = 1
) -> None:
    """Writes what the shadow has counted.

    Args:
        service: the service that plays the games.
        registry: the registry that holds the rollout.
        running: the rollout; without a shadow, nothing is written.
        least: fewer decisions than these are left for later.

    Raises:
        UnusableRegistryError: the registry cannot be written.
    """
    shadow = running.shadow
    if shadow is not None and shadow.unwritten >= least:
        counts = shadow.counts
        await service.at_registry(record_shadow, registry, counts, default_actor())
        shadow.written = counts
