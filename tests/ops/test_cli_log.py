"""Commands around the embedded log: append, topics, dlq, state get."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.sqlite_log import SqliteLog
from ops.runner import AppRunner
from ops.settings import Settings
from pipeline.loading import load_app

PELTON = [str(Path(sys.executable).with_name("pelton"))]


@pytest.fixture
def decided(bank, pelton):
    """Append both files and decide them."""
    pelton("append bank.py data/payments.jsonl data/frauds.jsonl")
    decide()
    return bank


def decide():
    """Decide everything in the log, as `pelton run` does."""
    settings, app = Settings.read(), load_app("bank.py")
    tokeniser, sealer = settings.secrets(app)
    with settings.open_log(sealer) as log, AppRunner(app, log, None, settings.data, tokeniser, sealer) as runner:
        runner.run(until_idle=True)


def test_topics_keep_what_they_are_told_to_and_no_less_than_windows_need(bank, pelton):
    assert "the windows of 'bank' need 15d" in pelton("topics create bank.py --retention 7d", code=1).stderr
    assert "topics made" in pelton("topics create bank.py").stdout
    assert {line.split()[5] for line in pelton("topics").stdout.splitlines()[1:] if line} == {"forever"}
    assert "all were there" in pelton("topics create bank.py --retention 30d").stdout
    kept = {line.split()[0]: line.split()[5] for line in pelton("topics").stdout.splitlines()[1:] if line}
    assert (kept["payments"], kept["frauds"], kept["bank.decisions"]) == ("30d", "30d", "forever")


def test_append_keeps_every_record_and_encrypts_sensitive_streams(bank, pelton, stream):
    result = pelton("append bank.py data/payments.jsonl data/frauds.jsonl")
    assert f"payments: {stream.records:,} records appended" in result.stdout
    rows = {line.split()[0]: line.split() for line in pelton("topics").stdout.splitlines()}
    assert rows["payments"][4] == str(stream.records)
    assert (rows["payments"][-1], rows["frauds"][-1]) == ("yes", "no")
    number = json.loads(stream.payments_path.read_text().splitlines()[0])["card"]
    assert number.encode() not in (bank / ".pelton" / "log.db").read_bytes()


def test_append_takes_csv_as_the_same_records(bank, pelton):
    (bank / "payments.csv").write_text(
        "event_id,ts,card,terminal,place,amount\n"
        'a,1767571200000,4000,t1,"Bad, Ems",12.5\n'
        "b,yesterday,4000,t1,DE,1\n"
        "c,1767571201000,4000,t1,DE,7\n"
    )
    pelton("append bank.py payments.csv")
    _, sealer = Settings.read().secrets()
    with SqliteLog(bank / ".pelton" / "log.db", sealer) as log:
        values = log.read("payments", 0, 0, 10).values.to_pylist()
    assert json.loads(values[0]) == {
        "event_id": "a", "ts": 1767571200000, "card": "4000", "terminal": "t1", "place": "Bad, Ems", "amount": 12.5
    }  # fmt: skip
    assert values[1] == b"b,yesterday,4000,t1,DE,1\n", "what does not fit becomes a dead letter as it was"
    assert json.loads(values[2])["event_id"] == "c"


def test_append_refuses_a_rate_that_is_none(bank, pelton):
    assert "rate is 0.0" in pelton("append bank.py data/payments.jsonl --rate 0", code=1).stderr


def test_ctrl_c_ends_quietly_with_130(bank, pelton):
    pelton("append bank.py data/payments.jsonl")
    _, sealer = Settings.read().secrets()
    with SqliteLog(bank / ".pelton" / "log.db", sealer) as log:
        end = log.end("payments", 0)
        line = [*PELTON, "append", "bank.py", "data/payments.jsonl", "--rate", "1"]
        process = subprocess.Popen(  # a shell's background job is started deaf to Ctrl-C: give it its ears back
            line, cwd=bank, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert log.wait({("payments", 0): end}, 60), "the producer appended nothing"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_dead_letters_are_listed_by_kind_with_cause(decided, pelton):
    lines = pelton("dlq list bank.py --limit 1000").stdout.splitlines()
    kinds = {line.split()[3] for line in lines[1:]}
    assert kinds == {"invalid", "late"}
    late = pelton("dlq list bank --kind late --limit 1000").stdout.splitlines()
    assert 1 < len(late) < len(lines)
    assert all("older than the stream's lateness allows" in line for line in late[1:])


def test_a_dead_letter_is_shown_with_the_key_only(decided, pelton):
    raw = pelton("dlq show bank 0 --raw").stdout
    assert raw.encode() in (decided / "data" / "payments.jsonl").read_bytes()
    (decided / ".pelton" / "key").rename(decided / "key")
    assert "there is no key" in pelton("dlq show bank 0").stdout
    assert "encrypted and there is no key; set PELTON_KEY" in pelton("dlq show bank 0 --raw", code=1).stderr
    assert raw.strip() not in pelton("dlq show bank 0").stdout


def test_late_letters_sent_again_are_applied_once(decided, pelton):
    late = len(pelton("dlq list bank --kind late --limit 1000").stdout.splitlines()) - 1
    with SqliteLog(decided / ".pelton" / "log.db") as log:
        before = log.end("bank.decisions", 0)
    assert f"payments: {late} sent again" in pelton("dlq redrive bank --kind late").stdout
    pelton("dlq redrive bank --kind late")
    decide()
    with SqliteLog(decided / ".pelton" / "log.db") as log:
        assert log.end("bank.decisions", 0) == before + late


def test_a_broken_letter_is_corrected_and_applied(decided, pelton):
    first = pelton("dlq list bank --kind invalid").stdout.splitlines()[1].split()[0]
    payment = json.loads((decided / "data" / "payments.jsonl").read_text(errors="replace").splitlines()[5])
    (decided / "fixed.jsonl").write_text(json.dumps(payment | {"event_id": "mended"}) + "\n")
    pelton(f"dlq redrive bank {first} --fix fixed.jsonl")
    decide()
    with SqliteLog(decided / ".pelton" / "log.db") as log:
        end = log.end("bank.decisions", 0)
        (_, rows) = log.read_rows("bank.decisions", 0, end - 1, 1)[-1]
    assert rows.column("event_id")[-1].as_py() == "mended"


def test_a_fix_is_for_one_letter(decided, pelton):
    (decided / "fixed.jsonl").write_text("{}\n")
    assert "--fix replaces the bytes of one letter" in pelton("dlq redrive bank --all --fix fixed.jsonl", code=1).stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dlq list bonk", "no app 'bonk' has dead letters in this log; did you mean 'bank'?"),
        ("dlq list bank --kind lost", "kind is 'lost'; there are future, invalid, late"),
        ("dlq show bank 99999", "there is no dead letter 99999"),
        ("state get payment card=1 --app bank.py", "decides no stream 'payment'; did you mean 'payments'?"),
        ("state get payments 4000 --app bank.py", "grouped by card, terminal; say which: card=4000 or terminal=4000"),
        ("state get payments shop=1 --app bank.py", "is not grouped by 'shop'"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest(decided, pelton, line, message):
    assert message in pelton(line, code=1).stderr


def test_state_of_a_key_is_what_its_last_event_was_decided_on(decided, pelton):
    with SqliteLog(decided / ".pelton" / "log.db") as log:
        batches = [rows for _, rows in log.read_rows("bank.decisions", 0, 0, 10_000)]
    ids = {row["event_id"]: row for batch in batches for row in batch.to_pylist()}
    lines = (decided / "data" / "payments.jsonl").read_text(errors="replace").splitlines()
    last = next(each for each in map(parsed, reversed(lines)) if each.get("event_id") in ids)
    shown = pelton(f"state get payments card={last['card']} --app bank.py").stdout
    assert re.search(r"status +live, \d+ events? in memory", shown)
    count = re.search(r"count_1h +(\S+)", shown)
    assert float(count.group(1)) == ids[last["event_id"]]["count_1h"]


def parsed(line):
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def test_a_key_is_idle_once_its_events_are_too_old_for_every_window(bank, pelton):
    ages = {"old": 0, "young": 3_599_000, "new": 3_600_000}
    lines = [{"event_id": card, "ts": 1767571200000 + at, "card": card, "terminal": "t", "place": "x", "amount": 5}
             for card, at in ages.items()]  # fmt: skip
    (bank / "payments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pelton("append bank.py payments.jsonl")
    decide()
    shown = {card: pelton(f"state get payments card={card} --app bank.py").stdout for card in ages}
    assert "idle, 1 event in memory, none in a window" in shown["old"]
    assert "2026-01-05 00:00 UTC, 60 minutes before" in shown["old"]
    assert "live, 1 event in memory" in shown["young"]
    assert "live, 1 event in memory" in shown["new"]


def test_a_key_never_seen_is_unknown(decided, pelton):
    assert "unknown: no event of it" in pelton("state get payments card=1 --app bank.py").stdout


def test_state_includes_what_no_snapshot_holds(decided, pelton):
    shutil.rmtree(decided / ".pelton" / "state")
    test_state_of_a_key_is_what_its_last_event_was_decided_on(decided, pelton)
