"""Follow-on outcomes: what is known of a session only later, such as whether the user came back.

They are reported by whoever knows them, joined to the version that played, and shown beside the
scores. Nothing is decided by them, because nobody can check them.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import func, insert, or_, select

from rlarcade.registry import audit
from rlarcade.registry.registry import Registry
from rlarcade.registry.rollouts import OUTCOME, FollowOn, ServedGame
from rlarcade.registry.tables import follow_ons, served_games
from rlarcade.serving import rollout_store as store
from rlarcade.serving.assignment import Role
from rlarcade.serving.refusals import Refusal
from rlarcade.text import quoted

_CONFIDENCE = 0.95


class FollowOnSummary(BaseModel):
    """The follow-on outcomes of one variant."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    n: int
    """Users with an outcome. Several outcomes of one user are averaged first."""
    missing: int
    """Users whose sessions have ended, without an outcome so far."""
    mean: float | None
    """Mean over users."""
    low: float | None
    """Lower end of Student's 95 % interval of the mean, for one look; null: less than two users."""
    high: float | None
    """Upper end."""


def report(
    registry: Registry,
    session: str,
    value: float,
    note: str | None,
    actor: str,
    *,
    rollout: int | None = None,
    at: datetime | None = None,
) -> tuple[FollowOn, ServedGame]:
    """Records an outcome, and joins it to the newest game of the session or the key.

    Args:
        registry: the registry that holds the rollout.
        session: id of a session, or its key.
        value: the outcome.
        note: what it means; None: nothing is said.
        actor: recorded in the audit log.
        rollout: the rollout, if the same key plays in several; None: the newest.
        at: the time; None: now.

    Returns:
        The outcome, and the game that it is about.

    Raises:
        Refusal: 404: there is no such session; 409: the rollout's window for outcomes has closed.
        UnusableRegistryError: the registry cannot be used.
    """
    at = datetime.now(UTC) if at is None else at
    game = _game(registry, session, rollout)
    current = store.rollout(registry, game.rollout)
    window = timedelta(seconds=store.spec_of(registry, current).outcome_seconds)
    begun = datetime.fromisoformat(game.begun or current.opened)
    if at - begun > window:
        raise Refusal(
            409,
            f"the session began at {begun.isoformat()}, and rollout {current.id} takes outcomes "
            f"for {window.total_seconds() / 86_400:,.3g} days: it is too late.",
        )
    with registry.change(actor) as change:
        mine = select(func.max(follow_ons.c.number)).where(follow_ons.c.rollout == game.rollout)
        last = change.execute(mine).scalar()
        reported = FollowOn(
            rollout=game.rollout,
            number=0 if last is None else last + 1,
            game=game.number,
            value=value,
            note=None if note is None else audit.storable(note),
            reported=at.isoformat(timespec="seconds"),
        )
        change.execute(insert(follow_ons).values(**reported.model_dump()))
        change.record(OUTCOME, reported.model_dump())
    return reported, game


def _game(registry: Registry, session: str, rollout: int | None) -> ServedGame:
    query = (
        select(served_games)
        .where(or_(served_games.c.session == session, served_games.c.key == session))
        .where(served_games.c.session.is_not(None))  # no twin: nobody plays with it
        .order_by(served_games.c.rollout.desc(), served_games.c.number.desc())
        .limit(1)
    )
    if rollout is not None:
        query = query.where(served_games.c.rollout == rollout)
    (rows,) = registry.rows(query)
    if not rows:
        where = "any rollout" if rollout is None else f"rollout {rollout}"
        raise Refusal(404, f"no session of {where} has the id or the key {quoted(session)}.")
    try:
        return ServedGame.model_validate(dict(rows[0]))
    except ValidationError as error:
        raise audit.altered(f"the session {quoted(session)}", error) from error


def follow_ons_of(registry: Registry, number: int) -> list[FollowOn]:
    """Returns the outcomes of a rollout's sessions, in the order in which they were reported.

    Raises:
        UnusableRegistryError: one was altered.
    """
    query = select(follow_ons).where(follow_ons.c.rollout == number).order_by(follow_ons.c.number)
    (rows,) = registry.rows(query)
    try:
        return [FollowOn.model_validate(dict(row)) for row in rows]
    except ValidationError as error:
        raise audit.altered(f"an outcome of rollout {number}", error) from error


def counts_of(registry: Registry) -> dict[int, int]:
    """Returns how many outcomes each rollout has.

    Raises:
        UnusableRegistryError: the registry cannot be read.
    """
    column = follow_ons.c.rollout
    (rows,) = registry.rows(select(column, func.count().label("reported")).group_by(column))
    return {row["rollout"]: row["reported"] for row in rows}


def summary(
    games: Iterable[ServedGame], outcomes: Iterable[FollowOn], role: Role
) -> FollowOnSummary:
    """Summarises the outcomes of one variant.

    Args:
        games: the games of the rollout; outcomes of a game that two versions played do not count.
        outcomes: the outcomes of the rollout.
        role: the variant.
    """
    from scipy.special import stdtrit

    own = {game.number: game for game in games if game.role == role and not game.mixed}
    of_user: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.game in own:
            of_user.setdefault(own[outcome.game].key, []).append(outcome.value)
    ended = {game.key for game in own.values() if game.ended is not None and not game.is_twin}
    means = [fmean(values) for values in of_user.values()]
    half = None
    if len(means) > 1:
        quantile = float(stdtrit(len(means) - 1, (1 + _CONFIDENCE) / 2))
        half = quantile * stdev(means) / math.sqrt(len(means))
    mean = fmean(means) if means else None
    return FollowOnSummary(
        n=len(means),
        missing=len(ended - of_user.keys()),
        mean=mean,
        low=None if mean is None or half is None else mean - half,
        high=None if mean is None or half is None else mean + half,
    )
