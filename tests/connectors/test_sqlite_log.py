"""The file under the embedded log: errors in words, several processes, nothing readable in sealed topics."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from connectors.log import LogError
from connectors.sqlite_file import CHECKPOINT_BYTES, WAL_BYTES_MAX
from connectors.sqlite_log import FORGET_STEP, SqliteLog
from tests.contracts.test_log import Xor

APPEND_MANY = """
import sys
from connectors.sqlite_log import SqliteLog
path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
with SqliteLog(path) as log:
    log.create_topic("in", partitions=2)
    for batch in range(batches):
        print(log.append("in", 0, [f"{name} {batch} {i}".encode() for i in range(batch % 5 + 1)], append_ms=batch))
"""
WAIT_THEN_ANSWER = """
import sys
from connectors.sqlite_log import SqliteLog
with SqliteLog(sys.argv[1]) as log:
    print("ready", flush=True)
    print(log.wait({("in", 0): 0}, timeout_s=60), log.read("in", 0, 0, 9).values.to_pylist(), flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "log.db"


def child(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_everything_is_there_when_opened_again(path):
    with SqliteLog(path) as log:
        log.create_topic("in", partitions=2, retention_ms=1000)
        log.append("in", 1, [b"a"], 3)
        with log.transaction("app", 0, 0) as commit:
            commit.put_manifest(b"m")
    with SqliteLog(path) as log:
        assert log.topics()[0].retention_ms == 1000
        assert log.read("in", 1, 0, 9).values.to_pylist() == [b"a\n"]
        assert log.append("in", 1, [b"b"], 4) == 1
        assert log.manifest("app", 0) == (1, b"m")


def test_many_manifests_are_forgotten_step_by_step_never_the_newest(path):
    commits = 2 * FORGET_STEP + 50
    with SqliteLog(path) as log:
        for number in range(commits):
            with log.transaction("app", 0, number) as commit:
                commit.put_manifest(b"%d" % number)
        assert log.forget_manifests("app", 0, commits - 20) == commits - 21
        assert [number for number, _ in log.manifests("app", 0, 0)] == list(range(commits - 20, commits + 1))
        assert log.forget_manifests("app", 0, 10 * commits) == 20
        assert log.manifest("app", 0) == (commits, b"%d" % (commits - 1))
        assert log.forget_manifests("other", 0, commits) == 0


def test_processes_that_start_together_share_a_topic_without_gaps_or_losses(path):
    batches = 120
    writers = [child(APPEND_MANY, path, name, batches) for name in "abc"]
    bases = {
        name: [int(line) for line in writer.communicate()[0].split()]
        for name, writer in zip("abc", writers, strict=True)
    }
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with SqliteLog(path) as log:
        got = log.read("in", 0, 0, 1_000_000).values.to_pylist()
        assert log.end("in", 0) == len(got) == 3 * sum(batch % 5 + 1 for batch in range(batches))
    for name, firsts in bases.items():
        assert len(firsts) == batches
        for batch, first in enumerate(firsts):
            expected = [f"{name} {batch} {i}\n".encode() for i in range(batch % 5 + 1)]
            assert got[first : first + len(expected)] == expected


def test_another_process_is_woken_up(path):
    with SqliteLog(path) as log:
        log.create_topic("in")
        waiter = child(WAIT_THEN_ANSWER, path)
        assert waiter.stdout.readline() == "ready\n"
        log.append("in", 0, [b"a"], 0)
        assert waiter.communicate(timeout=60)[0] == "True [b'a\\n']\n"


def test_what_a_sealed_topic_stores_cannot_be_read_without_the_key(path):
    with SqliteLog(path, Xor()) as log:
        log.create_topic("dead", sealed=True)
        log.append("dead", 0, [b"card 4000123412341234"], 0)
    assert not any(b"4000123412341234" in file.read_bytes() for file in path.parent.iterdir())
    with SqliteLog(path) as log:
        with pytest.raises(LogError, match="topic 'dead' is encrypted and the log was opened without a key"):
            log.read("dead", 0, 0, 1)
        with pytest.raises(LogError, match="give it a sealer"):
            log.append("dead", 0, [b"x"], 0)
        with pytest.raises(LogError, match="give it a sealer"):
            log.create_topic("more", sealed=True)


def test_a_full_disk_is_told_and_loses_nothing(path):
    with SqliteLog(path, bytes_max=1 << 20) as log:
        log.create_topic("in", retention_ms=1)
        log.append("in", 0, [b"x" * 500_000], 0)
        with pytest.raises(LogError, match=r"log\.db: the disk or the log's size limit is full; free space or shorten"):
            log.append("in", 0, [b"y" * 2_000_000], 0)
        assert log.end("in", 0) == 1
        assert log.append("in", 0, [b"z"], 0) == 1
        assert [len(value) for value in log.read("in", 0, 0, 9).values.to_pylist()] == [500_001, 2]


def test_a_commit_on_a_full_disk_is_not_there_at_all(path):
    with SqliteLog(path, bytes_max=1 << 20) as log:
        log.create_topic("out")
        with pytest.raises(LogError, match="is full"), log.transaction("app", 0, 0) as commit:  # noqa: PT012
            commit.append("out", 0, [b"small"], 0)
            commit.append("out", 0, [b"y" * 2_000_000], 0)
            commit.put_manifest(b"m")
        assert (log.end("out", 0), log.manifest("app", 0)) == (0, None)


def test_a_file_that_cannot_grow_is_told_and_loses_nothing(path):
    code = """
import resource, signal, sys
from connectors.sqlite_log import SqliteLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit fails, as on a full disk
with SqliteLog(sys.argv[1]) as log:
    log.create_topic("in")
    log.append("in", 0, [b"kept"], 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        log.append("in", 0, [b"x" * 4_000_000], 0)
    except ValueError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(log.append("in", 0, [b"after"], 0))
"""
    pytest.importorskip("resource", reason="file size limits exist on Unix alone")
    told, base = child(code, path).communicate()[0].splitlines()
    assert "log.db: the disk" in told
    assert "Nothing of this write was kept" in told
    assert base == "1"
    with SqliteLog(path) as log:
        assert log.read("in", 0, 0, 9).values.to_pylist() == [b"kept\n", b"after\n"]


@contextlib.contextmanager
def as_nobody():
    """Root may write everywhere, so the test steps down."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_path_that_cannot_be_written_is_told():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folder is closed to others
        path = Path(folder) / "log.db"
        SqliteLog(path).close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        with as_nobody():
            with pytest.raises(LogError, match=r"log\.db: it cannot be (written|opened); make the"):
                SqliteLog(path)
            with pytest.raises(LogError, match=r"new\.db: it cannot be opened; make the folder writable"):
                SqliteLog(Path(folder) / "new.db")
            with pytest.raises(LogError, match=r"log\.db: Permission denied; make its folder writable"):
                SqliteLog(Path(folder) / "sub" / "log.db")
        Path(folder).chmod(0o755)


def test_a_file_that_is_no_log_is_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to look at: " + "x" * 2000)
    with pytest.raises(LogError, match=r"notes\.txt: it is not a log \(not an SQLite database\); give another path"):
        SqliteLog(text)
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE mine (x)")
    before = other.read_bytes()
    with pytest.raises(LogError, match=r"other\.db is another program's SQLite database, not a log"):
        SqliteLog(other)
    assert other.read_bytes() == before
    with pytest.raises(LogError, match="it cannot be opened"):
        SqliteLog(tmp_path)


def test_a_newer_format_is_refused(path):
    SqliteLog(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(
        LogError, match=r"written by a newer Pelton \(log format 99, this one knows 1\); upgrade pelton"
    ):
        SqliteLog(path)


def test_a_damaged_file_is_told(path):
    with SqliteLog(path) as log:
        log.create_topic("in")
        log.append("in", 0, [b"x" * 100_000], 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(LogError, match=r"log\.db: the file is damaged; restore it from a copy"), SqliteLog(path) as log:
        log.topics()


def test_a_closed_log_is_told(path):
    log = SqliteLog(path)
    log.close()
    with pytest.raises(LogError, match=r"log .*log\.db is closed; open it again"):
        log.topics()


def test_space_that_retention_frees_is_used_again(path):
    with SqliteLog(path) as log:
        log.create_topic("in", retention_ms=10)
        for now_ms in range(300):
            log.append("in", 0, [b"x" * 100_000], now_ms)
            log.enforce_retention(now_ms)
    assert path.stat().st_size < 10 << 20  # 30 MB went through it


def test_the_write_ahead_file_stays_bounded_while_others_read_all_the_time(path):
    with SqliteLog(path) as log:
        log.create_topic("in")
        done = threading.Event()

        def follow():
            offset = 0
            while not done.is_set() or offset < log.end("in", 0):
                offset += len(log.read("in", 0, offset, 100))

        readers = [threading.Thread(target=follow) for _ in range(3)]
        for reader in readers:
            reader.start()
        sizes = []
        for _ in range(200):
            log.append("in", 0, [b"x" * (1 << 20)], 0)
            sizes.append(path.with_name("log.db-wal").stat().st_size)
        done.set()
        for reader in readers:
            reader.join()
        assert max(sizes) <= WAL_BYTES_MAX + CHECKPOINT_BYTES + (2 << 20)
