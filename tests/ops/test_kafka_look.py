"""Looking at an app on Kafka with a real broker, two partitions and two keys: dead letters and the state of a key."""

import json
import re

import pyarrow.parquet as pq
import pytest

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from ops.live_parity import watch
from ops.settings import Settings
from pipeline.loading import load_app
from pipeline.topics import decisions_topic, rows_of


@pytest.fixture
def decided(own, pelton):
    """An app that decided a day on two partitions: (app's name, name of its stream)."""
    app, payments = own
    pelton("topics create bank.py --partitions 2")
    pelton(f"produce {payments} data/payments.jsonl --key card")
    frauds = next(name for name in load_app("bank.py").streams if name != payments)
    pelton(f"produce {frauds} data/frauds.jsonl --key event_id")
    pelton("run bank.py --until-idle --plain --no-learn")
    return app, payments


def events_decided(address, name):
    app, found = load_app("bank.py"), []
    with KafkaLog(KafkaSettings.read(address, {}), rows=rows_of(app)) as log:
        for partition in range(2):
            at = log.begin(decisions_topic(name), partition)
            while stored := log.read_rows(decisions_topic(name), partition, at, 10_000):
                at = stored[-1][0] + stored[-1][1].num_rows
                found += [each for _, rows in stored for each in rows.column("event_id").to_pylist()]
    return found


def numbers(text):
    return [line.split()[0] for line in text.splitlines()[1:]]


def test_dead_letters_are_listed_shown_and_sent_again_as_they_were(decided, pelton, bank, kafka):
    app, payments = decided
    late = numbers(pelton(f"dlq list {app} --kind late --limit 1000").stdout)
    broken = numbers(pelton(f"dlq list {app} --kind invalid --limit 1000").stdout)
    assert late
    assert len({*late, *broken}) == len(late) + len(broken), "a number is of one letter, whatever its partition"
    for number in late[0], late[-1]:
        raw = pelton(f"dlq show {app} {number} --raw").stdout
        assert raw.encode() in (bank / "data" / "payments.jsonl").read_bytes()
    assert "encrypted  yes" in pelton(f"dlq show {app} {late[0]}").stdout
    with KafkaLog(KafkaSettings.read(kafka, {})) as log:
        before = [log.end(payments, partition) for partition in range(2)]
    assert f"{payments}: {len(late)} sent again" in pelton(f"dlq redrive {app} --kind late").stdout
    with KafkaLog(KafkaSettings.read(kafka, {})) as log:  # without a key: what was sealed could not be read
        again = [log.read(payments, partition, before[partition], 1000) for partition in range(2)]
    sent = [value for records in again for value in records.values.to_pylist()]
    lines = (bank / "data" / "payments.jsonl").read_bytes()
    assert len(sent) == len(late)
    assert all(value.strip() in lines for value in sent)
    count = len(events_decided(kafka, app))
    pelton("run bank.py --until-idle --plain --no-learn")
    ids = events_decided(kafka, app)
    assert len(ids) == len(set(ids)) == count + len(late)
    assert f"no app '{app}x' has dead letters" in pelton(f"dlq list {app}x", code=1).stderr


def test_the_state_of_a_key_is_found_in_its_partition(decided, pelton, bank):
    app, payments = decided
    rows = [json.loads(line) for line in (bank / "data" / "payments.jsonl").read_bytes().splitlines()[-200:]
            if line.startswith(b'{"event_id"')]  # fmt: skip
    row = next(each for each in reversed(rows) if isinstance(each.get("card"), str) and each.get("terminal"))
    card = pelton(f"state get {payments} card={row['card']} --app bank.py").stdout
    terminal = pelton(f"state get {payments} terminal={row['terminal']} --app bank.py").stdout
    assert re.search(rf"kept in +{app}.{payments} partition [01]\n", card)
    assert re.search(rf"kept in +{app}.{payments}.terminal partition [01]\n", terminal)
    assert re.search(r"status +live, \d+ events? in memory", card)
    assert re.search(r"status +live, \d+ events? in memory", terminal)
    assert re.search(r"count_1h +[1-9]", card)
    assert re.search(r"terminal_24h +[1-9]", terminal)
    assert "unknown" in pelton(f"state get {payments} card=4999 --app bank.py").stdout


def test_what_is_served_is_recomputed_from_the_topics(decided, pelton, bank, kafka):
    done = pelton(f"verify bank.py --kafka {kafka}")
    found = re.fullmatch(
        r"0 mismatches in ([\d,]+) values of ([\d,]+) of the last ([\d,]+) events: 0 ppm, in .* s\n", done.stdout
    )
    assert found, done.stdout
    assert int(found[1].replace(",", "")) > 100
    app = load_app("bank.py")
    assert watch(app, Settings.read(), kafka, 100, 1, 0.0, rounds=2)
    (bank / "bank.py").write_text((bank / "bank.py").read_text().replace('last("1h")', 'last("2h")'))
    wrong = pelton(f"verify bank.py --kafka {kafka}", code=1).stdout
    assert re.search(r"^[1-9][\d,]* mismatch", wrong, re.MULTILINE), wrong


def test_topics_are_replayed_as_files_are(decided, pelton, bank, kafka):
    _, payments = decided
    pelton(f"replay bank.py --from-topic --features-only --output topic.parquet --kafka {kafka}")
    frauds = next(name for name in load_app("bank.py").streams if name != payments)
    files = f"{payments}=data/payments.jsonl {frauds}=data/frauds.jsonl"
    pelton(f"replay bank.py --input {files} --features-only --output files.parquet")
    whole = by_id(bank / "topic.parquet")
    expected = by_id(bank / "files.parquet")
    assert set(whole) & set(expected)
    same = sum(whole[each] == expected[each] for each in set(whole) & set(expected))
    assert same > 0.95 * len(expected), "some are late on one partition and not on two, and the other way round"
    since_ms = json.loads((bank / "data" / "payments.jsonl").read_bytes().splitlines()[1200])["ts"]
    line = f"replay bank.py --from-topic --since {since_ms} --features-only --output later.parquet --kafka {kafka}"
    assert "earlier ones were seen by windows only" in pelton(line).stdout
    later = by_id(bank / "later.parquet")
    assert 0 < len(later) < len(whole)
    assert later == {name: whole[name] for name in later}
    assert "exclude each other" in pelton(f"{line} --input data/payments.jsonl", code=1).stderr


def by_id(path):
    return {row["event_id"]: row for row in pq.read_table(path).to_pylist()}
