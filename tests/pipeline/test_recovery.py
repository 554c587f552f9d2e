"""Commits that are replayed together give what they gave one after the other."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.memory_log import MemoryLog
from connectors.secrets import Sealer, Tokeniser
from pipeline.engine import Engine
from pipeline.live import create_topics
from pipeline.manifest import decode
from pipeline.reading import READ_AT_ONCE
from pipeline.recovery import chunks_again, recover
from pipeline.state_store import StateStore
from tests.pipeline.test_live import APP, KEY, START_MS, all_steps, label, payment, worker

TURNS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=25)


class Counting(Engine):
    """An engine that counts what it is asked."""

    asked = 0

    def process(self, chunks):
        Counting.asked += 1
        return super().process(chunks)


def decided_in_turns(turns, folder):
    """Return a log with a commit for each turn of so many payments and labels, and its worker."""
    log = MemoryLog(Sealer(KEY))
    create_topics(APP, log)
    live, paid, labelled = worker(log, folder), 0, 0
    for payments, labels in turns:
        now_ms = START_MS + 1000 * paid
        late = {"ts": START_MS} if paid % 11 == 10 else {}
        if payments:
            log.append("payments", 0, [payment(n, **late) for n in range(paid, paid + payments)], now_ms)
        if labels:
            log.append("frauds", 0, [label(n) for n in range(labelled, labelled + labels)], now_ms)
        paid, labelled = paid + payments, labelled + labels
        all_steps(live)
    return log, live


def one_by_one(stage, log, group):
    """Return an engine that was given commit after commit: the slow twin."""
    engine = Engine(stage, Tokeniser(KEY))
    for _, payload in log.manifests(group, 0, 0):
        engine.process(chunks_again(stage, log, 0, decode(payload)))
    return engine


@settings(deadline=None, max_examples=25)
@given(TURNS)
def test_replayed_commits_leave_the_state_that_they_left_one_by_one(turns):
    with tempfile.TemporaryDirectory() as folder:
        log, live = decided_in_turns(turns, Path(folder) / "live")
        found = recover(
            live.stage, log, live.group, 0, StateStore.of(Path(folder) / "none", live.group, 0), live._tokeniser
        )
        twin = one_by_one(live.stage, log, live.group)
        assert found.replayed == sum(map(sum, turns))
        log.append("payments", 0, [payment(n) for n in range(900, 930)], START_MS)
        chunk = next(iter(live._take(lambda part: None).values()))
        again, expected = (engine.process({"payments": chunk}) for engine in (found.engine, twin))
        np.testing.assert_array_equal(again.matrix, expected.matrix)
        assert again.ledgers == expected.ledgers


@pytest.mark.parametrize(
    ("turns", "asked"),
    [([(3, 0)] * 40, 1), ([(3, 1)] * 40, 40), ([(3, 0)] * 10 + [(0, 2)] * 10 + [(2, 1)] + [(1, 0)] * 10, 4)],
)
def test_commits_of_a_single_input_are_replayed_together(monkeypatch, tmp_path, turns, asked):
    log, live = decided_in_turns(turns, tmp_path / "live")
    monkeypatch.setattr("pipeline.recovery.Engine", Counting)
    Counting.asked = 0
    recover(live.stage, log, live.group, 0, StateStore.of(tmp_path / "none", live.group, 0), live._tokeniser)
    assert Counting.asked == asked


def test_not_too_many_are_replayed_together(monkeypatch, tmp_path):
    log, live = decided_in_turns([(READ_AT_ONCE // 4, 0)] * 10, tmp_path / "live")
    monkeypatch.setattr("pipeline.recovery.Engine", Counting)
    Counting.asked = 0
    recover(live.stage, log, live.group, 0, StateStore.of(tmp_path / "none", live.group, 0), live._tokeniser)
    assert Counting.asked == 3
