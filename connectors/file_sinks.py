"""Sinks that write one file: JSON lines, CSV, Parquet."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.csv_text import csv_lines, csv_name
from connectors.errors import ConnectorError
from connectors.json_text import json_objects, nan_as_null

ROW_GROUP_ROWS = 1 << 17


class PartialFile:
    """A file that is called `NAME.partial` until it is complete, so that a broken run leaves nothing that looks whole.

    With `resume` it is the file itself, gone on with after its last whole line.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self._resume = resume
        self.writing_to = self.path if resume else self.path.with_name(self.path.name + ".partial")
        compressed = self.path.suffix == ".gz"
        if resume and compressed:
            raise ConnectorError(f"output {str(path)!r} cannot be resumed, it is compressed; use a plain .jsonl file")
        with file_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if resume and self.path.exists():
                _cut_torn_line(self.path)
            self._file = pa.OSFile(str(self.writing_to), "ab" if resume else "wb")
            self.stream = pa.CompressedOutputStream(self._file, "gzip") if compressed else self._file

    def flush(self) -> None:
        """Wait until what was written is on the disk."""
        with file_errors(self.path):
            self.stream.flush()
            _sync(self.writing_to)

    def close(self) -> None:
        """Finish the file and give it its name."""
        with file_errors(self.path):
            self.abandon()
            _sync(self.writing_to)
            os.replace(self.writing_to, self.path)

    def abandon(self) -> None:
        """Close the file as it is: `.partial` stays, to look at or write over."""
        with file_errors(self.path):
            self.stream.close()
            self._file.close()


class JsonLinesSink:
    """A Sink that writes one JSON object a line; rows that come twice are there twice.

    The file appears, whole, at `close`; until then it is NAME.partial. With `resume`, lines are added to the file
    itself, for a run that never ends, and `flush` makes them safe.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self._target = PartialFile(path, resume=resume)

    def write(self, rows: pa.RecordBatch) -> None:
        """Write the rows; null, NaN and infinity become `null`."""
        lines = json_objects(rows, end="\n")
        _, ends, text = lines.buffers()
        if len(lines):
            with file_errors(self._target.path):
                self._target.stream.write(text.slice(0, int(np.frombuffer(ends, np.int64)[len(lines)])))

    def flush(self) -> None:
        """Wait until the rows are on the disk."""
        self._target.flush()

    def close(self) -> None:
        """Finish the file."""
        self._target.close()

    def abandon(self) -> None:
        """Leave the file unfinished."""
        self._target.abandon()


class CsvSink:
    """A Sink that writes CSV with a header; rows that come twice are there twice.

    Text stands in quotes, null and NaN are empty, lists and structs are JSON. The file appears, whole, at `close`.
    """

    def __init__(self, path: str | Path) -> None:
        self._target = PartialFile(path)
        self._schema: pa.Schema | None = None

    def write(self, rows: pa.RecordBatch) -> None:
        """Write the rows, which have the columns of the first."""
        is_first = self._schema is None
        self._schema = same_schema(self._target.path, self._schema, rows.schema)
        with file_errors(self._target.path):
            if is_first:
                self._target.stream.write((",".join(map(csv_name, rows.schema.names)) + "\n").encode())
            for lines in csv_lines(rows):
                self._target.stream.write(lines)

    def flush(self) -> None:
        """Wait until the rows are on the disk."""
        self._target.flush()

    def close(self) -> None:
        """Finish the file."""
        self._target.close()

    def abandon(self) -> None:
        """Leave the file unfinished."""
        self._target.abandon()


class ParquetSink:
    """A Sink that writes one Parquet file (zstd); rows that come twice are there twice.

    The file appears, whole, at `close`: `flush` cannot make a part of it safe. NaN becomes null. Rows wait in memory
    for ROW_GROUP_ROWS.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._target = PartialFile(path)
        self._schema: pa.Schema | None = None
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []

    def write(self, rows: pa.RecordBatch) -> None:
        """Write the rows, which have the columns of the first."""
        self._schema = same_schema(self.path, self._schema, rows.schema)
        columns = [nan_as_null(column) for column in rows.columns]
        self._waiting.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        if sum(batch.num_rows for batch in self._waiting) >= ROW_GROUP_ROWS:
            self._write_waiting()

    def flush(self) -> None:
        """Do nothing: a Parquet file is readable only once it is finished."""

    def close(self) -> None:
        """Finish the file."""
        self._write_waiting()
        with file_errors(self.path):
            if self._writer is not None:
                self._writer.close()
            elif self._schema is None:
                self._target.abandon()
                self._target.writing_to.unlink()
                return  # no schema was ever seen, and an empty file would not be Parquet
        self._target.close()

    def abandon(self) -> None:
        """Leave the file unfinished."""
        self._waiting.clear()
        with file_errors(self.path):
            if self._writer is not None:
                self._writer.close()
        self._target.abandon()

    def _write_waiting(self) -> None:
        if self._schema is None or not self._waiting:
            return
        with file_errors(self.path):
            if self._writer is None:
                import pyarrow.parquet as pq  # late: it takes a while, and most outputs are text

                self._writer = pq.ParquetWriter(self._target.stream, self._schema, compression="zstd")
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._waiting.clear()


def same_schema(path: Path, first: pa.Schema | None, now: pa.Schema) -> pa.Schema:
    """Return the schema of a file; ConnectorError if rows come with another one than the first."""
    if first is None or first.equals(now):
        return now
    kinds = [{f"{field.name}: {field.type}" for field in schema} for schema in (first, now)]
    changed = sorted(kinds[0] ^ kinds[1]) or ["their order"]
    raise ConnectorError(
        f"output {str(path)!r}: the columns changed in the middle of the file ({', '.join(changed)}); "
        f"close it and write to another"
    )


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors into one sentence: which file, what happened, what to do."""
    try:
        yield
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else str(error)
        raise ConnectorError(f"output {str(path)!r}: {what}; free space or give a path that can be written") from error


def _cut_torn_line(path: Path) -> None:
    """Cut off what a killed process wrote of its last line."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        whole = 0
        for start in range(max(end - (1 << 16), 0), -(1 << 16), -(1 << 16)):
            file.seek(max(start, 0))
            at = file.read(min(1 << 16, end)).rfind(b"\n")
            if at >= 0:
                whole = max(start, 0) + at + 1
                break
        file.truncate(whole)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
