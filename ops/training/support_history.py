"""The messages of a history, each with the intent and the priority that came to be known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectors.files import FileInput
from connectors.schema import TextField
from connectors.secrets import Tokeniser
from models.text.words import normalised
from ops.progress import Progress, Stage, silent
from ops.training.history import NEVER_MS
from pipeline.app import App
from pipeline.replay import Replay
from pipeline.support import SupportTask

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Messages:
    """The messages of a task, in log order, those without a word left out.

    Attributes:
        texts: normalised.
        ids: of the events.
        intents, priorities, articles: as whoever answered called them; None where nobody did.
        times_ms: (messages,) event times.
        known_ms: (messages,) when the label became known; the largest int64 where none came.
    """

    texts: tuple[str, ...]
    ids: tuple[str, ...]
    intents: tuple[str | None, ...]
    priorities: tuple[str | None, ...]
    articles: tuple[str | None, ...]
    times_ms: Int64s
    known_ms: Int64s

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, chosen: NDArray[np.bool_]) -> Messages:
        """Return some of the messages."""
        rows = np.flatnonzero(chosen)
        return Messages(
            tuple(self.texts[row] for row in rows), tuple(self.ids[row] for row in rows),
            tuple(self.intents[row] for row in rows), tuple(self.priorities[row] for row in rows),
            tuple(self.articles[row] for row in rows), self.times_ms[rows], self.known_ms[rows],
        )  # fmt: skip

    def known(self, start_ms: int | None, until_ms: int | None) -> Messages:
        """Return what someone at `until_ms` could have learned from, of messages from `start_ms` on."""
        until = until_ms if until_ms is not None else NEVER_MS
        both = zip(self.intents, self.articles, strict=True)
        there = np.array([intent is not None or article is not None for intent, article in both], np.bool_)
        there &= (self.times_ms < until) & (self.known_ms < until)
        return self.where(there & (self.times_ms >= (start_ms if start_ms is not None else -NEVER_MS)))


def read_messages(
    app: App,
    task: SupportTask,
    inputs: Mapping[str, FileInput],
    tokeniser: Tokeniser | None = None,
    progress: Progress = silent,
) -> Messages:
    """Replay files and keep the task's texts; of several labels of a message the first one counts.

    Raises:
        ValueError: an input is missing or of no stream, or sensitive fields without a key.
    """
    plan = app.plans[task.on.name]
    content = task.text.field.content
    assert isinstance(content, TextField)
    total = max(sum(each.bytes_total for each in inputs.values()), 1)
    rows: list[tuple[str, str, int]] = []
    labels: dict[str, tuple[list[str | None], int]] = {}
    with Replay(plan, inputs, tokeniser) as replay:
        for chunks, featured in replay:
            if plan.facts is not None and plan.facts.name in chunks:
                told = chunks[plan.facts.name].decoded.rows
                said = [told.column(each.name).to_pylist() if each is not None else [None] * told.num_rows
                        for each in (task.intent, task.priority, task.article)]  # fmt: skip
                known = told.column(plan.facts.schema.time).to_pylist()
                for event, known_ms, *label in zip(
                    told.column(plan.facts.schema.id).to_pylist(), known, *said, strict=True
                ):
                    labels.setdefault(str(event), (label, known_ms))
            events = featured.rows.column(task.on.schema.id).to_pylist()
            texts = featured.rows.column(task.text.name).to_pylist()
            for event, text, time_ms in zip(events, texts, featured.columns.times_ms.tolist(), strict=True):
                cleaned = normalised(text or "", content.max_chars)
                if cleaned:
                    rows.append((str(event), cleaned, time_ms))
            progress(Stage("replay", sum(each.bytes_read for each in inputs.values()), total))
    progress(Stage("replay", total, total, f"{len(rows):,} messages"))
    nothing: tuple[list[str | None], int] = ([None, None, None], NEVER_MS)
    found = [labels.get(event, nothing) for event, _, _ in rows]
    return Messages(
        tuple(text for _, text, _ in rows), tuple(event for event, _, _ in rows),
        tuple(label[0] for label, _ in found), tuple(label[1] for label, _ in found),
        tuple(label[2] for label, _ in found), np.array([time_ms for _, _, time_ms in rows], np.int64),
        np.array([known_ms for _, known_ms in found], np.int64),
    )  # fmt: skip
