"""What the logs of our own remove by themselves; on Kafka the brokers do."""

import pytest

from connectors.memory_log import MemoryLog
from connectors.sqlite_log import SqliteLog


@pytest.fixture(params=["memory", "sqlite"])
def own_log(request, tmp_path):
    with MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "log.db") as log:
        yield log


def test_retention_removes_only_from_the_front_and_offsets_go_on(own_log):
    own_log.create_topic("in", retention_ms=100)
    own_log.create_topic("kept")
    own_log.append("kept", 0, [b"a"], append_ms=0)
    for append_ms in [0] * 150 + [500, 0]:  # a clock that went back: what comes after 500 stays as well
        own_log.append("in", 0, [b"a"], append_ms)
    assert own_log.enforce_retention(now_ms=600) == 150
    assert own_log.enforce_retention(now_ms=600) == 0
    assert own_log.begin("in", 0) == 150
    assert own_log.enforce_retention(now_ms=10_000) == 2
    assert (own_log.begin("in", 0), own_log.end("in", 0)) == (152, 152)
    assert own_log.append("in", 0, [b"a"], 10_000) == 152
    assert own_log.end("kept", 0) - own_log.begin("kept", 0) == 1


def test_retention_leaves_what_somebody_still_needs(own_log):
    own_log.create_topic("in", partitions=2, retention_ms=100)
    for partition in (0, 1):
        for append_ms in (0, 1, 2):
            own_log.append("in", partition, [b"a", b"b"], append_ms)
    assert own_log.enforce_retention(1_000, keep_from={("in", 0): 3, ("in", 1): 0}) == 2  # a batch stays whole
    assert (own_log.begin("in", 0), own_log.begin("in", 1)) == (2, 0)
    assert own_log.enforce_retention(1_000, keep_from={("in", 0): 6}) == 10
