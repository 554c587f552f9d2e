"""Where lines end."""

import numpy as np
import pytest

from kernels.lines import line_ends


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 1000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_agrees_with_looking_at_every_byte(size, share):
    rng = np.random.default_rng(size)
    data = rng.choice(np.array([9, 11, 13, 0, 138, 255], np.uint8), size)
    data[rng.random(size) < share] = 10
    for start in range(min(size, 9)):  # of any alignment
        np.testing.assert_array_equal(line_ends(data[start:]), np.flatnonzero(data[start:] == 10) + 1)
