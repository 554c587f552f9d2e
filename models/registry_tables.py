"""The tables of the registry, and how to reach them: SQLite by default, any SQLAlchemy URL."""

from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()

BUNDLES = sa.Table(
    "pelton_bundles",
    METADATA,
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("added_ms", sa.BigInteger, nullable=False),
    sa.Column("meta", sa.Text, nullable=False),  # JSON of BundleMeta, for listing without opening the folder
)
SNAPSHOTS = sa.Table(
    "pelton_snapshots",
    METADATA,
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("bundle", sa.String(12), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
)
DEPLOYMENTS = sa.Table(  # one row per change, never updated: the newest generation of a task is live
    "pelton_deployments",
    METADATA,
    sa.Column("task", sa.String(64), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("bundle", sa.String(12), nullable=False),
    sa.Column("snapshot", sa.String(12)),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)
AUDIT = sa.Table(
    "pelton_audit",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("what", sa.String(20), nullable=False),
    sa.Column("task", sa.String(64), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


TRIES = 8  # there are four tables


def connect(url: str) -> sa.Engine:
    """Return an engine whose tables exist."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    for attempt in range(TRIES, 0, -1):  # another process may make one at this moment: then it is there next time
        try:
            METADATA.create_all(engine)
            break
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
            if attempt == 1:
                raise
    return engine


def live_rows() -> sa.Select[Any]:
    """Return the query for the newest deployment of each task."""
    newest = (
        sa.select(DEPLOYMENTS.c.task, sa.func.max(DEPLOYMENTS.c.generation).label("newest"))
        .group_by(DEPLOYMENTS.c.task)
        .subquery()
    )
    same = (DEPLOYMENTS.c.task == newest.c.task) & (DEPLOYMENTS.c.generation == newest.c.newest)
    return sa.select(DEPLOYMENTS).join(newest, same)


def begin_writing(connection: sa.Connection) -> None:
    """Take SQLite's write lock before the first read, so that what is read stays true until the commit."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver opens no transactions by itself; begin_writing does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}").close()
