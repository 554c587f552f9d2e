"""`pelton replay` and `pelton verify` on small real files."""

import csv
import gzip
import json
import re

import pyarrow.parquet as pq
import pytest

BOTH = "--input data/payments.jsonl data/frauds.jsonl"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_summary_accounts_for_every_record(bank, pelton, stream):
    text = pelton(f"replay bank.py {BOTH} --output decisions.csv").stdout
    counts = re.search(r"payments: (.*) in = (.*) applied \+ (.*) late \+ 0 future \+ (.*) duplicate \+ (.*) inv", text)
    taken, applied, late, duplicate, invalid = (int(each.replace(",", "")) for each in counts.groups())
    assert taken == stream.records == applied + late + duplicate + invalid
    assert f"dead letters: {late + invalid:,} (invalid, future or late); keep them with --dead FILE" in text
    assert len(rows_of(bank / "decisions.csv")) == applied
    decisions = re.search(r"decisions: (.*)", text).group(1)
    assert sum(int(each.replace(",", "")) for each in re.findall(r"(\d[\d,]*) \w+", decisions)) == applied


def test_without_a_model_it_says_that_rules_decide_alone(bank, pelton):
    told = pelton(f"replay bank.py {BOTH}").stderr
    assert "no model serves risk yet, rules decide alone; make one: pelton train bank.py" in told


def test_outputs_hold_the_same_features(bank, pelton):
    for name in ("f.csv", "f.jsonl", "f.parquet"):
        pelton(f"replay bank.py {BOTH} --features-only --output {name}")
    plain = [float(row["count_1h"]) for row in rows_of(bank / "f.csv")]
    lines = [json.loads(line)["count_1h"] for line in (bank / "f.jsonl").read_text().splitlines()]
    assert plain == lines == pq.read_table(bank / "f.parquet").column("count_1h").to_pylist()


def test_files_are_found_by_star_and_named_by_stream(bank, pelton, stream):
    (bank / "parts").mkdir()
    lines = stream.payments_path.read_bytes().splitlines(keepends=True)
    for number, part in enumerate((lines[:500], lines[500:])):
        with gzip.open(bank / "parts" / f"payments-{number}.jsonl.gz", "wb") as file:
            file.writelines(part)
    whole = pelton("replay bank.py -i payments=data/payments.jsonl --features-only --output whole.csv").stdout
    parts = pelton("replay bank.py -i parts/payments-*.gz --features-only --output parts.csv").stdout
    assert (bank / "whole.csv").read_bytes() == (bank / "parts.csv").read_bytes()
    assert re.search(r"payments: .*", whole).group() == re.search(r"payments: .*", parts).group()


def test_a_speed_paces_by_the_events_own_clock(bank, pelton):
    first = [b'{"event_id":"%d","ts":%d,"card":"1","terminal":"t","place":"x","amount":1}\n' % (n, 10**12 + 100 * n)
             for n in range(4)]  # fmt: skip
    (bank / "payments.jsonl").write_bytes(b"".join(first))
    text = pelton("replay bank.py --input payments.jsonl --speed 3x").stdout
    assert float(re.search(r"4 events in ([\d.]+) s", text).group(1)) >= 0.09


def test_dead_letters_go_to_a_file_encrypted_where_sensitive(bank, pelton):
    told = pelton(f"replay bank.py {BOTH} --dead dead.jsonl").stdout
    letters = [json.loads(line) for line in (bank / "dead.jsonl").read_text().splitlines()]
    assert f"dead letters: {len(letters)} (invalid, future or late); they are in dead.jsonl" in told
    assert {each["kind"] for each in letters} == {"invalid", "late"}
    assert all("sealed" in each and "raw" not in each for each in letters)


def test_dead_letters_of_streams_without_secrets_are_readable(bank, pelton):
    text = (bank / "bank.py").read_text().replace('"card": "card"', '"card": "string"')
    (bank / "bank.py").write_text(text)
    pelton(f"replay bank.py {BOTH} --dead dead.jsonl")
    letters = [json.loads(line) for line in (bank / "dead.jsonl").read_text().splitlines()]
    assert any('"event_id"' in each.get("raw", "") for each in letters)
    assert not (bank / ".pelton" / "key").exists()


def test_where_nothing_is_applied_the_first_cause_is_told(bank, pelton):
    (bank / "payments.jsonl").write_text('{"event_id":"a","ts":1767571200000,"card":"1","terminal":"t","place":"x"}\n')
    assert "is invalid: amount is missing" in pelton("replay bank.py --input payments.jsonl").stderr


@pytest.mark.parametrize("output", ["taken/out.csv", "taken/", "out.xlsx", "out.parquet.gz"])
def test_an_output_that_cannot_be_written_is_told_and_nothing_is_left(bank, pelton, output):
    (bank / "taken").write_text("a file, not a folder")
    before = sorted(bank.rglob("*"))
    told = pelton(f"replay bank.py {BOTH} --features-only --output {output}", code=1).stderr
    assert output.split("/")[0] in told
    assert [each for each in sorted(bank.rglob("*")) if each not in before and ".pelton" not in each.parts] == []


def test_a_full_disk_is_told_with_the_file(bank, pelton):
    (bank / "dead.jsonl").symlink_to("/dev/full")
    told = pelton(f"replay bank.py {BOTH} --dead dead.jsonl", code=1).stderr
    assert "no space left on device; free some space there" in told


def test_a_bundle_that_is_none_is_told(bank, pelton):
    told = pelton(f"replay bank.py {BOTH} --bundle 41c9e2", code=1).stderr
    assert "41c9e2 is no folder with a bundle.json, and no id in a registry" in told


def test_verify_says_which_stream_has_no_features(bank, pelton):
    (bank / "words.py").write_text(
        "from pipeline import App, Stream, SupportTask\n"
        'said = Stream("said", id="id", time="ts", fields={"text": "text"})\n'
        'wants = Stream("wants", id="id", time="ts", fields={"intent": "string"})\n'
        'app = App("desk", tasks=[SupportTask("desk", on=said, text=said.text, intent=wants.intent)])\n'
    )
    (bank / "said.jsonl").write_text('{"id": "a", "ts": 1, "text": "hello"}\n{"id": "a", "ts": 1, "text": "again"}\n')
    told = pelton("verify words.py --input said.jsonl").stdout
    assert told == "said: no features to recompute; 1 events applied as they should be: 0 ppm\n"


def test_verify_finds_no_mismatch(bank, pelton):
    text = pelton(f"verify bank.py {BOTH} --sample 100 --seed 1").stdout
    assert re.search(r"payments: 0 mismatches in 400 values of 100 of [\d,]+ events: 0 ppm", text)
