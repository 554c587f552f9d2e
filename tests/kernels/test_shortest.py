import math

import numpy as np
import pyarrow as pa
import pytest

from connectors.csv_text import csv_lines

RNG = np.random.default_rng(7)
BITS = RNG.integers(0, 2**64, 100_000, dtype=np.uint64).view(np.float64)
CASES = {
    "any bits": BITS[np.isfinite(BITS)],
    "cents": RNG.integers(0, 10**12, 50_000) / 100,
    "cents too large to be told apart": RNG.integers(10**14, 10**17, 50_000) / 100,
    "between 0 and 1": RNG.random(50_000),
    "every power of two": 2.0 ** np.arange(-1074, 1024),
    "every power of ten": np.array([float(f"1e{power}") for power in range(-323, 309)]),
    "subnormal": RNG.integers(1, 2**52, 10_000, dtype=np.uint64).view(np.float64),
    "whole": RNG.integers(-(10**6), 2**53, 10_000).astype(np.float64),
    "beside a power of two": np.nextafter(2.0 ** np.arange(-1000, 1000), 0.0),
    "edges": np.array([0.0, -0.0, math.inf, -math.inf, 1e9, 9999999999.5, 1e10, 1e-6, 9.99e-7, 5e-324, 1.7e308]),
}


def written(values):
    rows = pa.record_batch({"x": pa.array(values)})
    return b"".join(csv_lines(rows)).decode().splitlines()


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_numbers_are_written_as_arrow_writes_them(values):
    assert written(values) == pa.array(values).cast(pa.string()).to_pylist()


@pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())
def test_numbers_read_back_the_same(values):
    back = np.array([float(text) for text in written(values)])
    np.testing.assert_array_equal(back.view(np.uint64), values.view(np.uint64))


def test_integers_of_every_length():
    values = [
        0,
        -1,
        9223372036854775807,
        -9223372036854775808,
        *(10**n for n in range(19)),
        *(10**n - 1 for n in range(19)),
    ]
    assert written(np.array(values, np.int64)) == [str(value) for value in values]
