"""A sink that a thread writes."""

import threading

import pyarrow as pa
import pytest

from connectors.behind_sink import BehindSink
from connectors.errors import ConnectorError
from connectors.sinks import MemorySink, open_sink


def rows(number):
    return pa.record_batch({"n": [number]})


def numbers(sink):
    return [batch["n"][0].as_py() for batch in sink.batches]


def test_everything_arrives_in_order():
    inner = MemorySink()
    sink = BehindSink(inner, waiting_max=2)
    for number in range(50):
        sink.write(rows(number))
    sink.flush()
    assert numbers(inner) == list(range(50))
    sink.write(rows(50))
    sink.close()
    assert numbers(inner) == list(range(51))
    assert inner.closed
    with pytest.raises(ConnectorError, match="the sink is closed; write before close"):
        sink.write(rows(51))


def test_write_does_not_wait_for_the_work():
    class Gated(MemorySink):
        opened = threading.Event()

        def write(self, rows):
            assert self.opened.wait(30)
            super().write(rows)

    inner = Gated()
    sink = BehindSink(inner, waiting_max=2)
    sink.write(rows(0))
    sink.write(rows(1))
    assert numbers(inner) == []
    inner.opened.set()
    sink.close()
    assert numbers(inner) == [0, 1]


def test_an_error_of_the_thread_is_raised_and_the_file_is_not_finished(tmp_path):
    sink = BehindSink(open_sink(tmp_path / "x.csv"))
    sink.write(rows(0))
    sink.write(pa.record_batch({"other": [1]}))
    with pytest.raises(ConnectorError, match="the columns changed in the middle of the file"):
        sink.flush()
    with pytest.raises(ConnectorError, match="the columns changed in the middle of the file"):
        sink.write(rows(1))
    with pytest.raises(ConnectorError, match="the columns changed in the middle of the file"):
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv.partial"]


def test_abandon_leaves_the_file_unfinished(tmp_path):
    sink = BehindSink(open_sink(tmp_path / "x.csv"))
    sink.write(rows(0))
    sink.abandon()
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv.partial"]
