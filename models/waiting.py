"""What waits for the models, and what of it goes next. Time is an argument: no clock, no threads, no models.

Rows of a task wait in its lane. A *bucket* is what a model computes in one go: rows of one lane and one model, of one
caller or of several, at most a power of two that lasts about as long as it may (`models.portion`). The rules:

1. A bucket **closes** when it is full, or when its earliest deadline leaves just the time to compute it. Rows whose
   deadline is the moment they came close at once: nobody waits for company that is not wanted.
2. Of the closed buckets the one of the **highest level** goes first; within a level the one with the earliest deadline,
   then the one that came first.
3. While somebody works at a higher level (`claim`), no bucket of a lower one begins. What computes already ends.
4. **Nobody starves**: a lane that waited `patience_s` since its last bucket, or since it came, gets the next one,
   whatever its level; of several the one that waited longest.
5. At most `threads` buckets are computed at once, and one thread is left to the highest level, if there are several.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from models.portion import Portion

PATIENCE_S = 1.0
SLICE_S, SLICE_S_HIGHEST = 0.005, 0.05  # how long a bucket may last: others wait for it
BUCKET_ROWS_MAX = 1024
BUCKET_ROWS_AT_FIRST = 4
FORGETTING = 0.2  # weight of the newest bucket in what a row takes


@dataclass(eq=False)
class Item:
    """Rows that one caller wants computed.

    Attributes:
        model: rows of equal models may share a bucket.
        kind: of work, by which it is learned what rows take: it outlives a model.
        deadline_s: when the caller wants the results.
        since_s: when it came.
        begun: rows that are in buckets.
        missing: rows whose results have not come.
    """

    lane: Lane
    model: Hashable
    kind: str
    count: int
    deadline_s: float
    since_s: float
    order: int
    begun: int = 0
    missing: int = 0

    @property
    def urgency(self) -> tuple[float, int]:
        """What is smaller goes first."""
        return self.deadline_s, self.order


@dataclass(eq=False)
class Pace:
    """What rows of one kind of work take: how many a bucket may have, and seconds of one, 0 before the first."""

    portion: Portion
    row_s: float = 0.0


@dataclass(eq=False)
class Lane:
    """What waits of one task.

    Attributes:
        level: the higher, the more urgent.
        slice_s: how long a bucket may last.
        items: with rows that are in no bucket yet, the most urgent first.
        rows: how many rows that are.
        since_s: of its last bucket, or since something waits.
        paces: kind of work -> what it takes.
    """

    name: str
    level: int
    slice_s: float
    items: list[Item] = field(default_factory=list)
    rows: int = 0
    running: int = 0
    since_s: float = 0.0
    paces: dict[str, Pace] = field(default_factory=dict)

    def pace(self, kind: str) -> Pace:
        """Return what is known of a kind of work."""
        if kind not in self.paces:
            self.paces[kind] = Pace(Portion(self.slice_s, BUCKET_ROWS_MAX, BUCKET_ROWS_AT_FIRST))
        return self.paces[kind]

    def head(self) -> Iterator[Item]:
        """Yield the items that may share the next bucket, the most urgent first."""
        return (item for item in self.items if item.model == self.items[0].model)

    def closes_s(self) -> float:
        """Return when the next bucket is to begin, whether it is full or not; not of an empty lane."""
        rows, pace = sum(item.count - item.begun for item in self.head()), self.pace(self.items[0].kind)
        if rows >= pace.portion.rows:
            return -float("inf")
        return self.items[0].deadline_s - rows * pace.row_s


@dataclass(frozen=True)
class Slice:
    """Some rows of an item, from `first` to before `end`."""

    item: Item
    first: int
    end: int


@dataclass(frozen=True)
class Bucket:
    """What is computed in one go: rows of equal models."""

    lane: Lane
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """How many rows that are."""
        return sum(each.end - each.first for each in self.slices)


class Waiting:
    """The lanes of a process; one thread at a time.

    Args:
        levels: lane -> its level.
        threads: buckets that are computed at once, at most.
        rows_max: rows that may wait in a lane; an item that alone has more waits until the lane is empty.
        patience_s: as of rule 4.
    """

    def __init__(
        self, levels: Mapping[str, int], threads: int, rows_max: int = 16_384, patience_s: float = PATIENCE_S
    ) -> None:
        highest = max(levels.values(), default=0)
        slices = {name: SLICE_S if level < highest else SLICE_S_HIGHEST for name, level in levels.items()}
        self.lanes = {name: Lane(name, level, slices[name]) for name, level in levels.items()}
        self._highest, self._threads, self._rows_max, self._patience_s = highest, threads, rows_max, patience_s
        self._claims: dict[int, int] = {}
        self._orders = 0

    def has_room(self, name: str, count: int) -> bool:
        """Whether so many rows may be added to a lane now."""
        lane = self.lanes[name]
        return not lane.rows or lane.rows + count <= self._rows_max

    def add(self, name: str, model: Hashable, kind: str, count: int, deadline_s: float, now_s: float) -> Item:
        """Let rows wait; at least one."""
        lane = self.lanes[name]
        self._orders += 1
        item = Item(lane, model, kind, count, max(deadline_s, now_s), now_s, self._orders, missing=count)
        if not lane.items:
            lane.since_s = now_s
        insort(lane.items, item, key=lambda each: each.urgency)
        lane.rows += count
        return item

    def claim(self, level: int) -> None:
        """Let no bucket of a lower level begin until `release`."""
        self._claims[level] = self._claims.get(level, 0) + 1

    def release(self, level: int) -> None:
        """End a claim."""
        self._claims[level] -= 1

    def next(self, now_s: float, level_min: int = 0) -> Bucket | None:
        """Take what goes next out of its lane; None if nothing may begin now.

        Args:
            now_s: of the clock that deadlines are of.
            level_min: what a caller helps with who waits for something himself: nothing that is less urgent.
        """
        able = [
            lane for lane in self.lanes.values()
            if lane.items and lane.level >= level_min and self._has_thread(lane) and lane.closes_s() <= now_s
        ]  # fmt: skip
        starved = [lane for lane in able if now_s - lane.since_s >= self._patience_s]
        claimed = max((level for level, count in self._claims.items() if count), default=0)
        entitled = [lane for lane in able if lane.level >= claimed]
        if starved:
            return self._begin(min(starved, key=lambda lane: lane.since_s), now_s)
        return (
            self._begin(min(entitled, key=lambda lane: (-lane.level, lane.items[0].urgency)), now_s)
            if entitled
            else None
        )

    def _has_thread(self, lane: Lane) -> bool:
        running = sum(each.running for each in self.lanes.values())
        below = sum(each.running for each in self.lanes.values() if each.level < self._highest)
        return running < self._threads and (lane.level == self._highest or below < max(self._threads - 1, 1))

    def _begin(self, lane: Lane, now_s: float) -> Bucket:
        slices, left = [], lane.pace(lane.items[0].kind).portion.rows
        for item in list(lane.head()):
            taken = min(item.count - item.begun, left)
            slices.append(Slice(item, item.begun, item.begun + taken))
            item.begun += taken
            left -= taken
            if item.begun == item.count:
                lane.items.remove(item)
            if not left:
                break
        bucket = Bucket(lane, tuple(slices))
        lane.rows -= bucket.rows
        lane.running += 1
        lane.since_s = now_s
        return bucket

    def ended(self, bucket: Bucket, seconds: float) -> list[Item]:
        """Note that a bucket was computed, and how long it took; return the items that have all their rows now."""
        lane, rows = bucket.lane, bucket.rows
        lane.running -= 1
        pace = lane.pace(bucket.slices[0].item.kind)
        pace.portion.took(rows, seconds)
        pace.row_s += (FORGETTING if pace.row_s else 1.0) * (seconds / rows - pace.row_s)
        for each in bucket.slices:
            each.item.missing -= each.end - each.first
        return [each.item for each in bucket.slices if not each.item.missing]

    def look_again_s(self, now_s: float) -> float | None:
        """Return when something may begin by the passing of time alone; None if nothing waits."""
        moments = [
            at_s for lane in self.lanes.values() if lane.items
            for at_s in (lane.closes_s(), lane.since_s + self._patience_s) if at_s > now_s
        ]  # fmt: skip
        return min(moments, default=None)
