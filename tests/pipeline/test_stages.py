"""Several keys on several partitions: stages are exact, whatever order they run in and however often they die."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.secrets import Sealer, Tokeniser
from connectors.sqlite_log import SqliteLog
from pipeline import App, Task
from pipeline.as_served import commits_as_served
from pipeline.dead_letters import dead_topic
from pipeline.engine import Engine
from pipeline.errors import PeltonError
from pipeline.stages import CARRIED, FACTS, LINES, ROWS, Stage, stages_of
from pipeline.topics import count_partitions
from pipeline.verify import verify
from tests.pipeline.made_up import Shape, made_up_features, made_up_records, same_bits, world_of
from tests.pipeline.several import KEY, GappyLog, KeepsManifests, Site, entrance_lines, matrix_of

seeds = st.integers(0, 1_000_000)
TOPIC_KEYS = {
    "payments": ("card", "terminal", "known", "event_id", None), "logins": ("card", "login_id", "place", None),
    "frauds": ("event_id", "card", None),
}  # fmt: skip


def made_up_app(seed: int, lateness_ms: int, known_after: str | None, features: int = 10) -> App:
    """Return an app with topics keyed in any way, and cards that may be sensitive."""
    draw = random.Random(seed)
    keys = {name: key for name, some in TOPIC_KEYS.items() if (key := draw.choice(some)) is not None}
    world = world_of(lateness_ms, known_after, keys, draw.choice(("string", "card")))
    task = Task("t", on=world.payments, features=made_up_features(seed, world, features), model=None, learner=None)
    return App("made_up", tasks=[task])


def run(site: Site, seed: int, events: int, lateness_ms: int) -> None:
    """Send made-up records in pieces while workers step and die, then let all of it come to rest."""
    draw = random.Random(seed)
    shape = Shape(seed, events, 20, lateness_ms, copies=0.05, keys=6, jumps=0.01, natural=draw.random() < 0.5)
    streams = {each.topic: each.stream for stage in site.stages for each in stage.inputs if each.kind == LINES}
    records = {name: rows for name, rows in made_up_records(shape).items() if name in streams}
    places = dict.fromkeys(records, 0)
    while open_streams := [name for name in records if places[name] < len(records[name])]:
        name = draw.choice(open_streams)
        count = draw.choice((1, 3, 20))
        some = records[name][places[name] : places[name] + count]
        places[name] += count
        key = streams[name].entry_key
        site.append(name, some, key, max(each[streams[name].schema.time] for each in some))
        for _ in range(draw.choice((0, 1, 3, 10))):
            site.disturb(draw)
    site.drain()


def check(site: Site) -> int:
    """Check every stage and partition; return how many values the oracle compared."""
    compared = 0
    for stage in site.stages:
        for partition in range(site.partitions):
            commits = site.replayed(stage, partition)
            found = verify(stage, commits, sample=10_000, tokeniser=Tokeniser(KEY))
            assert found.holds, f"{stage.group} {partition}:\n" + "\n".join(map(str, found.first))
            compared += found.values_checked
            if stage.decides or any(output.kind != FACTS for output in stage.outputs):
                served = verify(
                    stage, commits_as_served(site.app, stage, site.log, partition), 10_000, 0, Tokeniser(KEY)
                )
                assert served == found, f"{stage.group} {partition}:\n" + "\n".join(map(str, served.first))
            check_outputs(site, stage, partition, commits)
            check_ledger(site, stage, partition)
    return compared


def check_outputs(site: Site, stage: Stage, partition: int, commits: list) -> None:
    """What a worker that died at will passed on and decided is what an undisturbed one does."""
    offsets = np.concatenate([np.zeros(0, np.int64), *(each.offsets for _, each in commits)])
    for output in stage.outputs:
        passed = site.passed_on(output, partition)
        if output.kind == FACTS:
            told = [each.told for _, each in commits if each.told is not None]
            place = stage.fact_keys.index(output.key)
            keys = np.concatenate([np.zeros(0, np.uint64), *(each.keys[:, place] for each in told)])
            assert len(passed) == (keys != 0).sum()
            continue
        assert (passed["#offset"].to_pylist() if len(passed) else []) == offsets.tolist()
        if output.features and len(passed):
            names = [stage.plan.names[column] for column in output.features]
            written = np.column_stack([passed[name].to_numpy() for name in names])
            assert same_bits(written, matrix_of(commits, list(output.features)))
    if stage.decides:
        rows = site.decided(partition)
        assert len(rows) == len(offsets)
        if len(rows):
            names = [name for name in rows.schema.names if name in stage.plan.names]
            columns = [stage.plan.names.index(name) for name in names]
            written = np.column_stack([rows[name].to_numpy(zero_copy_only=False) for name in names])
            assert same_bits(written, matrix_of(commits, columns))


def check_ledger(site: Site, stage: Stage, partition: int) -> None:
    worker = site.workers[stage.group, partition]
    for topic, ledger in worker.ledgers.items():
        assert ledger.is_closed, topic
    applied = worker.ledgers[stage.main.topic].applied
    assert all(count == applied for count in worker.decided.values())
    for output in stage.outputs:
        if output.kind != FACTS:
            assert worker.forwarded[output.topic] == applied


def check_decided_once(site: Site) -> None:
    (entrance,) = [stage for stage in site.stages if stage.main.topic == "payments"]
    applied = sum(site.workers[entrance.group, p].ledgers["payments"].applied for p in range(site.partitions))
    ids = site.decided()["event_id"].to_pylist()
    assert len(ids) == applied


@settings(max_examples=12)
@given(seeds, st.integers(1, 5), st.sampled_from((0, 5, 100)), st.sampled_from((None, "0ms", "40ms", "2s")))
def test_every_stage_is_that_of_the_oracle(tmp_path_factory, seed, partitions, lateness_ms, known_after):
    site = Site(made_up_app(seed, lateness_ms, known_after), partitions, tmp_path_factory.mktemp("state"))
    run(site, seed, events=80, lateness_ms=lateness_ms)
    assert check(site) > 0
    check_decided_once(site)


@pytest.mark.parametrize("seed", range(4))
def test_offsets_with_gaps_change_nothing(tmp_path, seed):
    for partitions in (1, 3):
        folder = tmp_path / str(partitions)
        site = Site(made_up_app(seed, 100, None), partitions, folder, GappyLog(Sealer(KEY)))
        run(site, seed, events=60, lateness_ms=100)
        assert check(site) > 0
        check_decided_once(site)


def test_stages_run_on_the_embedded_log(tmp_path):
    with SqliteLog(tmp_path / "log.db", Sealer(KEY)) as log:
        site = Site(made_up_app(3, 100, None), 2, tmp_path / "state", log)
        run(site, 3, events=60, lateness_ms=100)
        check_decided_once(site)
        for stage in site.stages:
            for partition in range(2):
                check_ledger(site, stage, partition)


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_stream_that_several_stages_judge_has_each_dead_letter_once(tmp_path, partitions):
    world = world_of(0)
    tried = {"n": world.logins.by("card").last("1h").count()}
    paid = {"n": world.payments.by("card").last("1h").count(), "logins": tried["n"]}
    wanted = {"p": (world.payments, paid), "l": (world.logins, {"m": tried["n"]})}
    tasks = [Task(name, on=on, features=each, model=None, learner=None) for name, (on, each) in wanted.items()]
    site = Site(App("a", tasks=tasks), partitions, tmp_path)
    site.append("logins", [{"login_id": "broken", "card": "c1", "at": "yesterday"}], "card")
    site.drain()
    assert sum(site.log.end(dead_topic("a"), p) for p in range(partitions)) == 1


def test_topics_of_different_sizes_are_refused(tmp_path):
    log = KeepsManifests()
    log.create_topic("payments", 3)
    app = settled_app({}, "string")
    with pytest.raises(PeltonError, match="topic 'logins' is not in the log; create the app's topics first"):
        count_partitions(app, log)
    log.create_topic("logins", 3)
    log.create_topic("frauds", 2)
    with pytest.raises(PeltonError, match=r"differ in their partitions: payments has 3, logins has 3, frauds has 2"):
        count_partitions(app, log)


def test_first_stages_have_the_bits_of_a_local_run_over_the_same_partition(tmp_path: Path):
    world = world_of(100)
    card, terminal = world.payments.by("card"), world.payments.by("terminal")
    features = {
        "n": card.last("2s").count(), "std": card.last("90d").std("amount"),
        "places": card.last("1m").entropy("place"), "terminals": terminal.last("1m").mean("amount"),
    }  # fmt: skip
    app = App("made_up", tasks=[Task("t", on=world.payments, features=features, model=None, learner=None)])
    site = Site(app, 3, tmp_path)
    run(site, 7, events=400, lateness_ms=100)
    entrance = site.stages[0]
    assert [stage.group for stage in site.stages] == ["made_up.payments", "made_up.payments.terminal"]
    for partition in range(3):
        local = Engine(entrance).process(entrance_lines(site, entrance, partition))
        passed = site.passed_on(entrance.outputs[0], partition)
        assert passed["#offset"].to_pylist() == local.offsets.tolist()
        for name in ("n", "std", "places"):
            column = local.matrix[:, entrance.plan.names.index(name)]
            assert same_bits(passed[name].to_numpy()[:, None], column[:, None])
    assert site.kills > 10
    assert check(site) > 0


def test_equal_keys_meet_whatever_partition_they_came_from(tmp_path: Path):
    world = world_of(0)
    features = {"of_card": world.payments.by("card").last("90d").count(),
                "of_terminal": world.payments.by("terminal").last("90d").count()}  # fmt: skip
    site = Site(
        App("a", tasks=[Task("t", on=world.payments, features=features, model=None, learner=None)]), 4, tmp_path
    )
    records = made_up_records(Shape(3, 300, 0, 0, late=0.0, copies=0.0, keys=50, jumps=0.0))["payments"]
    site.append("payments", records, "card", records[-1]["ts"])
    site.drain()
    rows = site.decided()
    assert len(rows) == 300
    terminal = {each["event_id"]: each["terminal"] for each in records}
    of = np.array([terminal[each] for each in rows["event_id"].to_pylist()])
    for number in range(3):  # all at the same time: each event of a terminal counts those before it, and itself
        counts = rows["of_terminal"].to_numpy()[of == number]
        assert sorted(counts.tolist()) == list(range(1, len(counts) + 1))


def settled_app(keys: dict[str, str], card: str) -> App:
    world = world_of(3_600_000, None, keys, card)
    by_card, by_terminal = world.payments.by("card"), world.payments.by("terminal")
    logins = world.logins.by("card").last("90d")
    features = {
        "paid": by_card.last("90d").sum("amount"), "devices": by_terminal.last("90d").distinct("device"),
        "frauds_of_card": by_card.last("90d").sum(world.frauds.is_fraud),
        "fraud_rate": by_terminal.last("90d").rate(world.frauds.is_fraud),
        "labels": world.payments.by("known").last("90d").count(world.frauds.is_fraud),
        "logins": logins.count(), "tries": logins.sum("tries"),
    }  # fmt: skip
    return App("a", tasks=[Task("t", on=world.payments, features=features, model=None, learner=None)])


@pytest.mark.parametrize("card", ["string", "card"])
@pytest.mark.parametrize("keys", [
    {}, {"payments": "terminal", "logins": "login_id"}, {"payments": "card", "frauds": "card"},
    {"payments": "event_id", "frauds": "card"}, {"payments": "known", "logins": "place"},
])  # fmt: skip
def test_once_all_is_at_rest_an_event_sees_what_it_would_on_one_partition(tmp_path, keys, card):
    shape = Shape(5, 200, 20, 0, copies=0.0, jumps=0.0, keys=9, natural=True)
    records = made_up_records(shape)
    last_ms = max(each["ts"] for each in records["payments"])
    labels = {each["event_id"]: each for each in records["frauds"]}  # one of each: corrections depend on the order
    found = []
    for partitions in (1, 3):
        site = Site(settled_app(keys, card), partitions, tmp_path / str(partitions))
        streams = {each.topic: each.stream for stage in site.stages for each in stage.inputs if each.kind == LINES}
        for name, rows in {**records, "frauds": list(labels.values())}.items():
            site.append(name, rows, streams[name].entry_key, last_ms + 10_000)
            site.drain()
        for number in range(8):
            probe = {**records["payments"][number], "event_id": f"p{number}", "ts": last_ms + 20_000 + number}
            site.append("payments", [probe], streams["payments"].entry_key, probe["ts"])
            site.drain()
        rows = site.decided().sort_by("event_id")
        probes = rows.filter(pa.compute.starts_with(rows["event_id"], "p"))
        found.append(np.column_stack([probes[name] for name in site.app.plans["payments"].names]))
    assert found[0].shape == (8, 7)
    assert np.isfinite(found[0]).sum() > 40
    assert same_bits(*found)


@pytest.mark.parametrize("kind", [CARRIED, ROWS, FACTS])
def test_random_apps_have_every_kind_of_topic(kind):
    apps = [made_up_app(seed, 100, None) for seed in range(12)]
    assert any(output.kind == kind for app in apps for stage in stages_of(app, 2) for output in stage.outputs)
