"""A sink that is written by a thread, while the caller makes the next rows."""

import queue
import threading
from collections.abc import Callable

import pyarrow as pa

from connectors.errors import ConnectorError
from connectors.sinks import Sink

WAITING_MAX = 8


class BehindSink:
    """A Sink around another: `write` hands over and returns, a thread does the work (pyarrow lets go of the GIL).

    Order and delivery are the other sink's. At most `waiting_max` batches wait, then `write` does too. What went wrong
    in the thread is raised by the next call; nothing is written after it, and only `abandon` is left.
    """

    def __init__(self, sink: Sink, waiting_max: int = WAITING_MAX) -> None:
        self._sink = sink
        self._error: Exception | None = None
        self._closed = False
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting_max)
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()

    def write(self, rows: pa.RecordBatch) -> None:
        """Hand the rows over; wait only when too many wait already."""
        self._check()
        self._work.put(lambda: self._sink.write(rows))

    def flush(self) -> None:
        """Wait until everything handed over is written, and flush."""
        self._check()
        self._work.put(self._sink.flush)
        self._work.join()
        self._check()

    def close(self) -> None:
        """Write what waits and close the sink; if that failed, abandon it and raise."""
        self._stop()
        if self._error is not None:
            self._sink.abandon()
            raise self._error
        self._sink.close()

    def abandon(self) -> None:
        """Let what is handed over end, and abandon the sink."""
        self._stop()
        self._sink.abandon()

    def _check(self) -> None:
        if self._closed:
            raise ConnectorError("the sink is closed; write before close")
        if self._error is not None:
            raise self._error

    def _stop(self) -> None:
        if not self._closed:
            self._closed = True
            self._work.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (step := self._work.get()) is not None:
            try:
                if self._error is None:
                    step()
            except Exception as error:
                self._error = error  # raised where the caller is
            finally:
                self._work.task_done()
