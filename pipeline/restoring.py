"""The state that a worker begins with: the newest good snapshot of its own log, if the store can be asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from connectors.log import Log
from pipeline.durations import in_words
from pipeline.engine import Engine
from pipeline.errors import PeltonError
from pipeline.manifest import decode
from pipeline.state_store import Snapshot, StateStore, StateStoreError

REACH_WAIT_S = 60.0  # for a store on the network, without a byte that gets through
RETRY_S = (0.5, 1.0, 2.0, 5.0)


def restored(
    make: Callable[[], Engine], store: StateStore, log: Log, group: str, partition: int, topics: Iterable[str],
    needed_ms: int, wait_s: float = REACH_WAIT_S,
) -> tuple[Engine, Snapshot | None, str | None]:  # fmt: skip
    """Return an engine with the state of the newest good snapshot at or before the last commit.

    A damaged or missing snapshot means an older one, or none: then the log is replayed from its begin.

    Args:
        make: returns an engine that has seen nothing.
        topics: that a replay without a snapshot begins with.
        needed_ms: how far back such a replay must begin.
        wait_s: how long to wait for a store that cannot be reached.

    Returns:
        The engine, the snapshot that it is of, and why the store could not be asked, None if it could.

    Raises:
        PeltonError: the store cannot be reached, and the log does not reach back far enough to do without.
    """
    engine, newest = make(), log.manifest(group, partition)
    if newest is None:
        return engine, None, None
    saved, problem = newest_within(store, newest[0], wait_s)
    if problem is not None:
        _check_begin(log, partition, topics, decode(newest[1]).at_ms, needed_ms, problem)
        return engine, None, f"no snapshot could be read, so the log was replayed: {problem}"
    if saved is not None and _is_of(saved, log, group, partition):
        try:
            engine.restore(*saved.layers)
            return engine, saved, None
        except ValueError:  # of an earlier version of the app: its features are rebuilt from the log
            engine = make()
    return engine, None, None


def newest_within(store: StateStore, commit_max: int, wait_s: float) -> tuple[Snapshot | None, str | None]:
    """Return the newest snapshot at or before a commit, waiting for a store that cannot be reached.

    Args:
        wait_s: how long at most without a byte that gets through; a folder of this machine is not waited for.

    Returns:
        The snapshot, None if there is none; and why the store could not be asked, None if it could.
    """
    found: list[Snapshot | None] = []
    problems = [f"{store.place}: no answer for {wait_s:g} s"]
    ended, given_up = threading.Event(), threading.Event()

    def ask() -> None:
        for attempt in range(1 << 30):
            try:
                found.append(store.newest(commit_max))
                break
            except StateStoreError as error:
                problems.append(str(error))
            if store.is_local or given_up.wait(RETRY_S[min(attempt, len(RETRY_S) - 1)]):
                break
        ended.set()

    # a daemon, as a client may hang for ever
    threading.Thread(target=ask, name="restore", daemon=True).start()
    before = 0
    while not ended.wait(wait_s) and store.bytes_read > before:
        before = store.bytes_read
    given_up.set()
    return (found[0], None) if found else (None, problems[-1])


def _is_of(saved: Snapshot, log: Log, group: str, partition: int) -> bool:
    """Whether a snapshot is of this log: one that was begun anew counts its commits from one again."""
    there = log.manifests(group, partition, saved.commit - 1)[:1]
    if not there or there[0][0] != saved.commit:  # its manifest is forgotten
        return True
    inputs = decode(there[0][1]).inputs
    return all(inputs[name][1] == offset for name, offset in saved.positions.items() if name in inputs)


def _check_begin(
    log: Log, partition: int, topics: Iterable[str], at_ms: int, needed_ms: int, problem: str
) -> None:  # fmt: skip
    """Refuse to replay a log of which too much is gone."""
    for topic in topics:
        begin = log.begin(topic, partition)
        if begin == 0 or begin == log.end(topic, partition):
            continue
        append_ms = log.read(topic, partition, begin, 1).append_ms
        if append_ms is not None and append_ms.size and append_ms[0] > at_ms - needed_ms:
            raise PeltonError(
                f"no snapshot can be read ({problem}), and the log is too short to do without: topic {topic!r} begins "
                f"{in_words(max(at_ms - int(append_ms[0]), 0))} before the last decision, and the windows need "
                f"{in_words(needed_ms)}; start again when the snapshots can be read"
            )
