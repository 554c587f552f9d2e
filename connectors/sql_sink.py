"""Decisions in any database that SQLAlchemy knows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from connectors.errors import ConnectorError
from connectors.json_text import json_objects, json_values

BATCH_ROWS = 1000
_KEY = ("event_id", "task")
_KEY_TEXT = sa.Text().with_variant(sa.String(255), "mysql", "mariadb", "mssql", "oracle")  # keys need a length there
_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "event_id": _KEY_TEXT,
    "task": _KEY_TEXT,
    "time_ms": sa.BigInteger(),
    "decision": sa.Text(),
    "score": sa.Double(),
    "threshold": sa.Double(),
    "rule": sa.Text(),
    "reasons": sa.Text(),
    "bundle": sa.Text(),
    "snapshot": sa.Text(),
    "rung": sa.Text(),
    "source_offset": sa.BigInteger(),
}
_FEATURES = "features"


class SqlSink:
    """A Sink that upserts decisions into one table by event id and task: rows that come twice are there once.

    Columns: those of a decision, `reasons` as a JSON list, and every other column (the features) together in `features`
    as one JSON object. Rows wait in memory for BATCH_ROWS; each batch is one transaction; `flush` commits what waits.
    SQLite and PostgreSQL upsert natively, other databases delete and insert. Values are always parameters.

    Args:
        url: of SQLAlchemy, for example sqlite:///decisions.db or postgresql+psycopg://user:password@host/name.
        table: made if it is missing.

    Raises:
        ConnectorError: the URL, its driver, the connection or the table is not right; passwords are never shown.
    """

    def __init__(self, url: str, table: str = "decisions") -> None:
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConnectorError(
                f"database URL with scheme {url.partition('://')[0]!r} is not understood; use one of SQLAlchemy, "
                f"for example sqlite:///decisions.db or postgresql+psycopg://user:password@host/name"
            ) from error
        except ImportError as error:
            raise ConnectorError(
                f"the driver for {url.partition('://')[0]!r} is missing ({error}); install it with pip"
            ) from error
        self._where = f"database {self._engine.url.render_as_string(hide_password=True)}, table {table!r}"
        columns = [sa.Column(name, kind, primary_key=name in _KEY) for name, kind in _COLUMNS.items()]
        self._table = sa.Table(table, sa.MetaData(), *columns, sa.Column(_FEATURES, sa.Text()))
        self._waiting: list[pa.RecordBatch] = []
        self._upsert = self._upserter()
        self._try(self._create)

    def write(self, rows: pa.RecordBatch) -> None:
        """Take the rows; write when BATCH_ROWS wait."""
        missing = [name for name in _KEY if name not in rows.schema.names]
        if missing:
            raise ConnectorError(f"{self._where}: rows have no {' and '.join(missing)}; only decisions can be written")
        self._waiting.append(rows)
        if sum(batch.num_rows for batch in self._waiting) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Commit what waits; if that fails it goes on waiting, for the next attempt."""
        found = {(row["event_id"], row["task"]): row for rows in self._waiting for row in _as_dicts(rows)}
        rows = list(found.values())  # a database refuses one key twice in a statement: the last one counts
        for start in range(0, len(rows), BATCH_ROWS):
            part = rows[start : start + BATCH_ROWS]
            self._try(partial(self._upsert, part))
        self._waiting.clear()

    def close(self) -> None:
        """Flush and disconnect."""
        self.flush()
        self._engine.dispose()

    def abandon(self) -> None:
        """Drop what waits and disconnect."""
        self._waiting.clear()
        self._engine.dispose()

    def _create(self) -> None:
        self._table.create(self._engine, checkfirst=True)
        there = {column["name"] for column in sa.inspect(self._engine).get_columns(self._table.name)}
        missing = [column.name for column in self._table.columns if column.name not in there]
        if missing:
            raise ConnectorError(
                f"{self._where}: it exists without the columns {', '.join(missing)}; "
                f"add them, or move that table out of the way"
            )

    def _upserter(self) -> Callable[[list[dict[str, Any]]], None]:
        native: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}.get(self._engine.dialect.name)
        if native is None:
            return self._delete_and_insert
        insert = native(self._table)
        changed = {
            column.name: insert.excluded[column.name] for column in self._table.columns if column.name not in _KEY
        }
        statement = insert.on_conflict_do_update(index_elements=list(_KEY), set_=changed)

        def upsert(rows: list[dict[str, Any]]) -> None:
            with self._engine.begin() as connection:
                connection.execute(statement, rows)

        return upsert

    def _delete_and_insert(self, rows: list[dict[str, Any]]) -> None:
        keys = [self._table.c[name] == sa.bindparam(f"key_{name}") for name in _KEY]
        with self._engine.begin() as connection:
            connection.execute(
                sa.delete(self._table).where(*keys), [{f"key_{name}": row[name] for name in _KEY} for row in rows]
            )
            connection.execute(sa.insert(self._table), rows)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise ConnectorError(
                f"{self._where}: {cause}; check that it is up and may be written, then go on"
            ) from error


def _as_dicts(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return a dict per row with all columns of the table, features as JSON text, NaN as None."""
    names = rows.schema.names
    columns = {}
    for name in _COLUMNS:
        if name not in names:
            columns[name] = [None] * rows.num_rows
        elif name == "reasons":
            columns[name] = json_values(rows.column(name)).to_pylist()
        else:
            columns[name] = rows.column(name).to_pylist()
    columns[_FEATURES] = json_objects(rows.select([name for name in names if name not in _COLUMNS])).to_pylist()
    return [
        {name: None if value != value else value for name, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]
