"""Where rows go: the protocol of a sink, its twin in memory, and which sink a path or URL means."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from connectors.errors import ConnectorError


class Sink(Protocol):
    """Takes rows of one schema, in order.

    Delivery is at least once: what was written before a `flush` that returned is kept; later rows may be lost with the
    process, so whoever feeds the sink starts again from there and may write some rows twice. A sink says what it makes
    of rows that come twice. Errors are ConnectorErrors that name the target and what to do.
    """

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows; they may wait in memory, bounded, for `flush`."""

    def flush(self) -> None:
        """Return once everything written is safe at the target; a sink says if it can do so only at `close`."""

    def close(self) -> None:
        """Flush, finish what is open and let go of it. To give up instead, call `abandon`."""

    def abandon(self) -> None:
        """Let go without finishing: a target that would look whole is not made."""


class MemorySink:
    """A Sink that keeps the rows in a list: what tests use. Rows that come twice are there twice."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.closed = False

    def write(self, rows: pa.RecordBatch) -> None:
        """Keep the rows."""
        if self.closed:
            raise ConnectorError("the sink in memory is closed; write before close")
        self.batches.append(rows)

    def flush(self) -> None:
        """Do nothing: the rows are there."""

    def close(self) -> None:
        """Refuse further rows."""
        self.closed = True

    def abandon(self) -> None:
        """Refuse further rows."""
        self.closed = True


def open_sink(target: str | Path, *, resume: bool = False) -> Sink:
    """Open the sink that a path or URL means.

    `x.jsonl`, `x.ndjson`, `x.json` (one JSON object a line), `x.csv`, each also with `.gz`; `x.parquet`; a folder
    (it ends in a slash) for hourly Parquet files; anything with `://` is a database URL for SQLAlchemy.

    Args:
        resume: go on at the end of an existing .jsonl file instead of writing a new one.

    Raises:
        ConnectorError: the ending is unknown, the target cannot be opened, or cannot be resumed.
    """
    text = str(target)
    if re.match(r"[a-z][a-z0-9+_]*://", text):
        from connectors.sql_sink import SqlSink  # late: SQLAlchemy takes long to import

        return SqlSink(text)
    if text.endswith(("/", "\\")) or Path(text).is_dir():
        from connectors.parquet_sink import HourlyParquetSink

        return HourlyParquetSink(text)
    from connectors.file_sinks import CsvSink, JsonLinesSink, ParquetSink

    kinds: dict[str, Callable[[str], Sink]] = {".csv": CsvSink, ".parquet": ParquetSink}
    for ending in (".jsonl", ".ndjson", ".json"):
        kinds[ending] = lambda path: JsonLinesSink(path, resume=resume)
    plain = text.removesuffix(".gz")
    ending = Path(plain).suffix.lower()
    if ending not in kinds or (ending == ".parquet" and plain != text):
        raise ConnectorError(
            f"output {text!r}: unknown ending {''.join(Path(text).suffixes[-2:]) or 'none'!r}; use .csv, .jsonl "
            f"(each also with .gz), .parquet, a folder with / at its end for hourly Parquet files, or a database URL"
        )
    if resume and ending in (".csv", ".parquet"):
        raise ConnectorError(f"output {text!r} cannot be resumed; use a .jsonl file, a folder/ or a database URL")
    return kinds[ending](text)
