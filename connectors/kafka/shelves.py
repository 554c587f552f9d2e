"""Messages that were fetched and not taken yet: by partition, in order, bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict

from connectors.kafka.messages import Messages
from connectors.kafka.reader import Place

BYTES_MAX = 32 << 20  # that wait in one partition before its feeder should pause
READ_BYTES_MAX = 128 << 20  # that wait for all readers that fetch by themselves
READERS_MAX = 3  # of one partition at different positions: a worker, a learner, a view


class Shelf:
    """Messages of one partition that follow one another, for one reader that goes forward."""

    def __init__(self, offset: int) -> None:
        self.start = self.end = offset
        self.last_stable = -1
        self._waiting: list[Messages] = []
        self.size = 0

    def put(self, messages: Messages) -> None:
        """Add what follows."""
        self.end = max(self.end, messages.end)
        if len(messages):
            self._waiting.append(messages)
            self.size += messages.size

    def covers(self, offset: int) -> bool:
        """Tell whether what is here begins at or before an offset and goes on to it."""
        return self.start <= offset <= self.end

    def holds(self, offset: int) -> bool:
        """Tell whether there is a message at or after an offset."""
        return self.covers(offset) and any(part.end > offset and len(part.cut(offset, 1)) for part in self._waiting)

    def take(self, offset: int, limit: int) -> Messages:
        """Return messages from an offset on, and forget those before it."""
        while self._waiting and self._waiting[0].end <= offset:
            self.size -= self._waiting.pop(0).size
        self.start = max(self.start, offset)
        found = Messages((), offset, offset)
        for part in self._waiting:
            found = found.followed_by(part.cut(offset, limit - len(found)))
            if len(found) >= limit:
                return found
        return Messages(found.parts, offset, max(self.end, offset))


class Shelves:
    """All shelves of a log. Threads may share them; `changed` is notified when something comes."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self.changed = threading.Condition()
        self._bytes_max = bytes_max
        self._fed: dict[Place, Shelf] = {}
        self._read: OrderedDict[Place, list[Shelf]] = OrderedDict()

    def start_feed(self, place: Place, offset: int) -> None:
        """Expect that from this offset on messages are brought."""
        with self.changed:
            self._fed[place] = Shelf(offset)

    def stop_feed(self, place: Place) -> None:
        """Expect no more, and forget what waits."""
        with self.changed:
            self._fed.pop(place, None)

    def feed(self, place: Place, messages: Messages, last_stable: int) -> bool:
        """Add what follows; False if it does not follow what was brought before: a feed that was begun anew."""
        with self.changed:
            shelf = self._fed.get(place)
            if shelf is None or messages.start > shelf.end or messages.end < shelf.end:
                return False
            shelf.put(messages.cut(shelf.end, len(messages)))
            shelf.end = max(shelf.end, messages.end)
            shelf.last_stable = max(shelf.last_stable, last_stable, shelf.end)
            self.changed.notify_all()
            return True

    def is_full(self, place: Place) -> bool:
        """Tell whether the feeder should pause until a reader has taken some."""
        with self.changed:
            shelf = self._fed.get(place)
            return shelf is not None and shelf.size >= self._bytes_max

    def fed_end(self, place: Place) -> int | None:
        """Return the end that a feed knows; None if the partition is not fed."""
        with self.changed:
            shelf = self._fed.get(place)
            return max(shelf.last_stable, shelf.end) if shelf is not None else None

    def is_fed(self, place: Place, offset: int) -> bool:
        """Tell whether a feed brings what comes at this position."""
        with self.changed:
            shelf = self._fed.get(place)
            return shelf is not None and shelf.covers(offset)

    def take(self, place: Place, offset: int, limit: int) -> Messages | None:
        """Return what is here from an offset on; None if it must be fetched."""
        with self.changed:
            shelf = self._fed.get(place)
            if shelf is not None and shelf.covers(offset):
                return shelf.take(offset, limit)
            for shelf in self._read.get(place, ()):
                if shelf.holds(offset):
                    return shelf.take(offset, limit)
            return None

    def put(self, place: Place, messages: Messages, last_stable: int) -> None:
        """Keep what was fetched for the next reads from there on."""
        with self.changed:
            shelves = self._read.setdefault(place, [])
            shelf = next((each for each in shelves if each.end == messages.start and each.size < self._bytes_max), None)
            if shelf is None:
                shelf = Shelf(messages.start)
                shelves.append(shelf)
            else:
                shelves.remove(shelf)
                shelves.append(shelf)
            shelf.put(messages)
            shelf.last_stable = last_stable
            del shelves[:-READERS_MAX]
            self._read.move_to_end(place)
            while len(self._read) > 1 and self._read_bytes() > READ_BYTES_MAX:
                self._read.popitem(last=False)
            self.changed.notify_all()

    def _read_bytes(self) -> int:
        return sum(shelf.size for shelves in self._read.values() for shelf in shelves)

    def holds(self, place: Place, offset: int) -> bool:
        """Tell whether a message at or after an offset is here."""
        with self.changed:
            fed = self._fed.get(place)
            if fed is not None and fed.covers(offset):
                return fed.holds(offset)
            return any(shelf.holds(offset) for shelf in self._read.get(place, ()))
