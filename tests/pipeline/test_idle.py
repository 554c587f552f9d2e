"""Idle partitions hold back neither time nor expiry nor labels; dead owners do; one bad clock moves nothing."""

from dataclasses import replace

import pytest

from pipeline import App, Stream, Task
from pipeline.beacon import FLOOR_EVERY_MS, IDLE_AFTER_MS
from pipeline.manifest import decode
from tests.pipeline.several import START_MS, Site

CARDS = [f"c{n}" for n in range(40)]


def bank() -> App:
    payments = Stream("payments", id="id", time="ts", lateness="1s", key="card",
                      fields={"card": "string", "shop": "string"})  # fmt: skip
    frauds = Stream("frauds", id="id", time="known", fields={"fraud": "bool"})
    shop = payments.by("shop").last("10s")
    features = {"cards": payments.by("card").last("10s").count(), "shops": shop.count(),
                "frauds": payments.by("shop").last("1h").count(frauds.fraud)}  # fmt: skip
    return App("bank", [Task("t", on=payments, features=features, model=None, learner=None)])


@pytest.fixture
def site(tmp_path):
    return Site(bank(), 3, tmp_path)


def pay(site: Site, at_ms: int, cards: list[str], shop: str = "s") -> None:
    records = [{"id": f"{card}-{at_ms}", "ts": START_MS + at_ms, "card": card, "shop": shop} for card in cards]
    site.append("payments", records, "card", START_MS + at_ms)


def one_partition(site: Site) -> list[str]:
    """Return cards of one entrance partition only."""
    import pyarrow as pa

    from connectors.partitions import partitions_of

    return [card for card, p in zip(CARDS, partitions_of(pa.array(CARDS), site.partitions), strict=True) if p == 0]


def floor_ms(site: Site, group: str = "bank.payments.shop") -> set[int]:
    return {site.workers[group, p].engine.floor_ms - START_MS for p in range(3)}


def test_time_goes_on_while_other_partitions_are_idle(site):
    pay(site, 0, CARDS)
    site.drain()
    for at_ms in range(1_000, 60_000, 1_000):
        pay(site, at_ms, one_partition(site))
        site.drain()
    assert floor_ms(site) == {59_000 - 1_000}
    groups = [site.workers["bank.payments.shop", p].engine.groups[0] for p in range(3)]
    assert sum(group.statistics()["keys"] for group in groups) == 1
    assert site.decided().num_rows == len(CARDS) + 59 * len(one_partition(site))


def test_state_expires_in_partitions_that_get_no_events_themselves(site):
    pay(site, 0, CARDS, shop="a")
    pay(site, 0, CARDS, shop="b")
    site.drain()
    for at_ms in range(1_000, 60_000, 1_000):
        pay(site, at_ms, one_partition(site), shop="a")
        site.drain()
    groups = [site.workers["bank.payments.shop", p].engine.groups[0] for p in range(3)]
    assert sum(group.statistics()["keys"] for group in groups) == 1


def test_a_label_counts_although_the_event_partition_is_idle(site):
    pay(site, 0, CARDS)
    site.drain()
    site.append("frauds", [{"id": "c1-0", "known": START_MS + 2_000, "fraud": True}], "id")
    site.drain()
    pay(site, 3_000, CARDS[:1])
    site.drain()
    assert site.decided().sort_by("time_ms")["frauds"].to_pylist()[-1] == 1.0


def test_an_owner_that_is_dead_holds_the_floor(site):
    pay(site, 0, CARDS)
    site.drain()
    dead = {key: site.workers.pop(key) for key in list(site.workers) if key == ("bank.payments", 1)}
    pay(site, 500, CARDS)  # nobody takes those of partition 1, and its last word was that it is idle
    site.drain()
    assert floor_ms(site) == {-500}
    site.workers |= dead
    site.drain()
    pay(site, 1_000, CARDS)
    for key in list(site.workers):  # taken by all, then one dies before it could say more
        site.workers[key].step()
    dead = {key: site.workers.pop(key) for key in list(site.workers) if key == ("bank.payments", 1)}
    for at_ms in range(2_000, 30_000, 1_000):
        pay(site, at_ms, one_partition(site))
        site.drain()
    assert floor_ms(site) == {0}
    site.workers |= dead
    site.drain()
    assert floor_ms(site) == {28_000}


def test_one_bad_clock_moves_no_time(site):
    pay(site, 0, CARDS)
    site.append("payments", [{"id": "bad", "ts": START_MS + 10**9, "card": "c1", "shop": "s"}], "card", START_MS)
    site.drain()
    assert floor_ms(site) == {-1_000}
    futures = sum(site.workers["bank.payments", p].ledgers["payments"].future for p in range(3))
    assert (futures, site.decided().num_rows) == (1, len(CARDS))


@pytest.mark.parametrize("are_claimed", [True, False])
def test_a_producer_whose_clock_is_ahead_cannot_make_its_own_events_due(site, are_claimed):
    """In topics that stamp what producers say; the clock of a log is trusted, also by a worker that is behind it."""
    read = site.log.read
    site.log.read = lambda *where: replace(read(*where), are_claimed=are_claimed)
    pay(site, 0, CARDS)
    ahead_ms = START_MS + 10**9
    site.append("payments", [{"id": "bad", "ts": ahead_ms, "card": "c1", "shop": "s"}], "card", ahead_ms)
    site.now_ms = START_MS + 100
    site.drain()
    workers = [site.workers["bank.payments", p] for p in range(3)]
    assert sum(worker.ledgers["payments"].future for worker in workers) == are_claimed
    floor = {-1_000 if are_claimed else 10**9 - 1_000}
    assert floor_ms(site) == floor
    site.now_ms = ahead_ms
    for worker in workers:  # the log is read again, later: as of then
        worker.recover()
    pay(site, 200, CARDS)
    site.drain()
    assert sum(worker.ledgers["payments"].future for worker in workers) == are_claimed
    assert floor_ms(site) == ({-800} if are_claimed else floor)


def test_an_idle_worker_says_so_once(site):
    pay(site, 0, CARDS)
    site.drain()
    commits = {key: worker.commit for key, worker in site.workers.items()}
    site.now_ms += 100 * IDLE_AFTER_MS
    site.drain()
    assert {key: worker.commit for key, worker in site.workers.items()} == commits
    assert all(decode(site.log.manifest("bank.payments", p)[1]).idle for p in range(3))


def test_a_partition_without_events_is_told_the_floor_once_in_a_while(site):
    for step in range(100):
        pay(site, step * 100, one_partition(site))
        site.now_ms += 100
        site.workers["bank.payments", 0].step()
    (output,) = [each for each in site.stages[0].outputs if each.topic == "bank.payments.shop"]
    from_0 = [rows for p in range(3) for _, rows in site.log.read_rows(output.topic, p, 0, 10**6)]
    markers = [rows for rows in from_0 if "#marker" in rows.schema.names]
    assert len(markers) == pytest.approx(2 * 100 * 100 / FLOOR_EVERY_MS, abs=2)  # two of three get no events
