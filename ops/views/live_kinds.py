"""What a running app shows of tasks that read or look: examples, and how often labels that came since agree."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa

from pipeline.app import AnyTask
from pipeline.defects import DefectTask
from pipeline.support import OUT_OF_SCOPE, SupportTask

AWAITED_MAX = 50_000  # decisions without a label, and labels without a decision, that are remembered
KEPT = 32
TEXT_MAX = 200  # characters of a message that are kept to be shown
T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """One message, for people.

    Attributes:
        text: its beginning, on one line.
        intent: as decided; "out_of_scope" if it is none of those learned, "" without a model.
        score: of the likeliest intent, NaN without a model.
        least: what an intent must score to be in scope, NaN without a model.
        priority, article: as decided, "" if there is none.
    """

    text: str
    intent: str
    score: float
    least: float
    priority: str
    article: str


@dataclass(frozen=True)
class SupportTold:
    """Of a support task: messages decided, those out of scope, those with a label since, and of these those right.

    A message out of scope is right if its label says so. `latest` is newest first.
    """

    messages: int = 0
    outside: int = 0
    labelled: int = 0
    right: int = 0
    latest: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Surface:
    """One photograph that was not allowed, for people.

    Attributes:
        photo: its id.
        defect: as decided, "" if it could not be read.
        score: NaN if it could not be read.
        reason: where it is, in words.
        image: as it came; `heat_map` is a PNG as a `data:` URL, "" if there is none.
    """

    photo: str
    defect: str
    score: float
    decision: str
    reason: str
    image: str
    heat_map: str


@dataclass(frozen=True)
class DefectTold:
    """Of a defect task: photographs decided and rejected; of those with a label since, defects, found and false alarms.

    `latest` is newest first.
    """

    photos: int = 0
    rejected: int = 0
    labelled: int = 0
    defects: int = 0
    found: int = 0
    false_alarms: int = 0
    latest: tuple[Surface, ...] = ()

    @property
    def recall(self) -> float:
        """Share of defects that were rejected, NaN before the first."""
        return self.found / self.defects if self.defects else float("nan")

    @property
    def precision(self) -> float:
        """Share of what was rejected that had a defect, NaN before the first."""
        alarms = self.found + self.false_alarms
        return self.found / alarms if alarms else float("nan")


Told = SupportTold | DefectTold


class SupportReader:
    """Counts the decisions of a support task and the labels about them."""

    def __init__(self, task: SupportTask) -> None:
        self._task = task
        self._counts = dict.fromkeys(("messages", "outside", "labelled", "right"), 0)
        self._latest: deque[Message] = deque(maxlen=KEPT)
        self._pairs: Pairs[str] = Pairs()

    def add(self, events: pa.RecordBatch, rows: pa.RecordBatch) -> None:
        """Count decisions; `events` are what they are about."""
        intents = [each or "" for each in rows.column("intent").to_pylist()]
        self._counts["messages"] += rows.num_rows
        self._counts["outside"] += intents.count(OUT_OF_SCOPE)
        for event, intent in zip(rows.column("event_id").to_pylist(), intents, strict=True):
            self._count(self._pairs.decided(event, intent))
        newest = max(rows.num_rows - KEPT, 0)
        texts = events.column(self._task.text.name)[newest:].to_pylist()
        for place, text in enumerate(texts, newest):
            articles = rows.column("articles")[place].as_py() or []
            self._latest.appendleft(Message(
                " ".join((text or "")[:TEXT_MAX].split()), intents[place], _number(rows.column("score")[place].as_py()),
                _number(rows.column("threshold")[place].as_py()),
                rows.column("priority")[place].as_py() or "", articles[0]["id"] if articles else "",
            ))  # fmt: skip

    def label(self, ids: list[str], said: list[str | None]) -> None:
        """Take what came to be known."""
        for event, intent in zip(ids, said, strict=True):
            self._count(self._pairs.labelled(event, intent) if intent is not None else None)

    def told(self) -> SupportTold:
        """Return everything as of now."""
        return SupportTold(**self._counts, latest=tuple(self._latest))

    def _count(self, pair: tuple[str, str] | None) -> None:
        if pair is not None:
            self._counts["labelled"] += 1
            self._counts["right"] += pair[0] == pair[1]


class DefectReader:
    """Counts the decisions of a defect task and the labels about them."""

    def __init__(self, task: DefectTask) -> None:
        self._task = task
        self._counts = dict.fromkeys(("photos", "rejected", "labelled", "defects", "found", "false_alarms"), 0)
        self._latest: deque[Surface] = deque(maxlen=KEPT)
        self._pairs: Pairs[bool] = Pairs()

    def add(self, events: pa.RecordBatch, rows: pa.RecordBatch) -> None:
        """Count decisions; `events` are what they are about."""
        rejected = [each != "allow" for each in rows.column("decision").to_pylist()]
        self._counts["photos"] += rows.num_rows
        self._counts["rejected"] += sum(rejected)
        ids = rows.column("event_id").to_pylist()
        for event, is_rejected in zip(ids, rejected, strict=True):
            self._count(self._pairs.decided(event, is_rejected))
        for place in [place for place, is_rejected in enumerate(rejected) if is_rejected][-KEPT:]:
            row = {name: rows.column(name)[place].as_py() for name in ("defect", "score", "decision", "heat_map")}
            reasons = rows.column("reasons")[place].as_py() or []
            self._latest.appendleft(Surface(
                ids[place], row["defect"] or "", _number(row["score"]), row["decision"], reasons[0] if reasons else "",
                events.column(self._task.image.name)[place].as_py() or "", row["heat_map"] or "",
            ))  # fmt: skip

    def label(self, ids: list[str], said: list[str | None]) -> None:
        """Take what came to be known."""
        for event, defect in zip(ids, said, strict=True):
            self._count(self._pairs.labelled(event, defect) if defect is not None else None)

    def told(self) -> DefectTold:
        """Return everything as of now."""
        return DefectTold(**self._counts, latest=tuple(self._latest))

    def _count(self, pair: tuple[bool, str] | None) -> None:
        if pair is None:
            return
        is_rejected, said = pair
        has_defect = said != self._task.sound
        self._counts["labelled"] += 1
        self._counts["defects"] += has_defect
        self._counts["found"] += has_defect and is_rejected
        self._counts["false_alarms"] += is_rejected and not has_defect


Reader = SupportReader | DefectReader


def reader_of(task: AnyTask) -> Reader | None:
    """Return what counts a task's decisions and labels; None for a task whose learner knows how good it is."""
    if isinstance(task, SupportTask):
        return SupportReader(task)
    return DefectReader(task) if isinstance(task, DefectTask) else None


class Pairs(Generic[T]):
    """Brings decisions and labels of the same event together, whichever comes first; the first label counts."""

    def __init__(self) -> None:
        self._decided: OrderedDict[str, T] = OrderedDict()
        self._labelled: OrderedDict[str, str] = OrderedDict()

    def decided(self, event: str, decision: T) -> tuple[T, str] | None:
        """Take a decision; return it with its label, if that is there."""
        label = self._labelled.pop(event, None)
        if label is not None:
            return decision, label
        _remember(self._decided, event, decision)
        return None

    def labelled(self, event: str, label: str) -> tuple[T, str] | None:
        """Take a label; return it with the decision, if that is there."""
        if event in self._decided:
            return self._decided.pop(event), label
        _remember(self._labelled, event, label)
        return None


def _remember(where: OrderedDict[str, T], event: str, what: T) -> None:
    where[event] = what
    if len(where) > AWAITED_MAX:
        where.popitem(last=False)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
