"""The images of a history as a network sees them, each with the label that came to be known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.images import ImageError, Pixels, pixels_of
from connectors.secrets import Tokeniser
from ops.progress import Progress, Stage, silent
from ops.training.history import NEVER_MS
from pipeline.app import App
from pipeline.defects import DefectTask
from pipeline.replay import Replay

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Photos:
    """The images of a task, in log order.

    Attributes:
        pixels: (images, side, side, channels) uint8.
        ids: of the events.
        labels: the class of each as its inspector called it, None where nobody did.
        times_ms: (images,) event times.
        known_ms: (images,) when the label became known; the largest int64 where none came.
        unread: images at places that could not be read; they are not among the others.
    """

    pixels: Pixels
    ids: tuple[str, ...]
    labels: tuple[str | None, ...]
    times_ms: Int64s
    known_ms: Int64s
    unread: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, chosen: NDArray[np.bool_]) -> Photos:
        """Return some of the images."""
        rows = np.flatnonzero(chosen)
        return Photos(
            self.pixels[rows], tuple(self.ids[row] for row in rows), tuple(self.labels[row] for row in rows),
            self.times_ms[rows], self.known_ms[rows], self.unread,
        )  # fmt: skip

    def known(self, start_ms: int | None, until_ms: int | None) -> Photos:
        """Return what someone at `until_ms` could have learned from, of events from `start_ms` on."""
        until = until_ms if until_ms is not None else NEVER_MS
        there = np.array([label is not None for label in self.labels], np.bool_)
        there &= (self.times_ms < until) & (self.known_ms < until)
        return self.where(there & (self.times_ms >= (start_ms if start_ms is not None else -NEVER_MS)))


def read_photos(
    app: App,
    task: DefectTask,
    inputs: Mapping[str, FileInput],
    tokeniser: Tokeniser | None = None,
    progress: Progress = silent,
) -> Photos:
    """Replay files and decode the task's images. Memory: 16 kB for one of 128 by 128 pixels.

    Raises:
        ValueError: an input is missing or of no stream, or sensitive fields without a key.
    """
    plan = app.plans[task.on.name]
    total = max(sum(each.bytes_total for each in inputs.values()), 1)
    pixels: list[Pixels] = []
    ids: list[str] = []
    times: list[int] = []
    labels: dict[str, tuple[str, int]] = {}
    unread = 0
    with Replay(plan, inputs, tokeniser) as replay:
        for chunks, featured in replay:
            if plan.facts is not None and plan.facts.name in chunks and task.label is not None:
                rows = chunks[plan.facts.name].decoded.rows
                columns = (rows.column(name).to_pylist() for name in (plan.facts.schema.id, task.label.name))
                known = rows.column(plan.facts.schema.time).to_pylist()
                for event, label, known_ms in zip(*columns, known, strict=True):
                    if label is not None:
                        labels.setdefault(str(event), (label, known_ms))  # the first one counts
            events = featured.rows.column(task.on.schema.id).to_pylist()
            values = featured.rows.column(task.image.name).to_pylist()
            for event, value, time_ms in zip(events, values, featured.columns.times_ms.tolist(), strict=True):
                try:
                    if value is None:
                        raise ImageError("there is no image")
                    pixels.append(pixels_of(value, task.image_field))
                except ImageError:
                    unread += 1
                    continue
                ids.append(str(event))
                times.append(time_ms)
            progress(Stage("replay", sum(each.bytes_read for each in inputs.values()), total))
    progress(Stage("replay", total, total, f"{len(ids):,} images, {unread:,} could not be read"))
    told = [labels.get(event, (None, NEVER_MS)) for event in ids]
    shape = (0, task.image_field.size, task.image_field.size, task.image_field.channels)
    return Photos(
        np.stack(pixels) if pixels else np.zeros(shape, np.uint8), tuple(ids), tuple(label for label, _ in told),
        np.array(times, np.int64), np.array([known_ms for _, known_ms in told], np.int64), unread,
    )  # fmt: skip
