"""The live loop on the log: what it decides, what it survives, what it refuses."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from connectors.log import CommitConflictError, Log, LogError
from connectors.memory_log import MemoryLog
from connectors.records import Records
from connectors.secrets import Sealer, Tokeniser
from connectors.sqlite_log import SqliteLog
from pipeline import App, Fixed, Rule, Stream, Task
from pipeline.dead_letters import dead_topic, from_rows
from pipeline.decisions import Served
from pipeline.errors import PeltonError
from pipeline.live import Worker, create_topics, decisions_topic

KEY = bytes(range(32))
START_MS = 1_700_000_000_000


def bank() -> App:
    payments = Stream(
        "payments", id="id", time="ts", lateness="5s", fields={"card": "card", "shop": "string", "amount": "money"}
    )
    frauds = Stream("frauds", id="id", time="known", fields={"fraud": "bool"})
    card, shop = payments.by("card"), payments.by("shop")
    features = {
        "count_1h": card.last("1h").count(),
        "std_1h": card.last("1h").std("amount"),
        "shops_1d": card.last("1d").distinct("shop"),
        "fraud_rate": shop.last("1d", delay="1m").rate(frauds.fraud),
    }
    rules = [Rule("often", "count_1h >= 4", "review"), Rule("large", "amount > 90", "block")]
    return App(
        "bank", [Task("risk", on=payments, features=features, rules=rules, label=frauds.fraud, threshold=Fixed())]
    )


APP = bank()


def payment(number: int, **changes: object) -> bytes:
    record = {
        "id": f"e{number}", "ts": START_MS + 1000 * number, "card": f"4{number % 5:015d}",
        "shop": f"s{number % 3}", "amount": float(number * 37 % 97),
    }  # fmt: skip
    return json.dumps({**record, **changes}).encode() + b"\n"


def label(number: int) -> bytes:
    record = {"id": f"e{number}", "known": START_MS + 1000 * number + 30_000, "fraud": number % 4 == 0}
    return json.dumps(record).encode() + b"\n"


def worker(log: Log, folder: Path, app: App = APP, timer_s: Callable[[], float] = lambda: 0.0) -> Worker:
    ticks = itertools.count()
    clock: Callable[[], int] = lambda: START_MS + 10_000_000 + next(ticks)  # noqa: E731
    return Worker(
        app, app.plans["payments"], log, folder, lambda task: Served(), clock, timer_s, Tokeniser(KEY), Sealer(KEY)
    )


def fill(log: Log, numbers: range) -> None:
    """Append payments, and the labels known by then, in turns."""
    create_topics(APP, log)
    for first in range(numbers.start, numbers.stop, 10):
        batch = range(first, min(first + 10, numbers.stop))
        log.append("payments", 0, [payment(n) for n in batch], START_MS + 1000 * batch.stop)
        log.append("frauds", 0, [label(n - 30) for n in batch if n >= 30] or [label(0)], START_MS + 1000 * batch.stop)


def fill_until_full(log: Log, live: Worker) -> None:
    for first in range(20, 100_000, 500):
        fill(log, range(first, first + 500))
        all_steps(live)


def decided(log: Log) -> pa.Table:
    return pa.Table.from_batches([rows for _, rows in log.read_rows(decisions_topic("bank"), 0, 0, 10**6)])


def all_steps(each: Worker) -> int:
    return sum(1 for _ in iter(each.step, None))


@pytest.fixture(params=["memory", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    sealer = Sealer(KEY)
    return MemoryLog(sealer) if request.param == "memory" else SqliteLog(tmp_path / "log.db", sealer)


def test_every_event_is_decided_once_and_the_ledger_closes(log: Log, tmp_path: Path) -> None:
    fill(log, range(100))
    log.append("payments", 0, [payment(7), payment(50, id="late", ts=START_MS), b"{oops\n"], START_MS + 200_000)
    live = worker(log, tmp_path)
    assert all_steps(live) == 1
    ledger = live.ledgers["payments"]
    assert ledger.is_closed
    assert (ledger.taken, ledger.applied, ledger.late, ledger.invalid) == (103, 100, 2, 1)
    rows = decided(log)
    assert rows["event_id"].to_pylist() == [f"e{n}" for n in range(100)]
    assert set(rows["rung"].to_pylist()) == {"rules"}
    assert rows["rule"][99].as_py() == "often"
    assert rows["decision"][0].as_py() == "allow"


def test_a_step_tells_where_its_time_went(log: Log, tmp_path: Path) -> None:
    fill(log, range(100))
    now_s = [0.0]
    read = log.read

    def slow_read(topic: str, partition: int, offset: int, limit: int) -> Records:
        now_s[0] += 3.0
        return read(topic, partition, offset, limit)

    log.read = slow_read
    live = worker(log, tmp_path, timer_s=lambda: now_s[0])
    step = live.step()
    assert step is not None
    assert step.seconds == {"fetch": 6.0, "decode": 0, "features": 0, "score": 0, "encode": 0, "commit": 0}


def test_card_numbers_never_leave_in_clear(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", Sealer(KEY))
    fill(log, range(40))
    log.append("payments", 0, [payment(1, amount="much")], START_MS)
    live = worker(log, tmp_path / "state")
    all_steps(live)
    live.save()
    log.close()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"4000000000000" not in path.read_bytes(), path


def test_dead_letters_keep_the_original_bytes_for_who_has_the_key(log: Log, tmp_path: Path) -> None:
    fill(log, range(10))
    broken = payment(11, amount="much")
    log.append("payments", 0, [broken], START_MS)
    all_steps(worker(log, tmp_path))
    ((_, rows),) = log.read_rows(dead_topic("bank"), 0, 0, 10)
    (letter,) = from_rows(rows, Sealer(KEY))
    assert (letter.kind, letter.offset, letter.raw) == ("invalid", 10, broken)
    assert "amount is 'much'" in letter.cause or 'amount is "much"' in letter.cause
    assert from_rows(rows, None)[0].raw == b""


def test_a_redriven_letter_is_applied_once_and_is_not_late(log: Log, tmp_path: Path) -> None:
    fill(log, range(60))
    late = payment(200, id="late", ts=START_MS + 1500)
    log.append("payments", 0, [late], START_MS)
    live = worker(log, tmp_path)
    all_steps(live)
    for _ in range(2):
        log.append("payments", 0, [late], START_MS, redriven_from=[60])
    all_steps(live)
    ledger = live.ledgers["payments"]
    assert (ledger.applied, ledger.late, ledger.duplicate) == (61, 1, 1)
    assert ledger.is_closed
    assert decided(log)["event_id"].to_pylist().count("late") == 1


@pytest.mark.parametrize("snapshots", ["none", "good", "damaged"])
def test_a_new_owner_goes_on_as_if_nothing_had_happened(log: Log, tmp_path: Path, snapshots: str) -> None:
    fill(log, range(150))
    first = worker(log, tmp_path / "a")
    all_steps(first)
    if snapshots != "none":
        first.save()
    fill(log, range(150, 300))
    all_steps(first)
    if snapshots == "damaged":
        (path,) = (tmp_path / "a").rglob("*.json")
        path.write_bytes(path.read_bytes()[:-7])
    second = worker(log, tmp_path / "a")
    assert second.commit == first.commit
    assert second.replayed == {"none": 573, "good": 300, "damaged": 573}[snapshots]
    fill(log, range(300, 400))
    all_steps(second)
    rows = decided(log)
    assert rows["event_id"].to_pylist() == [f"e{n}" for n in range(400)]
    uninterrupted = MemoryLog(Sealer(KEY))
    for numbers in (range(150), range(150, 300), range(300, 400)):
        fill(uninterrupted, numbers)
        if numbers.start == 0:
            whole = worker(uninterrupted, tmp_path / "b")
        all_steps(whole)
    names = APP.plans["payments"].names
    ours, theirs = ([table[name].to_numpy() for name in names] for table in (rows, decided(uninterrupted)))
    np.testing.assert_array_equal(ours, theirs)


def test_a_second_process_on_the_same_app_fails_and_changes_nothing(log: Log, tmp_path: Path) -> None:
    fill(log, range(20))
    first, second = worker(log, tmp_path), worker(log, tmp_path)
    all_steps(first)
    with pytest.raises(CommitConflictError, match=r"bank\.payments"):
        second.step()
    assert len(decided(log)) == 20
    fill(log, range(20, 40))
    all_steps(second)  # it recovered, so it may go on where the other one stopped
    assert len(decided(log)) == 40


def test_a_failed_commit_leaves_nothing_and_is_taken_again(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", Sealer(KEY), bytes_max=400_000)
    fill(log, range(20))
    live = worker(log, tmp_path)
    all_steps(live)
    with pytest.raises(LogError, match=re.escape(str(tmp_path / "log.db"))):
        fill_until_full(log, live)
    log.close()
    log = SqliteLog(tmp_path / "log.db", Sealer(KEY))
    again = worker(log, tmp_path)
    all_steps(again)
    events = decided(log)["event_id"].to_pylist()
    assert events == [f"e{n}" for n in range(len(events))]
    assert len(events) == log.end("payments", 0)


def test_a_log_that_forgets_faster_than_the_windows_is_refused(log: Log, tmp_path: Path) -> None:
    fill(log, range(10))
    log.create_topic("payments", retention_ms=3_600_000, sealed=True)
    with pytest.raises(PeltonError, match=r"topic 'payments' keeps 1h, and the app's windows need .* to be rebuilt"):
        worker(log, tmp_path)
