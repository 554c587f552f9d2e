"""Files of any records as JSON messages with keys, without an app that declares their fields."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from connectors.errors import ConnectorError
from connectors.json_text import json_objects
from connectors.line_files import LineFile, lines_of

BLOCK_BYTES = 2 << 20
ROWS_MAX = 16_384
_LINES = (".jsonl", ".ndjson", ".json")
_NUMBER = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"  # 16 digits and more: a card's number, an id


class RecordFileError(ConnectorError):
    """A file cannot be read as records."""


class RecordFile:
    """Records of one file in their order: JSON lines as they are, others as JSON.

    Numbers of a CSV file are the columns that hold nothing else; leading zeros and more than 15 digits make a text.

    Attributes:
        bytes_total, bytes_read: of the file on disk, for a progress bar.
    """

    def __init__(self, path: Path) -> None:
        names = [each for each in path.suffixes if each != ".gz"]
        self._ending = names[-1] if names else ""
        if self._ending not in (*_LINES, ".csv", ".tsv", ".parquet"):
            raise RecordFileError(
                f"{path}: name it .jsonl, .csv, .tsv (each also with .gz) or .parquet, after its content"
            )
        if not path.is_file():
            raise RecordFileError(f"there is no file {path}; check the path")
        self._path = path
        self.bytes_total, self.bytes_read = path.stat().st_size, 0

    def blocks(self, rows_max: int = ROWS_MAX) -> Iterator[pa.LargeBinaryArray]:
        """Yield JSON objects, without line breaks, at most `rows_max` at once.

        Raises:
            RecordFileError: the file cannot be read.
        """
        read = {".parquet": self._parquet, ".csv": self._csv, ".tsv": self._csv}.get(self._ending, self._lines)
        try:
            for block in read():
                for first in range(0, len(block), rows_max):
                    yield block.slice(first, rows_max)
        except (OSError, EOFError, pa.ArrowException) as error:
            raise RecordFileError(f"{self._path} cannot be read: {str(error).splitlines()[0].rstrip('.')}") from None
        self.bytes_read = self.bytes_total

    def _lines(self) -> Iterator[pa.LargeBinaryArray]:
        with LineFile(self._path, BLOCK_BYTES) as file:
            for block in file.blocks():
                lines = lines_of(block)
                self.bytes_read = file.position
                if len(lines):
                    yield without_ends(lines)

    def _parquet(self) -> Iterator[pa.LargeBinaryArray]:
        with pq.ParquetFile(self._path) as file:
            rows = 0
            for batch in file.iter_batches(ROWS_MAX, use_threads=False):
                rows += len(batch)
                self.bytes_read = self.bytes_total * rows // max(file.metadata.num_rows, 1)
                yield json_objects(batch).cast(pa.large_binary())

    def _csv(self) -> Iterator[pa.LargeBinaryArray]:
        delimiter = "\t" if self._ending == ".tsv" else ","
        with pa.OSFile(str(self._path)) as raw:
            file = pa.CompressedInputStream(raw, "gzip") if self._path.suffix == ".gz" else raw
            reader = arrow_csv.open_csv(
                file, arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                arrow_csv.ParseOptions(delimiter=delimiter), _all_texts(self._path, delimiter),
            )  # fmt: skip
            types: list[pa.DataType] | None = None
            for batch in reader:
                types = types or [_likely(column) for column in batch.columns]
                self.bytes_read = raw.tell()
                yield json_objects(self._typed(batch, types)).cast(pa.large_binary())

    def _typed(self, batch: pa.RecordBatch, types: list[pa.DataType]) -> pa.RecordBatch:
        columns = []
        for name, column, kind in zip(batch.schema.names, batch.columns, types, strict=True):
            try:
                columns.append(column.cast(kind))
            except pa.ArrowInvalid:
                raise RecordFileError(
                    f"{self._path}: column {name!r} began with numbers and then has other texts; give JSON or Parquet"
                ) from None
        return pa.record_batch(columns, batch.schema.names)


def keys_of(values: pa.LargeBinaryArray, field: str) -> pa.LargeStringArray:
    """Return (n,) the text of a field of each JSON object; null where it is missing or null, or that is no object."""
    kind = msgspec.defstruct("Keyed", [("key", msgspec.Raw, msgspec.Raw(b"null"))], rename={"key": field})
    decode = msgspec.json.Decoder(kind).decode
    found: list[str | None] = []
    for value in values.to_pylist():
        try:
            found.append(_text(bytes(decode(value).key)))  # type: ignore[attr-defined]  # defstruct made it
        except (msgspec.DecodeError, UnicodeDecodeError):
            found.append(None)
    return pa.array(found, pa.large_string())


def without_ends(lines: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    r"""Return lines without their line breaks.

    >>> without_ends(pa.array([b"a\n", b"b"], pa.large_binary())).to_pylist()
    [b'a', b'b']
    """
    if lines[-1].as_py().endswith(b"\n"):
        return pc.binary_slice(lines, 0, -1)
    return pa.concat_arrays([pc.binary_slice(lines[:-1], 0, -1), lines[-1:]])


def _text(raw: bytes) -> str | None:
    if raw[:1] == b'"':
        return msgspec.json.decode(raw, type=str)
    return None if raw == b"null" else raw.decode()


def _all_texts(path: Path, delimiter: str) -> arrow_csv.ConvertOptions:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        names = next(csv.reader(file, delimiter=delimiter), [])
    return arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )  # fmt: skip


def _likely(column: pa.StringArray) -> pa.DataType:
    """Return what a column of texts holds, going by its first block."""
    texts = column.drop_null()
    if not len(texts):
        return pa.string()
    if pc.all(pc.match_substring_regex(texts, _NUMBER)).as_py():
        return pa.float64() if pc.any(pc.match_substring_regex(texts, "[.eE]")).as_py() else pa.int64()
    return pa.bool_() if pc.all(pc.is_in(texts, pa.array(["true", "false"]))).as_py() else pa.string()
