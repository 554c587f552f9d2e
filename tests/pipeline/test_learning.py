"""The learner on several partitions: what it learned does not depend on when it read."""

import random
from contextlib import closing

import numpy as np
import pytest

from models.bundle import BundleMeta, write_bundle
from models.calibration import Blend, Line
from models.ftrl import Ftrl, FtrlSettings
from models.learner import LearnerSettings
from models.registry import Registry
from models.scorer import bundle_parts
from pipeline import App, Fixed, Stream, Task
from pipeline.learning import SETTLE_MS, LearnerLoop
from pipeline.topics import decisions_topic
from tests.pipeline.several import START_MS, Site


def bank() -> App:
    payments = Stream("payments", id="id", time="ts", lateness="5s", key="card",
                      fields={"card": "string", "shop": "string", "amount": "money"})  # fmt: skip
    frauds = Stream("frauds", id="id", time="known", fields={"is_fraud": "bool"})
    features = {"amount": payments.amount, "spent": payments.by("shop").last("1h").sum("amount"),
                "shop_rate": payments.by("shop").last("1d").rate(frauds.is_fraud)}  # fmt: skip
    return App("bank", [Task("fraud", on=payments, label=frauds.is_fraud, model=None, threshold=Fixed(0.5, 0.9),
                             features=features)])  # fmt: skip


@pytest.fixture
def registry(tmp_path):
    app = bank()
    plan = app.plans["payments"]
    specs = tuple(plan.specs[column] for column in plan.columns_of["fraud"])
    learner = Ftrl(specs, FtrlSettings(moe=False))
    blend = Blend(("ftrl",), {"ftrl": Line(-2.0, (1.0,))})
    parts = bundle_parts(specs, blend, np.zeros(3), None, learner.snapshot())
    write_bundle(tmp_path / "first", parts, BundleMeta("first", "fraud", 0))
    with closing(Registry.open(None, tmp_path / "registry")) as opened:
        opened.promote("fraud", opened.add_bundle("fraud", tmp_path / "first", "test", 0), "test", 0)
        yield opened


def learner_of(site: Site, registry: Registry, **more) -> LearnerLoop:
    return LearnerLoop(site.app, site.app.task(), site.log, registry, publish_every=10**9, **more)


def live(site: Site, learner: LearnerLoop, seed: int, every: int = 1) -> None:
    """Payments and labels come in while workers and learner step in any order."""
    draw = random.Random(seed)
    for first in range(0, 600, 10):
        at_ms = START_MS + 1_000 * first
        site.now_ms = max(site.now_ms, at_ms)
        payments = [{"id": f"e{n}", "ts": at_ms + n, "card": f"c{n % 17}", "shop": f"s{n % 5}", "amount": n * 37 % 97}
                    for n in range(first, first + 10)]  # fmt: skip
        site.append("payments", payments, "card", site.now_ms)
        labels = [{"id": f"e{n}", "known": at_ms, "is_fraud": n * 37 % 97 > 60} for n in range(first - 30, first - 20)
                  if n % every == 0]  # fmt: skip
        site.append("frauds", labels if first >= 30 else [], "id", site.now_ms)
        for worker in draw.sample(list(site.workers.values()), len(site.workers)) * 3:  # decided before its label comes
            worker.step()
            site.now_ms += draw.choice((1, 20, 400))
            if draw.random() < 0.1:
                learner.step(site.now_ms)
    site.drain()


def learned(site: Site, learner: LearnerLoop) -> bytes:
    while learner.step(site.now_ms + 2 * SETTLE_MS):
        pass
    assert learner._learner is not None
    return learner._learner.model.snapshot()


def test_a_learner_that_starts_anew_learns_the_same_from_several_partitions(tmp_path, registry):
    site = Site(bank(), 3, tmp_path / "state")
    beside = learner_of(site, registry)
    live(site, beside, seed=4)
    snapshot = learned(site, beside)
    assert beside.status.counts["joined"] == 570
    assert {site.log.end(decisions_topic("bank"), p) > 0 for p in range(3)} == {True}
    again = learner_of(site, registry)
    assert learned(site, again) == snapshot
    assert again.status.counts["joined"] == 570


def test_labels_wait_until_every_partition_can_have_them(tmp_path, registry):
    site = Site(bank(), 3, tmp_path / "state")
    learner = learner_of(site, registry)
    site.append("payments", [{"id": "e1", "ts": START_MS, "card": "c", "shop": "s", "amount": 1}], "card")
    site.append("frauds", [{"id": "e1", "known": START_MS, "is_fraud": True}], "id")
    appended_ms = site.now_ms
    site.drain()
    learner.step(appended_ms + SETTLE_MS - 1)
    assert learner.status.counts["joined"] == 0
    learner.step(appended_ms + SETTLE_MS)
    assert learner.status.counts["joined"] == 1


@pytest.mark.parametrize("partitions", [1, 3])
def test_labels_of_the_history_keep_to_the_decisions_that_were_there(tmp_path, registry, partitions):
    """They neither run ahead, nor wait until their events are forgotten, though only one event in four gets one."""
    site = Site(bank(), partitions, tmp_path / "state")
    few = LearnerSettings(events_max=200)
    beside = learner_of(site, registry, settings=few)
    live(site, beside, seed=4, every=4)
    snapshot = learned(site, beside)
    assert beside.status.counts["joined"] == 143  # of 570 events
    again = learner_of(site, registry, settings=few, rows_max=20)
    bits = learned(site, again)
    assert again.status.counts == beside.status.counts
    assert bits == snapshot
