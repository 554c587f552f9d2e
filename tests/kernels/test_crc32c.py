"""The checksum of Kafka's batches, by the processor and by tables."""

import numpy as np
import pytest
from aiokafka.record.util import calc_crc32c

from kernels.crc32c import by_tables, crc32c, tables


def test_the_value_that_the_standard_gives():
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 16, 17, 1000, 65_537])
def test_instruction_and_tables_agree_with_aiokafka_at_every_alignment(size):
    rng = np.random.default_rng(size)
    data = rng.integers(0, 256, size + 3, np.uint8)
    for start in range(3):
        part = np.ascontiguousarray(data[start : start + size])
        expected = calc_crc32c(part.tobytes())
        assert crc32c(part) == expected
        assert int(by_tables(part, tables())) == expected
