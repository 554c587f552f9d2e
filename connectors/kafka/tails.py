"""Waiting for what comes: long polls that fill the shelves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial

from connectors.kafka.connection import Connection
from connectors.kafka.reader import Place, Reader, is_out_of_range
from connectors.kafka.shelves import Shelves

POLL_S = 0.5  # how long a broker holds an answer back when nothing comes
GRACE_S = 1.0  # a wait that is over takes an answer that is on its way, but not that of a broker that is away


class Tails:
    """Long polls at the ends of partitions, each on a connection of its own, so that no other read waits behind it."""

    def __init__(self, connection: Connection, reader: Reader, shelves: Shelves) -> None:
        self._connection, self._reader, self._shelves = connection, reader, shelves
        self._running: dict[tuple[Place, int], Future[bool]] = {}  # under shelves.changed, as all here
        self._seen: dict[Place, tuple[int, int]] = {}  # from where to where there is nothing
        self._free: list[int] = []
        self._lines = 0

    def wait(self, after: Mapping[Place, int], timeout_s: float) -> bool:
        """Wait until any place has a message at its offset; False if none came in time.

        Raises:
            KafkaError: the broker refuses.
        """
        until_s = time.monotonic() + timeout_s
        with self._shelves.changed:
            started = self._start(after, timeout_s)
            while True:
                if any(self._shelves.holds(place, offset) for place, offset in after.items()):
                    return True
                if any(tail.done() and tail.result() for tail in started):
                    return True
                pending = [tail for tail in started if not tail.done()]
                left_s = until_s - time.monotonic()
                if left_s <= 0 and (not pending or left_s < -GRACE_S):
                    return False
                if left_s > 0 and len(pending) < len(started):  # one found nothing but the end of a transaction
                    started = self._start(after, left_s)
                self._shelves.changed.wait(max(left_s, 0.0) if not started else max(left_s, 0.01))

    def _start(self, after: Mapping[Place, int], left_s: float) -> list[Future[bool]]:
        started = []
        for place, offset in after.items():
            if self._shelves.is_fed(place, offset) or self._shelves.holds(place, offset):
                continue
            tail = self._running.get((place, offset))
            if tail is None:
                line = self._free.pop() if self._free else self._new_line()
                tail = self._connection.start(self._poll(place, offset, min(left_s, POLL_S), line))
                self._running[place, offset] = tail
                tail.add_done_callback(partial(self._ended, (place, offset), line))
            started.append(tail)
        return started

    def _new_line(self) -> int:
        self._lines += 1
        return self._lines

    def _ended(self, key: tuple[Place, int], line: int, _tail: object) -> None:
        with self._shelves.changed:
            self._running.pop(key, None)
            self._free.append(line)
            self._shelves.changed.notify_all()

    async def _poll(self, place: Place, offset: int, wait_s: float, line: int) -> bool:
        """Ask once; True if a read there would not be in vain, though nothing came: the offset is gone."""
        start, end = self._seen.get(place, (0, 0))
        at = end if start <= offset < end else offset
        try:
            fetched = (await self._reader.fetch({place: at}, int(wait_s * 1000), group=("tail", line)))[place]
        except Exception as error:
            if is_out_of_range(error):
                return True
            raise
        if len(fetched.messages):
            self._shelves.put(place, fetched.messages, fetched.last_stable)
        elif fetched.messages.end > at:
            self._seen[place] = (offset, fetched.messages.end)
        return False
