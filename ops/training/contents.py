"""The texts or images of a history, cleaned as a network takes them, each with the labels that came to be known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.images import ImageError, pixels_of
from connectors.schema import TextField
from connectors.secrets import Tokeniser
from models.text.words import normalised
from ops.progress import Progress, Stage, silent
from ops.training.history import NEVER_MS, replaying
from pipeline.app import App
from pipeline.defects import DefectTask
from pipeline.support import SupportTask
from pipeline.windows import Column

Int64s = NDArray[np.int64]
Objects = NDArray[np.object_]
Clean = Callable[[str | None], Any]  # what a network takes; None where there is nothing to take


@dataclass(frozen=True)
class Contents:
    """The texts or images of a task, in log order; what could not be read is left out.

    Attributes:
        values: (events,) texts, normalised, or (events, side, side, channels) uint8 pixels.
        ids: (events,) texts.
        labels: what -> (events,) as whoever answered called it; None where nobody did.
        times_ms: (events,) event times.
        known_ms: (events,) when the labels became known; the largest int64 where none came.
        unread: how many events are left out.
    """

    values: NDArray[Any]
    ids: Objects
    labels: dict[str, Objects]
    times_ms: Int64s
    known_ms: Int64s
    unread: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, chosen: NDArray[np.bool_]) -> Contents:
        """Return some of the events."""
        labels = {what: its[chosen] for what, its in self.labels.items()}
        return Contents(
            self.values[chosen], self.ids[chosen], labels, self.times_ms[chosen], self.known_ms[chosen], self.unread
        )  # fmt: skip

    def told(self, what: str) -> NDArray[np.bool_]:
        """Tell which (events,) have a label."""
        return np.array([each is not None for each in self.labels[what]], np.bool_)

    def known(self, start_ms: int | None, until_ms: int | None) -> Contents:
        """Return what someone at `until_ms` could have learned from, of events from `start_ms` on."""
        until = until_ms if until_ms is not None else NEVER_MS
        there = np.any([self.told(what) for what in self.labels], axis=0)
        there &= (self.times_ms < until) & (self.known_ms < until)
        return self.where(there & (self.times_ms >= (start_ms if start_ms is not None else -NEVER_MS)))


def read_contents(
    app: App,
    task: SupportTask | DefectTask,
    inputs: Mapping[str, FileInput],
    tokeniser: Tokeniser | None = None,
    progress: Progress = silent,
) -> Contents:
    """Replay files and keep what the task's network reads; of several labels of an event the first one counts.

    Memory: all of it; 16 kB for a gray image of 128 by 128 pixels.

    Raises:
        ValueError: an input is missing or of no stream, or sensitive fields without a key.
    """
    plan = app.plans[task.on.name]
    column, asked, clean, empty = _reading(task)
    rows: list[tuple[str, Any, int]] = []
    labels: dict[str, tuple[list[str | None], int]] = {}
    events = 0
    with replaying(plan, inputs, tokeniser, progress) as (replay, step):
        for chunks, featured in replay:
            if plan.facts is not None and plan.facts.name in chunks:
                told = chunks[plan.facts.name].decoded.rows
                said = zip(*(told.column(each.name).to_pylist() if each is not None else [None] * told.num_rows
                             for each in asked.values()), strict=True)  # fmt: skip
                ids, times = (told.column(name).to_pylist() for name in (plan.facts.schema.id, plan.facts.schema.time))
                for event, known_ms, label in zip(ids, times, said, strict=True):
                    if any(each is not None for each in label):
                        labels.setdefault(str(event), (list(label), known_ms))
            ids, given = (featured.rows.column(name).to_pylist() for name in (task.on.schema.id, column.name))
            cleaned = zip(map(str, ids), map(clean, given), featured.columns.times_ms.tolist(), strict=True)
            rows += [row for row in cleaned if row[1] is not None]
            events += len(ids)
            step()
    what = "messages" if isinstance(task, SupportTask) else "images"
    unread = f", {events - len(rows):,} could not be read" if what == "images" else ""
    progress(Stage("replay", 1, 1, f"{len(rows):,} {what}{unread}"))
    nothing: tuple[list[str | None], int] = ([None] * len(asked), NEVER_MS)
    found = [labels.get(event, nothing) for event, _, _ in rows]
    values = np.stack([value for _, value, _ in rows]) if rows else empty
    return Contents(
        values, np.array([event for event, _, _ in rows], np.object_),
        {name: np.array([label[at] for label, _ in found], np.object_) for at, name in enumerate(asked)},
        np.array([time_ms for _, _, time_ms in rows], np.int64),
        np.array([known_ms for _, known_ms in found], np.int64),
        events - len(rows),
    )  # fmt: skip


def _reading(task: SupportTask | DefectTask) -> tuple[Column, dict[str, Column | None], Clean, NDArray[Any]]:
    """Return the field to read, the labels, what makes of a value what the network takes, and no values at all."""
    if isinstance(task, SupportTask):
        content = task.text.field.content
        assert isinstance(content, TextField)
        asked = {"intent": task.intent, "priority": task.priority, "article": task.article}
        chars_max = content.max_chars

        def text(value: str | None) -> Any:
            cleaned = normalised(value or "", chars_max)
            return np.array(cleaned, np.object_) if cleaned else None

        return task.text, asked, text, np.zeros(0, np.object_)
    field = task.image_field

    def pixels(value: str | None) -> Any:
        try:
            return None if value is None else pixels_of(value, field)
        except ImageError:
            return None

    shape = (0, field.size, field.size, field.channels)
    return task.image, {"label": task.label}, pixels, np.zeros(shape, np.uint8)
