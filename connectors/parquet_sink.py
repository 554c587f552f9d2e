"""A folder of Parquet files, one for each hour of event time."""

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors.errors import ConnectorError
from connectors.file_sinks import ParquetSink, file_errors

HOUR_MS = 3_600_000
OPEN_HOURS_MAX = 3


class HourlyParquetSink:
    """A Sink that writes FOLDER/NAME-2026-07-01T05-0001.parquet and so on: the UTC hour of `time_ms`, and a part.

    Delivery: `flush` finishes the open files under their names, so flush every few minutes, not every batch. Rows that
    come twice are there twice (drop them by event id and task when reading). An unfinished file is called .partial and
    is written over after a restart. Late rows start a new part of their hour; at most OPEN_HOURS_MAX files are open.

    Args:
        folder: made if it is missing.
        name: what the files' names begin with; processes that share a folder need different ones.
        time_column: int64 milliseconds since the epoch.
    """

    def __init__(self, folder: str | Path, name: str = "decisions", time_column: str = "time_ms") -> None:
        self.folder = Path(folder)
        self._name = name
        self._time = time_column
        self._open: dict[int, ParquetSink] = {}
        with file_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, rows: pa.RecordBatch) -> None:
        """Write each row to the file of its hour."""
        if self._time not in rows.schema.names or not pa.types.is_integer(rows.schema.field(self._time).type):
            raise ConnectorError(
                f"output folder {str(self.folder)!r}: hourly files need the column {self._time!r} in milliseconds, "
                f"got {', '.join(rows.schema.names)}; write to a single .parquet file instead"
            )
        times = rows.column(self._time)
        if times.null_count:
            raise ConnectorError(f"output folder {str(self.folder)!r}: a row has no {self._time!r}; fill it in first")
        hours = times.to_numpy() // HOUR_MS
        for hour in np.unique(hours):
            here = hours == hour
            part = rows if here.all() else rows.filter(pa.array(here))
            self._sink(int(hour)).write(part)

    def flush(self) -> None:
        """Finish all open files."""
        for hour in sorted(self._open):
            self._open[hour].close()
            del self._open[hour]

    def close(self) -> None:
        """Finish all open files."""
        self.flush()

    def abandon(self) -> None:
        """Leave the open files unfinished."""
        for sink in self._open.values():
            sink.abandon()
        self._open.clear()

    def _sink(self, hour: int) -> ParquetSink:
        if hour not in self._open:
            if len(self._open) >= OPEN_HOURS_MAX:
                self._open.pop(min(self._open)).close()
            self._open[hour] = ParquetSink(self._next_part(hour))
        return self._open[hour]

    def _next_part(self, hour: int) -> Path:
        start = datetime.datetime.fromtimestamp(hour * HOUR_MS // 1000, datetime.UTC)
        stem = f"{self._name}-{start:%Y-%m-%dT%H}"
        parts = [int(file.stem.rpartition("-")[2]) for file in self.folder.glob(f"{stem}-[0-9]*.parquet")]
        return self.folder / f"{stem}-{max(parts, default=0) + 1:04d}.parquet"
