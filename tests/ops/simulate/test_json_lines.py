"""Columns to JSON lines, against Python's own formatting."""

import numpy as np

from ops.simulate.lines import Block, hexadecimal, money, padded, timestamps


def test_numbers_are_written_as_python_writes_them():
    rng = np.random.default_rng(3)
    cents = np.concatenate([[0, 1, 99, 100, 9_999_999], rng.integers(0, 10_000_000, 995)])
    ts_ms = np.concatenate([[10**12, 10**13 - 1], rng.integers(10**12, 10**13, 998)])
    bits = rng.integers(0, 2**32, 1000, dtype=np.uint32)
    ids = rng.integers(0, 10**12, 1000)
    parts = [*money(cents), b" ", *timestamps(ts_ms), b" ", *hexadecimal(bits), b" ", *padded(ids, 12), b"\n"]
    block = Block(parts, 1000)
    expected = [
        f"{cent // 100}.{cent % 100:02d} {ts} {bit:08x} {number:012d}\n"
        for cent, ts, bit, number in zip(cents.tolist(), ts_ms.tolist(), bits.tolist(), ids.tolist(), strict=True)
    ]
    assert block.text().decode() == "".join(expected)
    assert block.text(3, 5).decode() == "".join(expected[3:5])
    assert block.text(7, 7) == b""
