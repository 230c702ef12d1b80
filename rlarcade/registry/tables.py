"""The registry's tables, in portable SQL: no type or clause that only one database has.

A new table is created when a registry without it is opened. All tables are declared here, because
`schema` refuses a registry with a table that this process has not declared. A table that refers to
versions says in its `info` how it uses them: see `Use`.
"""

from dataclasses import dataclass, field

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    select,
    true,
)
from sqlalchemy.types import TypeEngine

from rlarcade.registry.rollouts import OPEN_STATES as OPEN_ROLLOUTS

FORMAT = "1"
"""Format of these tables, stored in `meta`; a registry of another format is refused."""

PLACE_OF_BLOBS = "blobs"
"""Key in `meta` of a registry on a server: where its blobs are."""

metadata = MetaData()


def _text(length: int | None = None) -> TypeEngine[str]:
    """Returns a type of text that has the same order in every database and under every locale."""
    kind = Text if length is None else String
    return kind(length).with_variant(kind(length, collation="C"), "postgresql")


meta = Table(
    "meta",
    metadata,
    Column("key", _text(64), primary_key=True),  # format, audit_count, audit_head
    Column("value", _text(), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", _text(64), nullable=False, unique=True),
    Column("game", _text(64), nullable=False, index=True),
    Column("protocol", _text(), nullable=False),  # JSON
    Column("num_actions", Integer, nullable=False),
    Column("contract", _text(64), nullable=False),
    Column("weights_bytes", BigInteger, nullable=False),
    Column("manifest_digest", _text(64), nullable=False),
    Column("parent", _text(64)),
    Column("preset", _text()),
    Column("seed", BigInteger),
    Column("steps", BigInteger, nullable=False),
    Column("frames", BigInteger, nullable=False),
    Column("updates", BigInteger, nullable=False),
    Column("git_commit", _text()),
    Column("libraries", _text(), nullable=False),  # JSON
    Column("source", _text(), nullable=False),
    Column("registered", _text(), nullable=False),
    # The only columns that change.
    Column("archived", Boolean, nullable=False),
    Column("broken_reason", _text()),
)


@dataclass(frozen=True)
class Use:
    """How a row of a table uses the version that it refers to. Kept in the table's `info`."""

    label: str
    """Names the user in messages; the row's columns fill its {fields}."""
    only: ColumnElement[bool] = field(default_factory=true)
    """Which rows use their version."""


aliases = Table(
    "aliases",
    metadata,
    Column("game", _text(64), primary_key=True),
    Column("name", _text(64), primary_key=True),
    # NULL: the alias was taken away. The row stays, so that its generation keeps counting.
    Column("version", Integer, ForeignKey("versions.number")),
    Column("generation", Integer, nullable=False),
    info={"use": Use("{name}@{game}")},
)

events = Table(
    "events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("time", _text(), nullable=False),
    Column("actor", _text(), nullable=False),
    Column("kind", _text(64), nullable=False, index=True),
    Column("document", _text(), nullable=False),  # canonical JSON
    Column("previous", _text(64), nullable=False),
    Column("digest", _text(64), nullable=False),
)


submissions = Table(
    "submissions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, ForeignKey("versions.number"), nullable=False, index=True),
    Column("digest", _text(64), nullable=False),
    Column("game", _text(64), nullable=False),
    Column("mode", _text(16), nullable=False),
    Column("champion", Integer),
    Column("champion_generation", Integer, nullable=False),
    Column("gate", _text(64), nullable=False),  # digest of a document
    Column("opened", _text(), nullable=False),
    Column("opened_by", _text(), nullable=False),
    # The only columns that change.
    Column("state", _text(32), nullable=False),
    Column("verdict", _text(64)),  # digest of a document
    Column("note", _text()),
)

approvals = Table(
    "approvals",
    metadata,
    Column("submission", Integer, ForeignKey("submissions.id"), primary_key=True),
    Column("by", _text(255), primary_key=True),
    Column("decision", _text(16), nullable=False),
    Column("note", _text(), nullable=False),
    Column("version", _text(64), nullable=False),  # digest
    Column("verdict", _text(64), nullable=False),
    Column("champion_generation", Integer, nullable=False),
    Column("time", _text(), nullable=False),
)

OPEN_STATES = (
    "submitted",
    "verifying",
    "matching",
    "error",
    "passed",
    "awaiting_approval",
    "approved",
)
"""States of a submission that can still change."""


_open = submissions.c.state.in_(OPEN_STATES)
_final_ci = (submissions.c.mode == "ci") & (submissions.c.state == "passed")
submissions.info["use"] = Use("submission {id}", _open & ~_final_ci)


rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("game", _text(64), nullable=False, index=True),
    Column("version", Integer, ForeignKey("versions.number"), nullable=False),
    Column("digest", _text(64), nullable=False),
    Column("champion", Integer, ForeignKey("versions.number"), nullable=False),
    Column("champion_generation", Integer, nullable=False),
    Column("strategy", _text(16), nullable=False),
    Column("spec", _text(64), nullable=False),  # digest of a document
    Column("submission", Integer, ForeignKey("submissions.id")),
    Column("salt", _text(64), nullable=False),
    Column("opened", _text(), nullable=False),
    Column("opened_by", _text(), nullable=False),
    # The only columns that change.
    Column("state", _text(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("note", _text()),
    Column("resumed_after", Integer, nullable=False),
)
rollouts.info["use"] = Use("rollout {id}", rollouts.c.state.in_(OPEN_ROLLOUTS))

served_games = Table(
    "served_games",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("role", _text(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("key", _text(255), nullable=False),
    Column("group", _text(255)),
    Column("session", _text(255)),
    Column("begun", _text()),
    Column("pair", Integer),
    Column("seed", BigInteger),
    Column("version", Integer, nullable=False),
    # Written once, when the game has ended.
    Column("ended", _text(16)),
    Column("score", Float),
    Column("steps", Integer),
    Column("errors", Boolean, nullable=False),
    Column("slow", Boolean, nullable=False),
    Column("abandoned", Boolean, nullable=False),
    Column("mixed", Boolean, nullable=False),
    Column("claimed", Float),
    Column("record", _text(64)),  # digest of a document
)

follow_ons = Table(
    "follow_ons",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("game", Integer, nullable=False),  # number in served_games
    Column("value", Float, nullable=False),
    Column("note", _text()),
    Column("reported", _text(), nullable=False),
)

shadows = Table(
    "shadows",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True, autoincrement=False),
    # All that follows changes.
    Column("compared", BigInteger, nullable=False),
    Column("agreed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    Column("slow", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("gap", Float, nullable=False),
    Column("regret", Float, nullable=False),
)


def users(connection: Connection, version: int) -> list[str]:
    """Returns whatever uses a version and keeps it from being archived, such as its aliases.

    Asks every table that has a foreign key to versions. A table without a `Use` uses a version with
    every row.
    """
    found = []
    for table in metadata.sorted_tables:
        use = table.info.get("use", Use(f"a row of {table.name}"))
        for column in table.columns:
            if column.references(versions.c.number):
                query = select(table).where(column == version, use.only)
                found += [use.label.format_map(row) for row in connection.execute(query).mappings()]
    return found


def copy_rows(source: Connection, target: Connection) -> None:
    """Copies the rows of a registry into another database, whose tables are empty.

    Where the blobs are is not copied: the other database says it for itself.

    Args:
        source: connection to the registry, for reading.
        target: connection to the other database, for writing.
    """
    place = meta.c.key == PLACE_OF_BLOBS
    target.execute(delete(meta).where(~place))
    for table in metadata.sorted_tables:
        query = select(table).where(~place) if table is meta else select(table)
        rows = [dict(row) for row in source.execute(query).mappings()]
        if rows:
            target.execute(table.insert(), rows)
