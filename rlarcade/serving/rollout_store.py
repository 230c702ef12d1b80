"""Rollouts in the registry: every transition is one transaction with its entry in the audit log."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from pydantic import ValidationError
from sqlalchemy import func, insert, select, update

from rlarcade.errors import (
    DamagedPartError,
    RegistryError,
    StaleError,
    UnusableRegistryError,
)
from rlarcade.games.names import display_name
from rlarcade.promotion.submissions import moving as moving_submission
from rlarcade.promotion.submissions import submission
from rlarcade.registry import audit
from rlarcade.registry.change import Change, DamagedVersionError
from rlarcade.registry.documents import Version
from rlarcade.registry.registry import CHAMPION, Registry
from rlarcade.registry.rollouts import (
    GAMES,
    OPEN_STATES,
    OPENED,
    TRANSITIONS,
    Rollout,
    RolloutState,
    ServedGame,
)
from rlarcade.registry.states import Submission
from rlarcade.registry.tables import rollouts, served_games
from rlarcade.serving.strategies import RolloutSpec

_RESULT = {
    "number",
    "ended",
    "score",
    "steps",
    "errors",
    "slow",
    "abandoned",
    "mixed",
    "claimed",
    "record",
}
"""What is written when a game has ended, with its number."""


def open_rollout(
    registry: Registry,
    version: Version,
    spec: RolloutSpec,
    *,
    actor: str,
    submission: int | None = None,
) -> Rollout:
    """Opens the rollout of a version against the champion of its game.

    Args:
        registry: the registry that holds the version.
        version: the candidate.
        spec: the strategy and its settings.
        actor: recorded in the audit log.
        submission: the approved submission that it releases; None: the actor's own decision.

    Raises:
        RegistryError: the version is broken, archived or the champion; the game has no champion;
            another rollout of the game is open; the strategy compares the versions, and they play
            by different protocols; or the rollout that must succeed first has failed.
        UnusableRegistryError: the registry cannot be written.
    """
    if version.state != "ok":
        raise RegistryError(
            f"version {version.number} is {version.state} and cannot be rolled out. Choose "
            "another: `promote versions`."
        )
    digest = registry.put_document(spec)
    alias = registry.alias(version.game)
    game = display_name(version.game)
    if alias is None:
        raise RegistryError(
            f"{game} has no champion, so there is nothing to roll out against. Make version "
            f"{version.number} the champion: `promote promote {version.number}`."
        )
    if alias.version == version.number:
        raise RegistryError(f"version {version.number} is the champion of {game} already.")
    _require_comparable(registry.version(alias.version), version, spec)
    if spec.after is not None:
        _require_hope(rollout(registry, spec.after))
    with registry.change(actor) as change:
        other = change.execute(
            select(rollouts.c.id, rollouts.c.state)
            .where(rollouts.c.game == version.game)
            .where(rollouts.c.state.in_(OPEN_STATES))
        ).first()
        if other is not None:
            raise RegistryError(
                f"rollout {other.id} of {game} is {other.state}. Only one can be open: abort it, "
                "or wait for its end."
            )
        number = (change.execute(select(func.max(rollouts.c.id))).scalar() or 0) + 1
        opened = Rollout(
            id=number,
            game=version.game,
            version=version.number,
            digest=version.digest,
            champion=alias.version,
            champion_generation=alias.generation,
            strategy=spec.strategy,
            spec=digest,
            submission=submission,
            salt=secrets.token_hex(16),
            opened=audit.now(),
            opened_by=audit.storable(actor),
            state="preparing",
            step=0,
        )
        change.execute(insert(rollouts).values(**opened.model_dump()))
        change.record(OPENED, opened.model_dump())
    return opened


def _require_comparable(champion: Version, version: Version, spec: RolloutSpec) -> None:
    if spec.strategy in ("canary", "ab", "parallel") and champion.contract != version.contract:
        raise RegistryError(
            f"versions {champion.number} and {version.number} cannot be compared, because their "
            f"protocols or actions differ: {champion.protocol.name} with {champion.num_actions} "
            f"actions, and {version.protocol.name} with {version.num_actions}. Choose the strategy "
            "big-bang, phased or rolling."
        )


def _require_hope(first: Rollout) -> None:
    if first.state in ("rolled_back", "aborted"):
        raise RegistryError(
            f"rollout {first.id} was {first.state.replace('_', ' ')}, so nothing can begin after "
            "its success. Leave `after` out."
        )


def rollout(registry: Registry, number: int) -> Rollout:
    """Returns a rollout by its id.

    Raises:
        RegistryError: there is no such rollout, or it was altered.
    """
    (rows,) = registry.rows(select(rollouts).where(rollouts.c.id == number))
    if not rows:
        raise RegistryError(f"there is no rollout {number}. See `rollout status`.")
    return _rollout(dict(rows[0]))


def rollouts_of(registry: Registry, game: str | None = None) -> list[Rollout]:
    """Returns the rollouts of one game or of all games, oldest first.

    Raises:
        UnusableRegistryError: one was altered.
    """
    query = select(rollouts).order_by(rollouts.c.id)
    if game is not None:
        query = query.where(rollouts.c.game == game)
    (rows,) = registry.rows(query)
    return [_rollout(dict(row)) for row in rows]


def spec_of(registry: Registry, current: Rollout) -> RolloutSpec:
    """Returns the settings of a rollout.

    Raises:
        UnusableRegistryError: the document is missing or altered.
    """
    return registry.get_document(current.spec, RolloutSpec)


def move(
    registry: Registry,
    current: Rollout,
    state: RolloutState,
    actor: str,
    *,
    step: int | None = None,
    note: str | None = None,
    resumed_after: int | None = None,
) -> Rollout:
    """Moves a rollout to its next state.

    If it ends without success, the submission that it releases becomes stale in the same
    transaction: the version gets no second chance against this champion.

    Args:
        registry: the registry that holds the rollout.
        current: the rollout as the caller read it.
        state: the next state.
        actor: recorded in the audit log.
        step: the next step; None: it stays.
        note: reason for the state.
        resumed_after: pairs that count now, if an operator resumes the rollout; None: it stays.

    Raises:
        StaleError: another process moved the rollout in the meantime.
        ValueError: no transition leads from its state to the next.
    """
    approved = _approved(registry, current)
    if approved is not None and state in ("rolled_back", "aborted"):
        void = f"its rollout {current.id} was {state.replace('_', ' ')}"
        with moving_submission(registry, approved, "stale", actor, note=void) as change:
            _move_in(change, current, state, step=step, note=note)
        return rollout(registry, current.id)
    with registry.change(actor) as change:
        _move_in(change, current, state, step=step, note=note, resumed_after=resumed_after)
    return rollout(registry, current.id)


def _approved(registry: Registry, current: Rollout) -> Submission | None:
    """Returns the approved submission that a rollout releases, or None."""
    if current.submission is None:
        return None
    found = submission(registry, current.submission)
    return found if found.state == "approved" else None


def _move_in(
    change: Change,
    current: Rollout,
    state: RolloutState,
    *,
    step: int | None = None,
    note: str | None = None,
    resumed_after: int | None = None,
) -> None:
    if state not in TRANSITIONS[current.state]:
        raise ValueError(f"a rollout that is {current.state} cannot become {state}")
    changes = {
        "step": current.step if step is None else step,
        "note": None if note is None else audit.storable(note),
        "resumed_after": current.resumed_after if resumed_after is None else resumed_after,
    }
    here = (
        rollouts.c.id == current.id,
        rollouts.c.state == current.state,
        rollouts.c.step == current.step,
    )
    done = change.execute(update(rollouts).where(*here).values(state=state, **changes))
    if done.rowcount != 1:
        raise StaleError(
            f"rollout {current.id} is no longer {current.state} at step {current.step}: somebody "
            "else has changed it. Look at it again (rollout status) and decide again."
        )
    told = {"rollout": current.id, "from": current.state, **changes}
    change.record(f"rollout.{state}", told)


def succeed(registry: Registry, current: Rollout, actor: str, note: str | None = None) -> Rollout:
    """Makes the candidate the champion and ends the rollout, in one transaction.

    If the rollout releases a submission, the submission is promoted in the same transaction, and
    its evidence is checked again.

    Raises:
        RegistryError: the version is broken or archived, or was denied; a damaged version is marked
            broken. `is_unusable` tells whether the registry itself is the reason.
        StaleError: the champion or the rollout was changed in the meantime.
    """
    approved = _approved(registry, current)
    with _marking(registry):
        if approved is None:
            with registry.change(actor) as change:
                _move_in(change, current, "succeeded", note=note)
                _move_champion(change, current)
        else:
            with moving_submission(registry, approved, "promoted", actor) as change:
                _move_in(change, current, "succeeded", note=note)
                _move_champion(change, current, approved.verdict)
    return rollout(registry, current.id)


@contextmanager
def _marking(registry: Registry) -> Iterator[None]:
    """Marks a version broken of which the block finds that it is damaged."""
    try:
        yield
    except DamagedVersionError as error:
        with suppress(RegistryError):  # reading it marks it
            registry.load(error.number)
        raise


def is_unusable(error: BaseException) -> bool:
    """Whether an error says that the registry cannot be used, not only one part of it."""
    return isinstance(error, UnusableRegistryError) and not isinstance(error, DamagedPartError)


def _move_champion(change: Change, current: Rollout, verdict: str | None = None) -> None:
    change.move_alias(
        current.game,
        CHAMPION,
        current.version,
        expected_generation=current.champion_generation,
        kind="promote",
        reason=f"rollout {current.id} ({current.strategy})",
        verdict=verdict,
    )


def undo(registry: Registry, current: Rollout, actor: str) -> Rollout:
    """Makes the earlier champion the champion again, after a rollout that succeeded.

    Raises:
        RegistryError: the rollout has not succeeded, or its version is no longer the champion; or
            the earlier champion is broken or archived; if it is damaged, it is marked broken.
        StaleError: the champion or the rollout was changed in the meantime.
    """
    alias = registry.alias(current.game)
    if current.state != "succeeded":
        raise RegistryError(
            f"rollout {current.id} is {current.state}; only one that has succeeded can be undone. "
            "One that is open can be aborted."
        )
    if alias is None or alias.version != current.version:
        raise RegistryError(
            f"version {current.version} is not the champion of {display_name(current.game)} any "
            "more, so there is nothing to undo. See `promote alias history`."
        )
    note = f"undone by {actor}"
    with _marking(registry), registry.change(actor) as change:
        _move_in(change, current, "rolling_back", note=note)
        change.move_alias(
            current.game,
            CHAMPION,
            current.champion,
            expected_generation=alias.generation,
            kind="rollback",
            reason=f"rollout {current.id} was undone",
        )
    return move(registry, rollout(registry, current.id), "rolled_back", actor, note=note)


# Games


def record_games(
    registry: Registry,
    number: int,
    actor: str,
    *,
    assigned: Sequence[ServedGame] = (),
    ended: Sequence[ServedGame] = (),
) -> None:
    """Records games of a rollout that were assigned or have ended, in one transaction.

    Args:
        registry: the registry that holds the rollout.
        number: the rollout.
        actor: recorded in the audit log.
        assigned: new games.
        ended: games with their results; each was assigned before.

    Raises:
        StaleError: another process has recorded one of these games, or its end.
        DamagedPartError: a game that has ended is missing from the registry.
        UnusableRegistryError: the registry cannot be written.
    """
    results = [game.model_dump(include=_RESULT) for game in ended]
    with registry.change(actor) as change:
        taken = select(func.max(served_games.c.number)).where(served_games.c.rollout == number)
        last = change.execute(taken).scalar()
        if assigned and last is not None and last >= assigned[0].number:
            raise StaleError(
                f"game {assigned[0].number} of rollout {number} was assigned by another server. "
                "Only one server at a time can drive a rollout: end the other one."
            )
        if assigned:
            change.execute(insert(served_games).values([game.model_dump() for game in assigned]))
        for result in results:
            here = {"rollout": number, "number": result["number"]}
            open_game = update(served_games).filter_by(**here).where(served_games.c.ended.is_(None))
            if change.execute(open_game.values(**result)).rowcount != 1:
                there = change.execute(select(served_games.c.number).filter_by(**here)).first()
                raise _no_open_game(number, result["number"], is_there=there is not None)
        told = [game.model_dump() for game in assigned]
        change.record(GAMES, {"rollout": number, "assigned": told, "ended": results})


def _no_open_game(number: int, game: int, *, is_there: bool) -> RegistryError:
    if is_there:
        return StaleError(
            f"game {game} of rollout {number} was ended by another server. Only one server at a "
            "time can drive a rollout: end the other one."
        )
    return DamagedPartError(
        f"game {game} of rollout {number} is missing from the registry. For details run "
        "`promote verify --all`."
    )


def games_of(registry: Registry, number: int) -> list[ServedGame]:
    """Returns the games of a rollout, in the order of their assignment.

    Raises:
        UnusableRegistryError: one was altered.
    """
    query = (
        select(served_games).where(served_games.c.rollout == number).order_by(served_games.c.number)
    )
    (rows,) = registry.rows(query)
    try:
        return [ServedGame.model_validate(dict(row)) for row in rows]
    except ValidationError as error:
        raise audit.altered(f"a game of rollout {number}", error) from error


def _rollout(row: dict[str, object]) -> Rollout:
    try:
        return Rollout.model_validate(row)
    except ValidationError as error:
        raise audit.altered(f"rollout {row['id']}", error) from error
