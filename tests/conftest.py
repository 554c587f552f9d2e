"""What holds for every test: no network of ours, a home of its own, the same seed for every property test."""

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MPLBACKEND", "Agg")  # plots go to files; no test opens a window
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: one core each

# Derandomised: a red test is red again on the next run. No deadline: the first call of a kernel loads it.
settings.register_profile("pelton", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pelton")


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PELTON_")]:
        monkeypatch.delenv(name)
