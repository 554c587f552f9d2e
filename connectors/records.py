"""Records on their way in: undecoded, decoded, and what the engine gets."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """Consecutive records of one topic and partition, undecoded.

    Attributes:
        values: (records,) the bytes of each; a JSON or CSV record may end in a newline. One contiguous buffer.
        offsets: (records,) int64 positions in the partition, rising.
        append_ms: (records,) when the log took each, None for a plain file.
        redriven_from: (records,) the offset of the dead letter that a record repeats, -1 for none; None if none has.
        are_claimed: whether producers said the append times, not the log's clock.
    """

    topic: str
    partition: int
    values: pa.LargeBinaryArray
    offsets: Int64s
    append_ms: Int64s | None = None
    redriven_from: Int64s | None = None
    are_claimed: bool = False

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class BadRecord:
    """A record that does not fit the schema: its index among those decoded together, and why, in one sentence."""

    index: int
    cause: str


@dataclass(frozen=True)
class Decoded:
    """The good rows of some records, and the bad records.

    Attributes:
        rows: (rows,) one column per schema field, in declared order.
        index: (rows,) int64, rising: which record each row came from.
        bad: the others.
    """

    rows: pa.RecordBatch
    index: Int64s
    bad: list[BadRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Chunk:
    """What the engine gets of one input: decoded records with their positions.

    Attributes:
        stream: name of the stream.
        offsets, append_ms, redriven_from: (records,) as in `Records`, of good and bad records; `are_claimed` too.
        decoded: the rows; `decoded.index` points into the arrays above.
        raw: the original bytes of record i, for a dead letter.
    """

    stream: str
    partition: int
    offsets: Int64s
    decoded: Decoded
    raw: Callable[[int], bytes]
    append_ms: Int64s | None = None
    redriven_from: Int64s | None = None
    are_claimed: bool = False

    def __len__(self) -> int:
        return self.offsets.size
