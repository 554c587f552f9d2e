"""Read streams from files: JSON lines, CSV, gzip of both, Parquet; in arrival order, in bounded memory.

Reading and decoding are apart: `FileInput.blocks` reads one after the other, `FileInput.decode_block` has no state and
may run in several threads. Offsets count the records of all files from 0; a line with nothing on it is no record.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors.decode import RECORD_BYTES_MAX, CsvHeader, decode, decode_csv
from connectors.decode_table import decode_table
from connectors.errors import ConnectorError
from connectors.line_files import LineFile, lines_of
from connectors.records import Chunk, Records
from connectors.schema import Schema

BATCH_ROWS = 65_536
BATCH_BYTES = 4 << 20

_FORMATS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_ENDINGS = ".jsonl, .ndjson, .json, .csv or .tsv (each also with .gz), or .parquet"


class FileInputError(ConnectorError):
    """A file is missing, broken, or not what its ending or the schema says."""


@dataclass(frozen=True)
class Block:
    """Consecutive records of one file, undecoded.

    Attributes:
        first_offset: of its first record, among all files.
        content: lines with their line breaks, or the rows of a Parquet file.
        header: the columns of CSV lines, None for others.
    """

    first_offset: int
    content: pa.LargeBinaryArray | pa.RecordBatch
    header: CsvHeader | None = None

    def __len__(self) -> int:
        return len(self.content)


class FileInput:
    """Some files, read once from beginning to end. Iterate over it for `Chunk`s, or over `blocks` to decode elsewhere.

    Attributes:
        bytes_total: the size of all files on disk.
        bytes_read: how much of that has been read so far; for a progress bar.
    """

    def __init__(
        self, paths: list[Path], schema: Schema, stream: str, batch_rows: int, batch_bytes: int, record_bytes_max: int
    ) -> None:
        self.schema, self.stream = schema, stream
        self._paths, self._batch_rows, self._batch_bytes = paths, batch_rows, batch_bytes
        self._record_bytes_max = record_bytes_max
        self.bytes_total = sum(path.stat().st_size for path in paths)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Chunk]:
        """Read and decode, one chunk after the other."""
        return map(self.decode_block, self.blocks())

    def blocks(self) -> Iterator[Block]:
        """Read all files without decoding; for one thread.

        Raises:
            FileInputError: a file cannot be read, is broken, or lacks a column of the schema.
        """
        offset, done = 0, 0
        for path in self._paths:
            read = self._parquet_blocks if _format(path) == "parquet" else self._line_blocks
            try:
                for content, header, position in read(path):
                    self.bytes_read = done + position
                    if len(content):
                        yield Block(offset, content, header)
                        offset += len(content)
            except (OSError, EOFError, pa.ArrowException) as error:
                reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(".")
                raise FileInputError(f"{path} cannot be read after {offset} records: {reason}") from error
            done += path.stat().st_size
            self.bytes_read = done

    def decode_block(self, block: Block) -> Chunk:
        """Decode a block; any thread may, in any order."""
        offsets = np.arange(block.first_offset, block.first_offset + len(block), dtype=np.int64)
        content = block.content
        if isinstance(content, pa.RecordBatch):
            row = _RowWriter(self.schema, content)
            return Chunk(self.stream, 0, offsets, decode_table(self.schema, content), row)
        records = Records(self.stream, 0, content, offsets)
        if block.header is None:
            decoded = decode(self.schema, records, self._record_bytes_max)
        else:
            decoded = decode_csv(self.schema, block.header, records, self._record_bytes_max)
        return Chunk(self.stream, 0, offsets, decoded, lambda i: content[i].as_py())

    def _line_blocks(self, path: Path) -> Iterator[tuple[pa.LargeBinaryArray, CsvHeader | None, int]]:
        header = None
        with LineFile(path, self._batch_bytes) as file:
            for block in file.blocks():
                lines = lines_of(block)
                if _format(path) == "csv" and header is None and len(lines):
                    header = self._header(path, lines[0].as_py())
                    lines = lines[1:]
                for start in range(0, len(lines), self._batch_rows):
                    yield lines.slice(start, self._batch_rows), header, file.position

    def _header(self, path: Path, line: bytes) -> CsvHeader:
        text = line.decode(errors="replace")
        delimiter = "\t" if ".tsv" in path.suffixes else max(",;\t|", key=text.count)
        try:
            header = CsvHeader.parse(text, delimiter)
        except ConnectorError as error:
            raise FileInputError(f"{path}: {error}") from None
        _check_columns(self.schema, path, header.columns)
        return header

    def _parquet_blocks(self, path: Path) -> Iterator[tuple[pa.RecordBatch, None, int]]:
        size = path.stat().st_size
        import pyarrow.parquet as pq  # late: it takes a while, and most files are text

        with pq.ParquetFile(path) as file:
            _check_columns(self.schema, path, tuple(file.schema_arrow.names))
            names = [name for name in self.schema.names if name in file.schema_arrow.names]
            rows, total = 0, max(file.metadata.num_rows, 1)
            for batch in file.iter_batches(self._batch_rows, columns=names, use_threads=False):
                rows += len(batch)
                yield batch, None, size * rows // total


class _RowWriter:
    """Write row i of a table as a JSON line that the schema's decoder reads: the nearest thing to its bytes."""

    def __init__(self, schema: Schema, rows: pa.RecordBatch) -> None:
        self._schema, self._rows = schema, rows

    def __call__(self, i: int) -> bytes:
        row = {}
        for name in self._rows.schema.names:
            scalar = self._rows.column(name)[i]
            if pa.types.is_timestamp(scalar.type) and name == self._schema.time and self._schema.time_unit != "iso":
                scalar = scalar.cast(pa.timestamp(self._schema.time_unit), safe=False).cast(pa.int64())
            try:
                row[name] = scalar.as_py()
            except (UnicodeDecodeError, ValueError):  # not UTF-8, or a time that Python does not know
                row[name] = str(scalar.cast(pa.binary()).as_py()) if pa.types.is_string(scalar.type) else str(scalar)
        return json.dumps(row, default=str, separators=(",", ":")).encode() + b"\n"


def open_files(
    paths: Iterable[Path | str],
    schema: Schema,
    stream: str,
    batch_rows: int = BATCH_ROWS,
    batch_bytes: int = BATCH_BYTES,
    record_bytes_max: int = RECORD_BYTES_MAX,
) -> FileInput:
    """Open files as one input, to be read in the order given.

    Args:
        paths: their endings say what they are; `.gz` behind `.jsonl`, `.csv`, ... means gzip.
        schema: what the records hold.
        stream: name of the stream, for the chunks.
        batch_rows: most records in a block.
        batch_bytes: about how much is read at once, uncompressed; memory is a small multiple of it.
        record_bytes_max: a longer record is invalid.

    Raises:
        FileInputError: there is no file, one is missing, or its ending is unknown.
    """
    found = [Path(path) for path in paths]
    if not found:
        raise FileInputError("no file was given; name at least one")
    if batch_rows < 1 or batch_bytes < 1:
        raise FileInputError(f"batch_rows is {batch_rows} and batch_bytes {batch_bytes}; both must be above 0")
    for path in found:
        if not path.exists():
            near = get_close_matches(path.name, [each.name for each in _siblings(path)], n=1)
            raise FileInputError(f"{path} does not exist{f'; did you mean {near[0]}?' if near else ''}")
        if not path.is_file():
            raise FileInputError(f"{path} is not a file; name the files in it one by one")
        if _format(path) is None:
            raise FileInputError(f"{path} has the ending {path.suffix!r}; it must be {_ENDINGS}")
    return FileInput(found, schema, stream, batch_rows, batch_bytes, record_bytes_max)


def _siblings(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _format(path: Path) -> str | None:
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] == [".gz"]:
        known = _FORMATS.get(endings[-2]) if len(endings) > 1 else None
        return None if known == "parquet" else known
    return _FORMATS.get(endings[-1]) if endings else None


def _check_columns(schema: Schema, path: Path, columns: tuple[str, ...]) -> None:
    for field in schema.fields:
        if field.name in columns or (field.optional and field.name not in (schema.id, schema.time)):
            continue
        near = get_close_matches(field.name, columns, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(columns)}"
        raise FileInputError(f"{path} has no column {field.name!r}; {advice}")
