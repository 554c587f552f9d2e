"""Stages on Kafka: the same workers, the same log protocol, a real broker."""

import random

from connectors.secrets import Sealer
from pipeline import App, Stream, Task
from pipeline.stages import stages_of
from tests.pipeline.several import KEY, START_MS, Site
from tests.pipeline.test_stages import check


def test_stages_are_those_of_the_oracle_on_kafka(kafka, tmp_path):
    from connectors.kafka.log import KafkaLog  # brings a Kafka client
    from connectors.kafka.settings import KafkaSettings
    from tests.kafka_broker import fresh

    class KeepsManifests(KafkaLog):
        def forget_manifests(self, *which):
            return 0

    name = fresh("_")
    payments = Stream("payments" + name, id="id", time="ts", lateness="1s", key="card",
                      fields={"card": "card", "shop": "string?", "amount": "money"})  # fmt: skip
    frauds = Stream("frauds" + name, id="id", time="known", fields={"fraud": "bool"})
    features = {"n": payments.by("card").last("1m").count(), "spent": payments.by("shop").last("1m").mean("amount"),
                "of_card": payments.by("card").last("1h").sum(frauds.fraud),
                "of_shop": payments.by("shop").last("1h").rate(frauds.fraud)}  # fmt: skip
    app = App("app" + name, [Task("t", on=payments, features=features, model=None, learner=None)])
    draw = random.Random(3)
    with KeepsManifests(KafkaSettings((kafka,)), Sealer(KEY)) as log:
        site = Site(app, 2, tmp_path, log)
        for first in range(0, 120, 20):
            made = [
                {"id": f"e{n}", "ts": START_MS + 100 * n, "card": f"c{n % 7}", "shop": f"s{n % 3}", "amount": n % 11}
                for n in range(first, first + 20)
            ]
            told = [{"id": f"e{n}", "known": START_MS + 100 * n, "fraud": n % 5 == 0} for n in range(first - 20, first)]
            site.append(payments.name, [*made, *made[:2]], "card")
            site.append(frauds.name, told, "id")
            for _ in range(10):
                site.disturb(draw)
        site.drain()
        assert len(stages_of(app, 2)) == 3
        assert check(site) > 0
        assert len(site.decided()) == 120
        assert sorted(site.decided()["event_id"].to_pylist()) == sorted(f"e{n}" for n in range(120))
        assert sum((value or 0) > 0 for value in site.decided()["of_card"].to_pylist()) > 0
        assert site.kills > 3
