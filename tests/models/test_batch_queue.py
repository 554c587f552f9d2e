"""Threads in front of models: each gets its own results, in order; urgent ones go first; a full lane holds callers."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from models.batch_queue import BatchQueue

LEVELS = {"support": 0, "risk": 2}
WAIT_S = 20.0


@dataclass(frozen=True)
class Answers:
    """As models give them."""

    doubled: np.ndarray
    rung: str


class Model:
    """Doubles rows; notes the sizes of its batches; may be held by the test."""

    def __init__(self):
        self.sizes, self.began, self.may_go = [], threading.Semaphore(0), threading.Event()
        self.may_go.set()

    def score(self, rows):
        may_go = self.may_go
        self.sizes.append(len(rows))
        self.began.release()
        assert may_go.wait(WAIT_S)
        if (rows < 0).any():
            raise ValueError(f"row {int(np.flatnonzero(rows < 0)[0])} is negative")
        return Answers(rows * 2, "moe")

    def read(self, texts, top):
        return [text[:top] for text in texts]


class Clock:
    """Tells when a thread has come to the queue: it looks at the clock there, and lets go of the lock only to wait."""

    def __init__(self):
        self.came = threading.Event()

    def __call__(self):
        if threading.current_thread().name == "caller":
            self.came.set()
        return time.monotonic()


def beside(work):
    thread = threading.Thread(target=work, name="caller")
    thread.start()
    return thread


def test_results_are_those_of_the_rows_in_their_order_however_batches_are_cut():
    queue, model, rows = BatchQueue(LEVELS, threads=2), Model(), np.arange(5_000)
    found = queue.run("support", model.score, rows)
    np.testing.assert_array_equal(found.doubled, rows * 2)
    assert found.rung == "moe"
    assert len(model.sizes) > 1
    assert sum(model.sizes) == 5_000
    assert all(size & (size - 1) == 0 for size in model.sizes[:-1])  # powers of two, the rest in the last one
    assert queue.run("support", model.read, ["abc", "def"], 2) == ["ab", "de"]
    assert queue.run("risk", model.score, rows[:0]).doubled.size == 0
    assert queue.lengths == {"support": 0, "risk": 0}


def test_many_threads_each_get_their_own():
    queue, model, wrong = BatchQueue(LEVELS, threads=2), Model(), []

    def call(number):
        random = np.random.default_rng(number)
        for _ in range(50):
            rows = random.integers(0, 1_000, random.integers(1, 40))
            task = str(random.choice(list(LEVELS)))
            asked = queue.submit(task, model.score, rows, within_s=float(random.choice([0.0, 0.002])))
            here = queue.run(task, model.score, rows + 1)
            if not (asked.result(WAIT_S).doubled == 2 * rows).all() or not (here.doubled == 2 * rows + 2).all():
                wrong.append(number)

    threads = [beside(lambda number=number: call(number)) for number in range(6)]
    for thread in threads:
        thread.join()
    assert wrong == []
    assert queue.lengths == {"support": 0, "risk": 0}
    queue.close()


def test_requests_that_may_wait_share_a_batch_with_a_stream():
    told, model = [], Model()
    queue = BatchQueue(LEVELS, told=lambda *said: told.append(said))
    asked = [queue.submit("risk", model.score, np.array([row]), within_s=600.0) for row in (1, 2)]
    assert not any(each.done() for each in asked)
    assert queue.lengths["risk"] == 2
    assert queue.run("risk", model.score, np.array([3])).doubled.tolist() == [6]  # a stream wants it at once
    assert [each.result(WAIT_S).doubled.tolist() for each in asked] == [[2], [4]]
    assert model.sizes == [3]
    assert [(task, rows, len(waits)) for task, rows, waits in told] == [("risk", 3, 3)]
    queue.close()


def test_a_burst_lets_an_urgent_row_pass_between_two_batches():
    queue, support, risk = BatchQueue(LEVELS, threads=1), Model(), Model()
    support.may_go.clear()
    burst = beside(lambda: queue.run("support", support.score, np.arange(1_000)))
    assert support.began.acquire(timeout=WAIT_S)  # one thread, and it computes the burst's first rows
    asked = queue.submit("risk", risk.score, np.array([7]))
    assert not asked.done()
    before = list(support.sizes)
    gate, support.may_go = support.may_go, threading.Event()  # the next batch of the burst is held again
    gate.set()
    assert asked.result(WAIT_S).doubled.tolist() == [14]
    assert support.sizes[: len(before)] == before == [4]
    assert sum(support.sizes) < 1_000
    support.may_go.set()
    burst.join()
    queue.close()


def test_while_somebody_is_ahead_a_burst_pauses():
    clock, support = Clock(), Model()
    queue = BatchQueue(LEVELS, threads=2, timer_s=clock)
    with queue.ahead(2):
        burst = beside(lambda: queue.run("support", support.score, np.arange(8)))
        assert clock.came.wait(WAIT_S)
        queue.run("risk", Model().score, np.arange(8))
        assert support.sizes == []
        assert queue.lengths["support"] == 8
    burst.join()
    assert sum(support.sizes) == 8


def test_what_cannot_be_computed_fails_its_sender_alone():
    queue, model = BatchQueue(LEVELS, threads=1), Model()
    asked = [queue.submit("risk", model.score, np.array([row]), within_s=600.0) for row in (1, -1)]
    assert queue.run("risk", model.score, np.array([3])).doubled.tolist() == [6]
    assert asked[0].result(WAIT_S).doubled.tolist() == [2]
    with pytest.raises(ValueError, match="row 0 is negative"):
        asked[1].result(WAIT_S)
    with pytest.raises(ValueError, match="row 0 is negative"):
        queue.run("risk", model.score, np.array([-5]))
    queue.close()


def test_a_full_lane_holds_its_caller_until_there_is_room():
    held, clock, model = [], Clock(), Model()
    queue = BatchQueue(LEVELS, threads=1, rows_max=8, timer_s=clock, held=lambda *said: held.append(said))
    first = queue.submit("support", model.score, np.arange(3), within_s=600.0)
    second = []
    bringing = beside(lambda: second.append(queue.submit("support", model.score, np.arange(6))))
    assert clock.came.wait(WAIT_S)
    assert queue.lengths["support"] == 3
    assert second == []
    queue.run("support", model.score, np.arange(1))  # at once, and takes along what waits
    bringing.join(WAIT_S)
    assert first.result(WAIT_S).doubled.tolist() == [0, 2, 4]
    assert second[0].result(WAIT_S).doubled.tolist() == [0, 2, 4, 6, 8, 10]
    assert [task for task, _ in held] == ["support"]
    queue.close()


def test_a_closed_queue_answers_what_waits_and_takes_no_more_requests():
    queue, model = BatchQueue(LEVELS, threads=1), Model()
    asked = queue.submit("risk", model.score, np.arange(2), within_s=0.001)
    queue.close()
    assert asked.done()
    with pytest.raises(RuntimeError, match="the queue of the models is closed"):
        queue.submit("risk", model.score, np.arange(2))
    assert queue.run("risk", model.score, np.arange(2)).rung == "moe"  # streams end their last commit
