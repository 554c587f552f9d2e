"""Two workers on Kafka, one registry: one learns from late labels and all serve it; what is promoted serves soon."""

import json
import os
import re
import subprocess
import time
import zlib

import numpy as np
import pyarrow as pa
import pytest

from connectors.columns import hash_column
from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from models.bundle import BundleMeta, write_bundle
from models.calibration import Blend, Line
from models.ftrl import Ftrl, FtrlSettings
from models.learner import OnlineLearner
from models.registry import Registry
from models.scorer import FTRL, bundle_parts
from pipeline.live import create_topics, stages_of
from pipeline.loading import load_app
from pipeline.manifest import decode
from pipeline.topics import decisions_topic, rows_of
from tests.chaos.kafka_site import PELTON, Workers
from tests.kafka_broker import fresh

PARTITIONS, SHOPS, START_MS = 2, 14, 1_767_571_200_000
SESSION_S, WAIT_S_MAX = 6.0, 60.0
FEATURES = ("amount", "spent")
APP = """
from pipeline import App, Fixed, Stream, Task
payments = Stream("{payments}", id="id", time="ts", lateness="5s", fields={{"shop": "string", "amount": "money"}})
frauds = Stream("{frauds}", id="id", time="known", fields={{"is_fraud": "bool"}})
fraud = Task("fraud", on=payments, label=frauds.is_fraud, model=None, threshold=Fixed(0.5, 0.9), features={{
    "amount": payments.amount, "spent": payments.by("shop").last("1h").sum("amount")}})
app = App("{app}", tasks=[fraud])
"""


def is_fraud(number):
    """Whether a payment was: most large ones, and few others. Were it certain, a learner's logits would never rest."""
    return zlib.crc32(b"%d" % number) % 100 < (80 if number % 5 == 4 else 10)


class Bank:
    """An app in a file with topics of its own, a registry with two bundles of which the first serves, and workers.

    Attributes:
        bundles: ids of the two.
        paid, labelled: how many payments were sent, and labels.
    """

    def __init__(self, folder, address):
        self.name, self.payments, self.frauds = fresh("bank"), fresh("payments"), fresh("frauds")
        (folder / "app.py").write_text(APP.format(payments=self.payments, frauds=self.frauds, app=self.name))
        self.app = load_app(str(folder / "app.py"))
        self.log = KafkaLog(KafkaSettings.read(address, {}), rows=rows_of(self.app))
        create_topics(self.app, self.log, PARTITIONS)
        self.group = next(stage.group for stage in stages_of(self.app, PARTITIONS) if stage.decides)
        self.registry = Registry.open(None, folder / "data" / "registry")
        self.bundles = [self._bundle(folder / name, name, line) for name, line in (("first", -2.0), ("second", -1.0))]
        self.registry.promote("fraud", self.bundles[0], "test", 0)
        self.workers = Workers(folder, address, SESSION_S, print)
        self.paid = self.labelled = 0
        self.rows = {partition: [] for partition in range(PARTITIONS)}
        self._decisions_at = dict.fromkeys(self.rows, 0)
        self._told = dict.fromkeys(self.rows, 0)

    def _bundle(self, folder, name, intercept):
        plan = self.app.plans[self.payments]
        specs = tuple(plan.specs[column] for column in plan.columns_of["fraud"])
        blend = Blend(("ftrl",), {"ftrl": Line(intercept, (1.0,))})
        numbers = np.arange(4_000)  # like those that will come: an hour of payments, one a second
        seen = np.column_stack([numbers % 5, 2.0 * np.minimum(numbers, 3_600) / SHOPS])
        parts = bundle_parts(
            specs, blend, np.zeros(2), None, Ftrl.fitted(specs, seen, None, FtrlSettings(moe=False)).snapshot()
        )
        write_bundle(folder, parts, BundleMeta(name, "fraud", 0))
        return self.registry.add_bundle("fraud", folder, "test", 0)

    def close(self):
        self.workers.close()
        self.registry.close()
        self.log.close()

    def pay(self, count):
        """Send payments, a shop's always to the same partition, and read what was decided."""
        for partition in range(PARTITIONS):
            lines = [b'{"id":"p%d","ts":%d,"shop":"s%d","amount":%d}' % (i, START_MS + 1000 * i, i % SHOPS, i % 5)
                     for i in range(self.paid, self.paid + count) if i % PARTITIONS == partition]  # fmt: skip
            self.log.append(self.payments, partition, lines, 0)
        self.paid += count
        self.log.wait({(decisions_topic(self.name), p): at for p, at in self._decisions_at.items()}, 0.3)
        for partition, rows in self.rows.items():
            at = self._decisions_at[partition]
            for first, found in self.log.read_rows(decisions_topic(self.name), partition, at, 10_000):
                self._decisions_at[partition] = first + found.num_rows
                rows += found.to_pylist()

    def label(self):
        """Tell of what was decided since the last time whether it was fraud, each known half a second after it."""
        for partition, rows in self.rows.items():
            ids = [row["event_id"] for row in rows[self._told[partition] :]]
            self._told[partition], self.labelled = len(rows), self.labelled + len(ids)
            for to in range(PARTITIONS):
                lines = [
                    json.dumps({"id": id, "known": START_MS + 1000 * number + 500, "is_fraud": is_fraud(number)})
                    for id, number in ((id, int(id[1:])) for id in ids) if number % 3 % PARTITIONS == to
                ]  # fmt: skip
                if lines:
                    self.log.append(self.frauds, to, [line.encode() for line in lines], 0)

    def go_on_until(self, holds, count=40, label=False):
        """Let payments come, and labels of those that are decided, until something holds."""
        until_s = time.monotonic() + WAIT_S_MAX
        while not (found := holds()):
            assert time.monotonic() < until_s, self.workers.words()
            self.workers.check()
            self.pay(count)
            if label:
                self.label()
        return found

    def owners(self):
        """Return partition -> worker as they say; None while it is not one partition for each that runs."""
        found = {}
        for number in self.workers.running:
            lines = re.findall(r"partition (\d) (joined|left)", self.workers.said(number))
            found |= {int(partition): number for partition, what in dict(lines).items() if what == "joined"}
        return found if len(found) == PARTITIONS and set(found.values()) == set(self.workers.running) else None

    def manifests(self, partition):
        return [decode(payload) for _, payload in self.log.manifests(self.group, partition, 0)]

    def serves(self, partition):
        """Return bundle and snapshot of a partition's last commit."""
        newest = self.log.manifest(self.group, partition)
        return (decode(newest[1]).bundles["fraud"], decode(newest[1]).snapshots["fraud"]) if newest else ("", "")

    def served_in_turn(self, partition):
        """Return bundles and snapshots in the order in which a partition's commits served them.

        Each decision must name what its commit did: so a change falls between two batches.
        """
        named = {row["source_offset"]: (row["bundle"], row["snapshot"] or "") for row in self.rows[partition]}
        turns = [("", "")]
        for manifest in self.manifests(partition):
            served = manifest.bundles["fraud"], manifest.snapshots["fraud"]
            first, end = manifest.inputs[self.payments]
            assert {named[offset] for offset in range(first, end) if offset in named} <= {served}  # gaps: transactions
            turns += [served] if turns[-1] != served else []
        return turns[1:]


@pytest.fixture
def bank(kafka, tmp_path):
    bank = Bank(tmp_path, kafka)
    yield bank
    bank.close()


def learned_offline(bank, count):
    """Return what a learner knows after `count` labels: all decisions first, then label by label in order."""
    learner = OnlineLearner(Ftrl.restore(bank.registry.live("fraud").bundle.part(FTRL)), len(FEATURES))
    for rows in bank.rows.values():
        features = np.array([[row[name] for name in FEATURES] for row in rows])
        logits = np.array([np.nan if row["moe_logit"] is None else row["moe_logit"] for row in rows])
        learner.serve(hashed([row["event_id"] for row in rows]), features, logits, np.array([r["score"] for r in rows]))
    labels = []
    for partition in range(PARTITIONS):
        records = bank.log.read(bank.frauds, partition, 0, 1 << 20)
        for at_ms, offset, value in zip(records.append_ms, records.offsets, records.values.to_pylist(), strict=True):
            labels.append((at_ms, partition, offset, json.loads(value)))
    assert len(labels) == bank.labelled
    for *_, label in sorted(labels, key=lambda each: each[:3]):
        if learner.model.learned == count:
            break
        learner.label(hashed([label["id"]]), np.array([float(label["is_fraud"])]))
    return learner.model


def hashed(ids):
    return hash_column(pa.array(ids)).view(np.int64)


def snapshots_of(bank):
    return [each.id for each in bank.registry.versions("fraud") if each.kind == "snapshot"]


def test_one_worker_learns_all_serve_it_and_another_goes_on_when_it_is_killed(bank):
    for _ in range(PARTITIONS):
        bank.workers.start()
    owners = bank.go_on_until(bank.owners)
    first = bank.go_on_until(lambda: bank.serves(1)[1], 200, label=True)
    assert bank.owners() == owners
    assert first in snapshots_of(bank)
    bank.workers.kill(owners[0])
    bank.go_on_until(lambda: bank.owners() == {0: owners[1], 1: owners[1]}, label=True)
    again = bank.go_on_until(
        lambda: all(bank.serves(p)[1] not in ("", first) for p in range(PARTITIONS)) and bank.serves(0)[1],
        200, label=True,
    )  # fmt: skip
    published = snapshots_of(bank)
    assert published.index(first) < published.index(again)
    bank.go_on_until(lambda: sum(map(len, bank.rows.values())) == bank.paid, 0)
    for partition, rows in bank.rows.items():
        assert len({row["event_id"] for row in rows}) == len(rows)
        bundle, snapshots = zip(*bank.served_in_turn(partition), strict=True)
        assert set(bundle) == {bank.bundles[0]}
        assert list(snapshots) == [each for each in ["", *published] if each in snapshots]
        assert {"", first, again} <= set(snapshots)
    bank.workers.leave(owners[1])
    for id in snapshots_of(bank):  # no label twice or lost by the two learners: the same bits as one that never ended
        bank.registry.promote("fraud", id, "test", 0)
        live = Ftrl.restore(bank.registry.live("fraud").snapshot)
        assert live.learned > 1_000
        assert learned_offline(bank, live.learned).snapshot() == live.snapshot()


def test_what_a_person_promotes_or_rolls_back_serves_on_all_workers_within_two_seconds(bank, tmp_path):
    for _ in range(PARTITIONS):
        bank.workers.start()
    bank.go_on_until(bank.owners)
    first, second = bank.bundles
    for line, expected in ((f"promote fraud {second}", second), ("rollback fraud", first)):
        environment = os.environ | {"PELTON_DATA": str(tmp_path / "data")}
        subprocess.run([PELTON, "models", *line.split()], env=environment, check=True, timeout=60)
        began_s = time.monotonic()
        bank.go_on_until(lambda now=expected: {bank.serves(p)[0] for p in range(PARTITIONS)} == {now}, 6)
        took_s = time.monotonic() - began_s
        print(f"{line.split()[0]}: {took_s:.2f} s")
        assert took_s < 2.0
    bank.go_on_until(lambda: sum(map(len, bank.rows.values())) == bank.paid, 0)
    for partition in range(PARTITIONS):
        assert bank.served_in_turn(partition) == [(first, ""), (second, ""), (first, "")]
