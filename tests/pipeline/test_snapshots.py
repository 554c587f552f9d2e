"""A store of snapshots on good and bad days: decisions go on, and a restart finds the state all the same."""

import threading

import pytest

from connectors.memory_log import MemoryLog
from connectors.secrets import Sealer, Tokeniser
from pipeline.decisions import Served
from pipeline.engine import Engine
from pipeline.errors import PeltonError
from pipeline.live import Worker, create_topics
from pipeline.restoring import restored
from pipeline.snapshots import LAYERS_MAX, WRITE_S_MAX
from pipeline.state_store import StateStore, StateStoreError
from tests.pipeline.away import AwayFileSystem, ClientError
from tests.pipeline.test_live import APP, KEY, START_MS, all_steps, decided, fill

PLAN, EVERY_MS, STORE = APP.plans["payments"], 1_000, "away://bucket/state"


class Clock:
    """Goes on when it is told to."""

    def __init__(self):
        self.s = 0.0

    def now_ms(self):
        return START_MS + 10_000_000 + int(self.s * 1000)

    def timer_s(self):
        return self.s


@pytest.fixture
def away():
    AwayFileSystem.reset()
    yield AwayFileSystem
    AwayFileSystem.reset()


@pytest.fixture
def log():
    return MemoryLog(Sealer(KEY))


@pytest.fixture
def clock():
    return Clock()


def worker(log, clock, place=STORE):
    create_topics(APP, log)
    return Worker(
        APP, PLAN, log, place, lambda task: Served(), clock.now_ms, clock.timer_s, Tokeniser(KEY), Sealer(KEY)
    )


def written():
    """Wait for the threads that write snapshots."""
    for thread in threading.enumerate():
        if thread.name == "snapshot":
            thread.join(60)


def snapshot(live, clock):
    """Let a snapshot fall due, and be copied and written between batches."""
    clock.s += EVERY_MS / 1000
    assert live.save_if_due(EVERY_MS)
    for _ in range(10):
        assert not live.save_if_due(EVERY_MS)
        written()


def engine_from(log, store, wait_s=0.05, needed_ms=1_000):
    make = lambda: Engine(PLAN, Tokeniser(KEY))  # noqa: E731
    return restored(make, store, log, "bank.payments", 0, ["payments", "frauds"], needed_ms, wait_s)


def test_snapshots_are_written_between_batches_in_layers(away, log, clock):
    live = worker(log, clock)
    assert not live.save_if_due(0)  # nothing is committed
    for number in range(LAYERS_MAX + 2):
        fill(log, range(20 * number, 20 * number + 20))
        all_steps(live)
        snapshot(live, clock)
        assert live.snapshots.saved_commit == live.commit
        again = worker(log, clock)
        assert (again.commit, again.replayed) == (live.commit, 0)
        assert 1 <= live.store.layers <= LAYERS_MAX
    assert live.snapshots.written == LAYERS_MAX + 2
    clock.s += 10
    assert not live.save_if_due(EVERY_MS)  # nothing is new
    fill(log, range(20 * (LAYERS_MAX + 2), 400))
    all_steps(again)
    assert decided(log)["event_id"].to_pylist() == [f"e{n}" for n in range(400)]


@pytest.mark.parametrize(("cost_s", "rest_s"), [(0.05, 1), (2, 20), (30, 60)])
def test_snapshots_that_are_much_work_come_less_often_but_every_minute(away, log, clock, cost_s, rest_s):
    live = worker(log, clock)
    fill(log, range(50))
    all_steps(live)
    clock.s += 1
    assert live.save_if_due(EVERY_MS)
    away.answers.clear()
    assert not live.save_if_due(EVERY_MS)  # copied: a thread writes it, to a store that takes its time
    clock.s += cost_s
    away.answers.set()
    written()
    assert not live.save_if_due(EVERY_MS)
    fill(log, range(50, 100))
    all_steps(live)
    clock.s += rest_s - cost_s - 0.01  # since the last one began
    assert not live.save_if_due(EVERY_MS)
    clock.s += 0.02
    assert live.save_if_due(EVERY_MS)


def test_a_snapshot_is_of_the_commit_at_which_it_began(away, log, clock):
    live = worker(log, clock)
    fill(log, range(50))
    all_steps(live)
    clock.s += 1
    assert live.save_if_due(EVERY_MS)
    fill(log, range(50, 100))
    all_steps(live)
    snapshot_of = live.commit - 1
    for _ in range(10):
        live.save_if_due(EVERY_MS)
        written()
    assert live.snapshots.saved_commit == snapshot_of
    assert worker(log, clock).replayed == 100  # payments and labels


@pytest.mark.parametrize("error", [OSError("no route to host"), ClientError("ExpiredToken"), TimeoutError("30 s")])
def test_a_store_that_is_away_is_told_and_tried_again(away, log, clock, error):
    live = worker(log, clock)
    fill(log, range(50))
    all_steps(live)
    away.error = error
    snapshot(live, clock)
    assert live.problem == (
        f"no snapshot could be written: {STORE}/bank.payments/0: {type(error).__name__}: {error}; "
        "it is tried again, and a restart replays the log from the one before"
    )
    fill(log, range(50, 100))
    all_steps(live)
    with pytest.raises(StateStoreError, match=str(error)):
        live.save()
    away.error = None
    snapshot(live, clock)
    assert live.problem is None
    assert worker(log, clock).replayed == 0
    assert len(decided(log)) == 100


def test_a_store_that_hangs_stops_nothing(away, log, clock):
    live = worker(log, clock)
    fill(log, range(50))
    all_steps(live)
    away.answers.clear()
    clock.s += 1
    assert live.save_if_due(EVERY_MS)
    for _ in range(5):
        live.save_if_due(EVERY_MS)
    assert live.problem is None
    clock.s += WRITE_S_MAX + 1
    assert not live.save_if_due(EVERY_MS)
    assert "takes no snapshot: no answer for 300 s" in live.problem
    fill(log, range(50, 100))
    all_steps(live)
    assert len(decided(log)) == 100
    away.answers.set()
    written()
    assert not live.save_if_due(EVERY_MS)
    assert live.problem is None
    assert live.snapshots.written == 1


def test_a_commit_that_fails_drops_the_copy_in_progress(away, log, clock):
    live = worker(log, clock)
    fill(log, range(50))
    all_steps(live)
    clock.s += 1
    assert live.save_if_due(EVERY_MS)
    live.recover()
    fill(log, range(50, 100))
    all_steps(live)
    snapshot(live, clock)
    assert worker(log, clock).replayed == 0


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_store_that_cannot_be_reached_is_waited_for_then_the_log_replayed(away, log, clock, how):
    live = worker(log, clock)
    fill(log, range(50))
    all_steps(live)
    live.save()
    store = StateStore.of(STORE, "bank.payments", 0)
    if how == "fails":
        away.error = ClientError("AccessDenied")
    else:
        away.answers.clear()
    engine, saved, problem = engine_from(log, store)
    away.answers.set()
    assert saved is None
    assert engine.groups[0].statistics()["keys"] == 0
    why = {"fails": "ClientError: AccessDenied", "hangs": "no answer for 0.05 s"}[how]
    assert problem == f"no snapshot could be read, so the log was replayed: {STORE}/bank.payments/0: {why}"


def test_a_store_that_comes_back_in_time_is_used(away, log, clock):
    live = worker(log, clock)
    fill(log, range(50))
    all_steps(live)
    live.save()
    away.answers.clear()
    threading.Timer(0.1, away.answers.set).start()
    _, saved, problem = engine_from(log, StateStore.of(STORE, "bank.payments", 0), wait_s=30)
    assert (saved.commit, problem) == (live.commit, None)


def test_a_log_too_short_to_do_without_snapshots_is_refused(away, log, clock):
    live = worker(log, clock)
    fill(log, range(100))
    all_steps(live)
    live.save()
    log.create_topic("payments", 1, sealed=True, retention_ms=30_000)
    log.enforce_retention(START_MS + 101_000)
    assert log.begin("payments", 0) > 0
    away.error = ClientError("AccessDenied")
    store = StateStore.of(STORE, "bank.payments", 0)
    with pytest.raises(PeltonError, match=r"no snapshot can be read .*, and the log is too short to do without: topic "
                       r"'payments' begins .* before the last decision, and the windows need 100d"):  # fmt: skip
        engine_from(log, store, needed_ms=100 * 86_400_000)


def test_a_snapshot_of_another_log_is_not_taken(away, log, clock):
    first = worker(log, clock)
    for number in range(5):
        fill(log, range(10 * number, 10 * number + 10))
        all_steps(first)
    first.save()
    other = MemoryLog(Sealer(KEY))
    second = worker(other, clock)
    for number in range(5):
        fill(other, range(7 * number, 7 * number + 7))
        all_steps(second)
    assert second.commit >= first.commit
    assert worker(other, clock).replayed > 0
    assert worker(log, clock).replayed == 0
