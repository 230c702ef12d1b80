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
    select,
    true,
)

from rlarcade.registry.rollouts import OPEN_STATES as OPEN_ROLLOUTS

FORMAT = "1"
"""Format of these tables, stored in `meta`; a registry of another format is refused."""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),  # format, audit_count, audit_head
    Column("value", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("game", String(64), nullable=False, index=True),
    Column("protocol", Text, nullable=False),  # JSON
    Column("num_actions", Integer, nullable=False),
    Column("contract", String(64), nullable=False),
    Column("weights_bytes", BigInteger, nullable=False),
    Column("manifest_digest", String(64), nullable=False),
    Column("parent", String(64)),
    Column("preset", Text),
    Column("seed", BigInteger),
    Column("steps", BigInteger, nullable=False),
    Column("frames", BigInteger, nullable=False),
    Column("updates", BigInteger, nullable=False),
    Column("git_commit", Text),
    Column("libraries", Text, nullable=False),  # JSON
    Column("source", Text, nullable=False),
    Column("registered", Text, nullable=False),
    # The only columns that change.
    Column("archived", Boolean, nullable=False),
    Column("broken_reason", Text),
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
    Column("game", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    # NULL: the alias was taken away. The row stays, so that its generation keeps counting.
    Column("version", Integer, ForeignKey("versions.number")),
    Column("generation", Integer, nullable=False),
    info={"use": Use("{name}@{game}")},
)

events = Table(
    "events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("time", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("kind", String(64), nullable=False, index=True),
    Column("document", Text, nullable=False),  # canonical JSON
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)


submissions = Table(
    "submissions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, ForeignKey("versions.number"), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("game", String(64), nullable=False),
    Column("mode", String(16), nullable=False),
    Column("champion", Integer),
    Column("champion_generation", Integer, nullable=False),
    Column("gate", String(64), nullable=False),  # digest of a document
    Column("opened", Text, nullable=False),
    Column("opened_by", Text, nullable=False),
    # The only columns that change.
    Column("state", String(32), nullable=False),
    Column("verdict", String(64)),  # digest of a document
    Column("note", Text),
)

approvals = Table(
    "approvals",
    metadata,
    Column("submission", Integer, ForeignKey("submissions.id"), primary_key=True),
    Column("by", String(255), primary_key=True),
    Column("decision", String(16), nullable=False),
    Column("note", Text, nullable=False),
    Column("version", String(64), nullable=False),  # digest
    Column("verdict", String(64), nullable=False),
    Column("champion_generation", Integer, nullable=False),
    Column("time", Text, nullable=False),
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
    Column("game", String(64), nullable=False, index=True),
    Column("version", Integer, ForeignKey("versions.number"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("champion", Integer, ForeignKey("versions.number"), nullable=False),
    Column("champion_generation", Integer, nullable=False),
    Column("strategy", String(16), nullable=False),
    Column("spec", String(64), nullable=False),  # digest of a document
    Column("submission", Integer, ForeignKey("submissions.id")),
    Column("salt", String(64), nullable=False),
    Column("opened", Text, nullable=False),
    Column("opened_by", Text, nullable=False),
    # The only columns that change.
    Column("state", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("note", Text),
    Column("resumed_after", Integer, nullable=False),
)
rollouts.info["use"] = Use("rollout {id}", rollouts.c.state.in_(OPEN_ROLLOUTS))

served_games = Table(
    "served_games",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("role", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("key", String(255), nullable=False),
    Column("group", String(255)),
    Column("session", String(255)),
    Column("begun", Text),
    Column("pair", Integer),
    Column("seed", BigInteger),
    Column("version", Integer, nullable=False),
    # Written once, when the game has ended.
    Column("ended", String(16)),
    Column("score", Float),
    Column("steps", Integer),
    Column("errors", Boolean, nullable=False),
    Column("slow", Boolean, nullable=False),
    Column("abandoned", Boolean, nullable=False),
    Column("mixed", Boolean, nullable=False),
    Column("claimed", Float),
    Column("record", String(64)),  # digest of a document
)

follow_ons = Table(
    "follow_ons",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("game", Integer, nullable=False),  # number in served_games
    Column("value", Float, nullable=False),
    Column("note", Text),
    Column("reported", Text, nullable=False),
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
