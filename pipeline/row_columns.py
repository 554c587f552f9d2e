"""The columns of decoded rows, as kernels and expressions want them: each made once, when first asked for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from connectors.columns import bools_of, floats_of, hash_column, ints_of, valid_rows
from connectors.schema import Schema
from kernels.window_features import CODE_BITS

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
UNITS_MAX = 1 << 46  # as `Field.limit`: sums of 2**16 such values fit 63 bits


class RowColumns:
    """Columns of one batch of rows, by field name."""

    def __init__(self, rows: pa.RecordBatch, schema: Schema) -> None:
        self.rows, self.schema = rows, schema
        self._numbers: dict[str, Float64s] = {}
        self._hashes: dict[str, NDArray[np.uint64]] = {}

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def times_ms(self) -> Int64s:
        """(rows,) event times."""
        return np.array(ints_of(self.rows.column(self.schema.time)))

    def number(self, name: str) -> Float64s:
        """Return (rows,) values, NaN for null; a text is its code, a truth value 0 or 1, a time milliseconds."""
        if name not in self._numbers:
            column = self.rows.column(name)
            if pa.types.is_string(column.type):
                values = code_of_hashes(self.hashes(name))
            elif pa.types.is_boolean(column.type):
                values = bools_of(column).astype(np.float64)
            else:
                values = np.array(floats_of(column), np.float64)
            if column.null_count:
                values = np.where(valid_rows(column), values, np.nan)
            self._numbers[name] = values
        return self._numbers[name]

    def hashes(self, name: str) -> NDArray[np.uint64]:
        """Return (rows,) hashes of a field, 0 for null."""
        if name not in self._hashes:
            self._hashes[name] = hash_column(self.rows.column(name))
        return self._hashes[name]


def code_of_hashes(hashes: NDArray[np.uint64]) -> Float64s:
    """Return categories as numbers: the low 32 bits of their hashes, exact in float64."""
    return (hashes & np.uint64(CODE_BITS)).astype(np.float64)


def code_of_text(text: str) -> float:
    """Return the code that a text field with this value has."""
    return float(code_of_hashes(hash_column(pa.array([text])))[0])


def to_units(values: Float64s, decimals: int) -> tuple[Int64s, Int64s]:
    """Return values as integers of 10**-decimals, and their weights: 0 for null and for what is out of range."""
    scaled = np.rint(values * 10.0**decimals)
    good = np.abs(scaled) <= UNITS_MAX  # False for NaN
    return np.where(good, scaled, 0.0).astype(np.int64), good.astype(np.int64)
