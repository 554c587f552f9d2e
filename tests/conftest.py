"""What holds for every test: no network of ours, a home of its own, the same seed for every property test."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import kafka_jars, registry_server

os.environ.setdefault("MPLBACKEND", "Agg")  # plots go to files; no test opens a window
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: one core each

# Derandomised: a red test is red again on the next run. No deadline: the first call of a kernel loads it.
settings.register_profile("pelton", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pelton")


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python load its message formats in a way that Python calls old; nothing of ours to change."""
    config.addinivalue_line("filterwarnings", "ignore:(open|read)_text is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PELTON_")]:
        monkeypatch.delenv(name)


def _need(why_not: str | None) -> None:
    """Skip a test whose server cannot run here, unless servers have to."""
    if why_not:
        assert not kafka_jars.NEEDED, why_not
        pytest.skip(why_not)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The address of a real broker, "host:port", for all tests of this process; see `tests.kafka_broker.fresh`."""
    if kafka_jars.GIVEN:
        yield kafka_jars.GIVEN
        return
    _need(kafka_jars.missing())
    from tests.kafka_broker import KafkaBroker  # brings a Kafka client, which most tests do without

    broker = KafkaBroker()
    try:
        broker.start()
        yield broker.address
    finally:
        broker.close()


@pytest.fixture(scope="session")
def needs_kafka() -> None:
    """For tests that start brokers of their own, to stop, kill or secure them: skipped where there is no Kafka."""
    _need(kafka_jars.missing())


@pytest.fixture(scope="session")
def registry_url() -> str:
    """The address of a real schema registry with Confluent's API, the same for all tests of this process."""
    if registry_server.GIVEN:
        return registry_server.GIVEN
    _need(registry_server.missing())
    return registry_server.address()
