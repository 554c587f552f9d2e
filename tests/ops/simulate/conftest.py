"""One small stream that the tests of the simulation read."""

from collections.abc import Callable

import numpy as np
import pytest

from ops.simulate.settings import SimulationSettings
from ops.simulate.simulator import Part, Simulation


@pytest.fixture(scope="session")
def small() -> SimulationSettings:
    """Return settings of a stream of about 60,000 payments."""
    return SimulationSettings(days=10, events_per_day=6_000, cards=1_000, terminals=300, stale_share=0.001)


@pytest.fixture(scope="session")
def whole() -> Callable[[SimulationSettings], Part]:
    """Return a function that makes a stream in memory, all its parts put together."""

    def make(settings: SimulationSettings) -> Part:
        parts = list(Simulation(settings).parts())
        happened, arrived, known = zip(*((part.happened, part.arrived, part.known) for part in parts), strict=True)
        return Part(np.concatenate(happened), np.concatenate(arrived), np.concatenate(known))

    return make


@pytest.fixture(scope="session")
def stream(small: SimulationSettings, whole: Callable[[SimulationSettings], Part]) -> Part:
    """Return the small stream; tests must not change it."""
    made = whole(small)
    for array in (made.happened, made.arrived, made.known):
        array.flags.writeable = False
    return made
