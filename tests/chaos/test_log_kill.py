"""A process that copies a topic is killed again and again, at any moment: every record is copied exactly once."""

import json
import random
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa

from connectors.sqlite_log import SqliteLog

RECORDS = 100_000
KILLS = 25
SEED = 11

COPY = """
import json, sys
import pyarrow as pa
from connectors.sqlite_log import SqliteLog

path, seed, sizes = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
with SqliteLog(path) as log:
    print("open", flush=True)
    commit, payload = log.manifest("copy", 0) or (0, b'{"offset": 0}')
    offset = json.loads(payload)["offset"]
    while offset < log.end("in", 0):
        records = log.read("in", 0, offset, limit=sizes[(commit + seed) % len(sizes)])
        with log.transaction("copy", 0, commit) as made:
            made.append_rows("out", 0, pa.record_batch({
                "source_offset": records.offsets, "value": records.values.cast(pa.large_string())}), append_ms=commit)
            made.append("lines", 0, records.values, append_ms=commit)
            made.put_manifest(json.dumps({"offset": offset + len(records)}).encode())
        commit, offset = made.commit, offset + len(records)
        if seed % 3 == 0:
            log.enforce_retention(now_ms=commit)
"""


def test_kill_9_at_any_moment_loses_and_doubles_nothing(tmp_path):
    path = tmp_path / "log.db"
    values = [b"record %d" % i for i in range(RECORDS)]
    with SqliteLog(path) as log:
        log.create_topic("in")
        log.create_topic("out")
        log.create_topic("lines", retention_ms=200)  # its front goes away while the copier is killed
        log.append("in", 0, values, append_ms=0)
    rng = random.Random(SEED)
    kills = sum(killed(path, run, rng) for run in range(KILLS))
    with SqliteLog(path) as log:
        assert 0 < log.end("out", 0) < RECORDS  # every kill hit work in progress
    subprocess.run([sys.executable, "-c", COPY, str(path), "0", "[5000]"], check=True, stdout=subprocess.DEVNULL)
    assert kills >= 20
    with SqliteLog(path) as log:
        check_copies(log, values)


def killed(path, run, rng):
    """Start a copier and kill it within 0.15 s; say whether it was still alive."""
    command = [sys.executable, "-c", COPY, str(path), str(run), "[1, 2, 5, 13]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as copier:
        if run % 5:  # most are killed while they copy, some while they start or open the file
            copier.stdout.readline()
        try:
            copier.wait(timeout=rng.uniform(0, 0.15))
        except subprocess.TimeoutExpired:
            copier.send_signal(signal.SIGKILL)
            return True
    return False


def check_copies(log, values):
    rows = pa.Table.from_batches([batch for _, batch in log.read_rows("out", 0, 0, 10 * RECORDS)])
    np.testing.assert_array_equal(rows["source_offset"].to_numpy(), np.arange(RECORDS))
    assert rows["value"].to_pylist() == [value.decode() + "\n" for value in values]
    begin, end = log.begin("lines", 0), log.end("lines", 0)
    assert end == RECORDS
    assert log.read("lines", 0, begin, RECORDS).values.to_pylist() == [value + b"\n" for value in values[begin:]]
    commit, manifest = log.manifest("copy", 0)
    assert json.loads(manifest) == {"offset": RECORDS}
    assert [number for number, _ in log.manifests("copy", 0, 0)] == list(range(1, commit + 1))
