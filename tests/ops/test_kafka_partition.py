"""A partition that is taken over, rests and goes on, without the group around it."""

import threading
import time

import pytest

from connectors.kafka.log import KafkaLog
from connectors.kafka.messages import Messages
from connectors.kafka.settings import KafkaSettings
from ops.kafka.faust import MemberReading
from ops.kafka.partition import PartitionRun
from pipeline import App, Rule, Stream, Task
from pipeline.decisions import Served
from pipeline.live import Worker, create_topics, stages_of
from tests.kafka_broker import fresh

WAIT_S = 20.0


class Claims(KafkaLog):
    """A log that counts how often a partition was claimed."""

    claims = 0

    def claim_all(self, groups, partition, partitions=0):
        self.claims += 1
        return super().claim_all(groups, partition, partitions)


class OwnReads:
    """Nobody fetches: the log does it by itself."""

    def begin(self, places):
        pass

    def halt(self, places):
        pass

    def relieve(self, places):
        pass


class Rebuilding:
    """A partition whose state takes as long to rebuild as the test wants."""

    def __init__(self, log, folder):
        name = fresh("shop")
        payments = Stream(f"{name}_payments", id="event_id", time="ts", fields={"card": "string", "amount": "money"})
        rules = [Rule("large", "amount > 2", "review")]
        app = App(name, [Task("risk", payments, {"amount": payments.amount}, rules, model=None, learner=None)])
        create_topics(app, log, 1)
        (self.stage,) = stages_of(app, 1)
        self.began, self.may_end = threading.Event(), threading.Event()
        self.taken, self._app, self._log, self._folder = threading.Event(), app, log, folder
        self.run = PartitionRun(
            0, {self.stage.group: self._make}, [[self.stage.group]], log, 1, OwnReads(), lambda worker, step: None,
            lambda run, seconds: self.taken.set(), 60_000,
        )  # fmt: skip
        self.run.start()
        assert self.began.wait(WAIT_S)

    def _make(self, partition):
        self.began.set()
        assert self.may_end.wait(WAIT_S)
        return Worker(
            self._app, self.stage, self._log, self._folder, lambda task: Served(), lambda: 0, time.perf_counter
        )


@pytest.fixture
def log(kafka):
    with Claims(KafkaSettings.read(kafka, {})) as log:
        yield log


@pytest.fixture
def rebuilding(log, tmp_path):
    made = Rebuilding(log, tmp_path)
    yield made
    made.may_end.set()
    made.run.end()
    assert made.run.join(WAIT_S)


@pytest.mark.parametrize(("stale", "claims"), [(False, 1), (True, 2)])
def test_the_group_does_not_wait_for_state_that_is_being_rebuilt(log, rebuilding, stale, claims):
    # partition   claim  rebuild . . . . . . . . . . . decide
    # group                 rest . granted  go on          again from the claim on, if others had it in between
    rebuilding.run.rest()
    assert rebuilding.run.wait_until_resting(time.monotonic() + WAIT_S)
    rebuilding.run.go_on(stale=stale)
    rebuilding.may_end.set()
    assert rebuilding.taken.wait(WAIT_S)
    assert log.claims == claims


def test_a_rest_that_was_granted_while_rebuilding_lasts(log, rebuilding):
    rebuilding.run.rest()
    assert rebuilding.run.wait_until_resting(time.monotonic() + WAIT_S)
    rebuilding.may_end.set()
    assert rebuilding.taken.wait(WAIT_S)
    (stream,) = (each.topic for each in rebuilding.stage.inputs)
    log.append(stream, 0, [b'{"event_id": "e0", "ts": 0, "card": "c", "amount": 3}'], 0)
    assert rebuilding.run.wait_until_resting(time.monotonic() + WAIT_S)
    assert log.manifest(rebuilding.stage.group, 0) is None
    rebuilding.run.go_on(stale=False)
    until_s = time.monotonic() + WAIT_S
    while log.manifest(rebuilding.stage.group, 0) is None:
        assert time.monotonic() < until_s
        threading.Event().wait(0.02)


def test_a_feed_that_begins_after_its_partition_was_let_go_is_none(log):
    reading = MemberReading(log, lambda: None)
    place, nothing = ("payments", 0), Messages((), 5, 5)
    reading.begin({place: 5})
    reading.start_feed(*place, 5)  # as the member's thread does, some time later
    assert log.feed(*place, nothing)
    reading.begin({place: 5})
    reading.halt({place: 5})
    reading.start_feed(*place, 5)
    assert not log.feed(*place, nothing), "reads would be served by a feed that nobody fills"


def test_a_partition_that_went_elsewhere_while_it_was_rebuilt_is_not_told_as_joined(rebuilding):
    rebuilding.run.end()
    rebuilding.may_end.set()
    assert rebuilding.run.join(WAIT_S)
    assert not rebuilding.taken.is_set()
