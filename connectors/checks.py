"""Whether decoded values are what the schema promises: one implementation for JSON, CSV and tables."""

import numpy as np
from numpy.typing import NDArray

from connectors.schema import Field, Schema

LATEST_MS = 253_402_300_799_999  # the end of the year 9999

(FINE, UNFRAMED, ABSENT, WRONG_TYPE, BEYOND, EMPTY_ID, NOT_A_TIME, OUT_OF_TIME, BROKEN_IMAGE) = range(9)

Bools = NDArray[np.bool_]


class Findings:
    """What is wrong with each of some records: the first problem in the declared order of the fields.

    Attributes:
        problems: (records,) uint8: FINE, or what is wrong.
        fields: (records,) int16: the index of the field that is wrong.
    """

    def __init__(self, records: int) -> None:
        self.problems = np.zeros(records, np.uint8)
        self.fields = np.zeros(records, np.int16)

    def report(self, wrong: Bools, problem: int, field: int) -> None:
        """Note a problem of the records in `wrong`, (records,) bool, that have none yet."""
        if wrong.any():
            new = wrong & (self.problems == FINE)
            self.problems[new] = problem
            self.fields[new] = field

    def check_present(self, schema: Schema, field: int, valid: Bools) -> None:
        """Find records without a value that must be there; null and missing are the same."""
        declared = schema.fields[field]
        if not declared.optional or declared.name in (schema.id, schema.time):
            self.report(~valid, ABSENT, field)

    def check_numbers(self, declared: Field, field: int, values: NDArray[np.float64] | NDArray[np.int64]) -> None:
        """Find numbers that are not finite or beyond what the field holds; null ones must be 0 here."""
        limit = declared.limit if values.dtype.kind == "f" else int(declared.limit)
        self.report(~((values <= limit) & (values >= -limit)), BEYOND, field)

    def check_times(self, field: int, times_ms: NDArray[np.int64], valid: Bools) -> None:
        """Find times before 1970 or after 9999."""
        self.report(valid & ((times_ms < 0) | (times_ms > LATEST_MS)), OUT_OF_TIME, field)

    def check_id(self, field: int, sizes: NDArray[np.int32], valid: Bools) -> None:
        """Find ids that are empty text."""
        self.report(valid & (sizes == 0), EMPTY_ID, field)
