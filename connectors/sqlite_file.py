"""The SQLite file under the log: how it is opened, what is in it, and its errors in words."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from connectors.log import LogError

FORMAT_VERSION = 1
PAGE_BYTES = 4096  # a commit of one record writes four pages: larger ones would only grow the write-ahead file
BUSY_S = 30.0
CHECKPOINT_BYTES = 4 << 20  # the background checkpoint starts when this much is new
WAL_BYTES_MAX = 64 << 20  # where a commit waits for a checkpoint, should the background one not keep up
TRUNCATE_S = 0.5  # how long it waits for readers of other processes

_APPLICATION_ID = 0x50454C54  # "PELT", so that another program's SQLite file is never touched
_TABLES = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,
    retention_ms INTEGER, sealed INTEGER NOT NULL);
CREATE TABLE partitions (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, begin_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, partition INTEGER NOT NULL, base_offset INTEGER NOT NULL,
    count INTEGER NOT NULL, append_ms INTEGER NOT NULL, format TEXT NOT NULL, lengths BLOB, redriven BLOB,
    payload BLOB NOT NULL);
CREATE UNIQUE INDEX batches_by_offset ON batches (topic, partition, base_offset);
CREATE TABLE manifests (
    app TEXT NOT NULL, partition INTEGER NOT NULL, number INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (app, partition, number)) WITHOUT ROWID;
"""


def open_file(path: Path, *, power_safe: bool, bytes_max: int | None) -> sqlite3.Connection:
    """Open the log's file, and make it if it is not there.

    `synchronous`: a killed process loses nothing with NORMAL, since the system has every commit, and a commit takes
    20 microseconds instead of 350; a power cut can take the newest commits (outputs and manifest together, so the log
    stays consistent). FULL (`power_safe`) waits for the disk at every commit.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64)
        try:
            _prepare(db, path)
            db.execute(f"PRAGMA synchronous={'FULL' if power_safe else 'NORMAL'}")
            db.execute(f"PRAGMA wal_autocheckpoint={WAL_BYTES_MAX // PAGE_BYTES}")
            db.execute(f"PRAGMA journal_size_limit={WAL_BYTES_MAX}")
            if bytes_max is not None:
                db.execute(f"PRAGMA max_page_count={max(bytes_max // PAGE_BYTES, 1)}")
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    _check_owner(db, path)
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        _switch_to_wal(db, path)
    if db.execute("PRAGMA user_version").fetchone()[0] == FORMAT_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was faster
            for statement in filter(str.strip, _TABLES.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={FORMAT_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        rolled_back(db)
        raise


def _check_owner(db: sqlite3.Connection, path: Path) -> None:
    db.execute("BEGIN")  # one view of the file: another process may be making it
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        owner = db.execute("PRAGMA application_id").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    finally:
        db.execute("COMMIT")
    if owner != _APPLICATION_ID and (tables or owner or version):
        raise LogError(f"{path} is another program's SQLite database, not a log; give another path")
    if version > FORMAT_VERSION:
        raise LogError(
            f"{path} was written by a newer Pelton (log format {version}, this one knows {FORMAT_VERSION}); "
            f"upgrade pelton, or give another path"
        )


def _switch_to_wal(db: sqlite3.Connection, path: Path) -> None:
    """Switch to write-ahead logging; SQLite does not wait by itself when several processes do so at once."""
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.005)
            continue
        if mode != "wal":
            raise LogError(
                f"{path} cannot be shared by processes there (a network drive?); give a path on a local disk"
            )
        return


def begin_write(db: sqlite3.Connection) -> None:
    """Begin a writing transaction; wait for another process's for up to BUSY_S.

    SQLite's own waiting grows to 100 ms a step, which would be the tail of the latency: other writers hold the lock
    for less than a millisecond.
    """
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.0005)


def rolled_back(db: sqlite3.Connection) -> None:
    """Undo the open transaction, if SQLite has not already done so itself."""
    if db.in_transaction:
        with contextlib.suppress(sqlite3.Error):  # the error that led here is the one to tell
            db.execute("ROLLBACK")


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk or the log's size limit is full; free space or shorten retention, then go on",
    sqlite3.SQLITE_READONLY: "it cannot be written; make the file and its folder writable, or give another path",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; make the folder writable, or give another path",
    sqlite3.SQLITE_PERM: "it cannot be opened; make the file writable, or give another path",
    sqlite3.SQLITE_NOTADB: "it is not a log (not an SQLite database); give another path",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore it from a copy, or give another path",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write; check its space and health, then go on",
    sqlite3.SQLITE_BUSY: f"another process kept it locked for {BUSY_S:.0f} s; stop that one, then go on",
    sqlite3.SQLITE_LOCKED: f"another process kept it locked for {BUSY_S:.0f} s; stop that one, then go on",
    sqlite3.SQLITE_TOOBIG: "a batch is too big for one write; append fewer records at once",
}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into one sentence: which log, what happened, what to do."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise LogError(f"log {path} is closed; open it again ({error})") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None) or 0
        advice = _ADVICE.get(code & 0xFF, "check the file and its disk, then go on")
        raise LogError(f"log {path}: {advice}. Nothing of this write was kept ({error})") from error
    except OSError as error:
        raise LogError(
            f"log {path}: {error.strerror or error}; make its folder writable, or give another path"
        ) from error


class Checkpointer:
    """Moves commits from the write-ahead file to the main file in a thread: a commit never waits for that disk write.

    On a commit's own time this took 20 to 60 ms once per 4 MB. Passive checkpoints let everybody go on, but readers
    that never pause, or a writer that is faster than the disk, keep the file growing. So a commit that finds it at
    WAL_BYTES_MAX waits until it begins anew, if `pause` can keep the readers away; a slow reader of another process
    puts that off.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, pause: AbstractContextManager[object]) -> None:
        self._db, self._pause = db, pause
        self._db.execute(f"PRAGMA busy_timeout={int(1000 * TRUNCATE_S)}")
        self._wal = path.with_name(path.name + "-wal")
        self._due = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._stop = False
        self._new_bytes = 0
        self._thread: threading.Thread | None = None

    def wrote(self, size: int) -> None:
        """Count a commit's bytes; wake the thread when enough are new. Called under the writer's lock."""
        self._new_bytes += size + 4 * PAGE_BYTES
        if self._new_bytes < CHECKPOINT_BYTES:
            return
        self._new_bytes = 0
        with contextlib.suppress(OSError):
            if self._wal.stat().st_size >= WAL_BYTES_MAX:
                with self._pause:
                    self._checkpoint("TRUNCATE")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-checkpoint", daemon=True)
            self._thread.start()
        self._due.set()

    def close(self) -> None:
        """Stop the thread and its connection."""
        self._stop = True
        self._due.set()
        if self._thread is not None:
            self._thread.join()
        self._db.close()

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stop:
                return
            self._checkpoint("PASSIVE")

    def _checkpoint(self, mode: str) -> None:
        with self._one_at_a_time, contextlib.suppress(sqlite3.Error):  # a full disk is told by the next commit
            self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
