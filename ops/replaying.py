"""The work of `pelton replay`: files through an app into an output, decoding and writing beside the engine.

Three threads in a row, each with a bound on what waits for it: one decodes, one computes and decides, one encodes and
writes. Only the one in the middle runs Python per event, and only to word reasons.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from connectors.behind_sink import BehindSink
from connectors.records import Chunk
from connectors.sinks import Sink, open_sink
from ops.pace import Pace, PacedInput
from pipeline.app import AnyTask, App
from pipeline.engine import Featured
from pipeline.inputs import Ledger
from pipeline.plan import StreamPlan
from pipeline.replay import Replay
from pipeline.row_columns import RowColumns
from pipeline.windows import WindowFeature

if TYPE_CHECKING:
    from connectors.secrets import Tokeniser  # it brings cryptography along, which a replay rarely needs
    from pipeline.decisions import Served

WAITING_MAX = 3  # batches that wait to be written
PROGRESS_EVERY_S = 0.1
Progress = Callable[[int, int, int], None]  # bytes read, bytes in all, events


class Source(Protocol):
    """An input of a replay that knows how far it is, such as `connectors.files.FileInput`."""

    bytes_read: int
    bytes_total: int

    def blocks(self) -> Iterator[Any]:
        """Return undecoded blocks in order."""

    def decode_block(self, block: Any) -> Chunk:
        """Decode a block; any thread may."""


class ReplayError(ValueError):
    """A replay cannot be done as asked."""


@dataclass
class ReplaySummary:
    """What a replay did.

    Attributes:
        events: applied events of the decided streams.
        before: how many more came before the time from which on rows are written; windows saw them.
        seconds: from the first byte read to the last one written.
        ledgers: per input.
        dead: how many records were invalid, future or late.
        decisions: how often each decision was made, by all tasks.
        where_time_goes: seconds of processor time by stage; the stages overlap, so their sum may exceed `seconds`.
    """

    events: int = 0
    before: int = 0
    seconds: float = 0.0
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    dead: int = 0
    decisions: dict[str, int] = field(default_factory=dict)
    where_time_goes: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "features", "score", "encode"), 0.0)
    )


def replay_files(
    app: App,
    inputs: Mapping[str, Source],
    output: str | None = None,
    features_only: bool = False,
    speed: float | None = None,
    served: Mapping[str, Served] | None = None,
    tokeniser: Tokeniser | None = None,
    progress: Progress | None = None,
    since_ms: int | None = None,
) -> ReplaySummary:
    """Run an app over files, or over what topics hold.

    Args:
        app: with the stream of each input.
        inputs: stream name -> its records.
        output: where rows go, see `connectors.sinks.open_sink`; None to compute only. Where there are several tasks
            (with features_only: several decided streams), each has a file of its own: `out-NAME.csv`.
        features_only: write the event's id and the features, and decide nothing.
        speed: times the speed of the events' own clock; None is as fast as possible.
        served: task name -> the models that decide; rules decide alone for tasks that are not there.
        tokeniser: for sensitive fields.
        progress: called about ten times a second.
        since_ms: earlier events are seen by windows only: they are neither decided nor written.

    Raises:
        ReplayError: no input is of a stream that is decided.
        ValueError: an input or the output cannot be used; the message says why.
    """
    plans = [plan for name, plan in app.plans.items() if name in inputs]
    if not plans:
        names = ", ".join(app.plans)
        raise ReplayError(f"no input is of a stream that is decided; give one of {names}, for example {names}=FILE")
    gc.freeze()  # what imports made is no garbage: looking through it, to the very end, took a fifth of a second
    done, started = ReplaySummary(), time.perf_counter()
    pace = Pace(speed) if speed is not None else None
    tasks = [task for task in app.tasks if task.on.name in {plan.stream.name for plan in plans}]
    for plan in plans:
        mine = [task for task in tasks if task.on.name == plan.stream.name]
        if features_only:
            writers = [_features_writer(plan, _named(output, plan.stream.name, len(plans)))]
        else:
            writers = [
                _TaskWriter(task, plan, (served or {}).get(task.name), _named(output, task.name, len(tasks)), done)
                for task in mine
            ]
        _replay(plan, inputs, writers, pace, tokeniser, progress, done, since_ms)
    done.seconds = time.perf_counter() - started
    gc.freeze()
    return done


def _replay(
    plan: StreamPlan,
    inputs: Mapping[str, Source],
    writers: list[Any],
    pace: Pace | None,
    tokeniser: Tokeniser | None,
    progress: Progress | None,
    done: ReplaySummary,
    since_ms: int | None,
) -> None:
    times = done.where_time_goes
    known = {name: each for name, each in inputs.items() if name in {plan.stream.name, *_others(plan)}}
    timed = {name: _Timed(each if pace is None else PacedInput(each, pace), times) for name, each in known.items()}
    shown = 0.0
    with _Closing(writers), Replay(plan, timed, tokeniser) as replay:
        commits = iter(replay)
        while True:
            before = time.thread_time()
            step = next(commits, None)
            times["features"] += time.thread_time() - before
            if step is None:
                break
            featured = step[1] if since_ms is None else since(step[1], since_ms)
            done.before += len(step[1]) - len(featured)
            if pace is not None and len(featured):
                pace.wait(featured.columns.times_ms)
            for writer in writers:
                writer.write(featured)
            _count(done, featured)
            if progress is not None and time.perf_counter() - shown > PROGRESS_EVERY_S:
                shown = time.perf_counter()
                progress(*_bytes(known), done.events)
    for writer in writers:
        times["encode"] += writer.seconds
    if progress is not None:
        progress(*_bytes(known), done.events)


def _others(plan: StreamPlan) -> list[str]:
    facts = [plan.facts.name] if plan.facts is not None and plan.facts.derived_from is None else []
    return [*(each.name for each in plan.others), *facts]


def since(featured: Featured, time_ms: int) -> Featured:
    """Leave out events before a time."""
    kept = featured.columns.times_ms >= time_ms
    if kept.all():
        return featured
    rows = featured.rows.filter(pa.array(kept))
    append_ms = featured.append_ms[kept] if featured.append_ms is not None else None
    return replace(
        featured, rows=rows, offsets=featured.offsets[kept], matrix=featured.matrix[kept],
        columns=RowColumns(rows, featured.columns.schema), floors_ms=featured.floors_ms[kept], append_ms=append_ms,
    )  # fmt: skip


def _bytes(inputs: Mapping[str, Source]) -> tuple[int, int]:
    return sum(each.bytes_read for each in inputs.values()), sum(each.bytes_total for each in inputs.values())


def _count(done: ReplaySummary, featured: Featured) -> None:
    done.events += len(featured)
    done.dead += len(featured.dead)
    for name, ledger in featured.ledgers.items():
        done.ledgers.setdefault(name, Ledger()).add(ledger)


def _named(output: str | None, name: str, several: int) -> str | None:
    """Return the output of one of several tasks or streams."""
    if output is None or several < 2:
        return output
    if "://" in output:
        raise ReplayError(f"{output} cannot take the rows of {several} tasks; give a file or a folder")
    if output.endswith("/") or Path(output).is_dir():
        return f"{output.rstrip('/')}/{name}/"
    path = Path(output)
    plain, endings = path.name.partition(".")[0], path.name.partition(".")[2]
    return str(path.with_name(f"{plain}-{name}.{endings}"))


class _Timed:
    """An input whose reading and decoding is timed, in the thread that does it."""

    def __init__(self, source: Any, times: dict[str, float]) -> None:
        self._source, self._times = source, times

    def blocks(self) -> Iterator[Any]:
        blocks = self._source.blocks()
        while True:
            before = time.thread_time()
            block = next(blocks, None)
            self._times["decode"] += time.thread_time() - before
            if block is None:
                return
            yield block

    def decode_block(self, block: Any) -> Chunk:
        before = time.thread_time()
        chunk: Chunk = self._source.decode_block(block)
        self._times["decode"] += time.thread_time() - before
        return chunk


class _TimedSink:
    """A sink whose writing is timed, in the thread that does it; rows are made there too."""

    def __init__(self, target: str, rows_of: Callable[[Any], pa.RecordBatch]) -> None:
        self._sink: Sink = open_sink(target)
        self._rows_of = rows_of
        self.seconds = 0.0

    def write(self, rows: Any) -> None:
        before = time.thread_time()
        self._sink.write(self._rows_of(rows))
        self.seconds += time.thread_time() - before

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self._sink.close()

    def abandon(self) -> None:
        self._sink.abandon()


class _Writer:
    """Hands what one task or stream gives to the thread that writes it."""

    def __init__(self, output: str | None, rows_of: Callable[[Any], pa.RecordBatch]) -> None:
        self._timed = _TimedSink(output, rows_of) if output is not None else None
        self._sink = BehindSink(self._timed, WAITING_MAX) if self._timed is not None else None

    @property
    def seconds(self) -> float:
        return self._timed.seconds if self._timed is not None else 0.0

    def write(self, featured: Featured) -> None:
        if self._sink is not None and len(featured):
            self._sink.write(featured)  # made into rows by the thread

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()

    def abandon(self) -> None:
        if self._sink is not None:
            self._sink.abandon()


class _TaskWriter(_Writer):
    """Decides the events of one task, and hands the decisions on."""

    def __init__(
        self, task: AnyTask, plan: StreamPlan, served: Served | None, output: str | None, done: ReplaySummary
    ) -> None:
        from models.scorer import Scorer
        from ops.split_scorer import SplitScorer  # late: features alone need no models
        from pipeline.decisions import Served
        from pipeline.kinds import decider_of

        super().__init__(output, lambda rows: rows)
        served = served or Served()
        if isinstance(served.scorer, Scorer):
            served = replace(served, scorer=SplitScorer(served.scorer))
        self._decider, self._served, self._done = decider_of(task, plan), served, done

    def write(self, featured: Featured) -> None:
        if not len(featured):
            return
        before = time.perf_counter()  # models use threads of their own
        rows = self._decider.decide(featured, self._served)
        self._done.where_time_goes["score"] += time.perf_counter() - before
        for each in rows.column("decision").value_counts().to_pylist():
            self._done.decisions[each["values"]] = self._done.decisions.get(each["values"], 0) + each["counts"]
        if self._sink is not None:
            self._sink.write(rows)


def _features_writer(plan: StreamPlan, output: str | None) -> _Writer:
    """Return what writes the event's id and its features; counts are whole numbers."""
    name = plan.stream.schema.id
    whole = [isinstance(node, WindowFeature) and node.operation in ("count", "distinct") for node in plan.nodes]
    kinds = [pa.int64() if each else pa.float64() for each in whole]
    names = [each if each != name else f"{each}_" for each in plan.names]
    schema = pa.schema([(name, pa.string()), *zip(names, kinds, strict=True)])

    def rows_of(featured: Featured) -> pa.RecordBatch:
        columns = [featured.rows.column(name).cast(pa.string())]
        by_feature = featured.matrix.T.copy()  # (features, events): each a column of its own
        for values, is_whole in zip(by_feature, whole, strict=True):
            columns.append(pa.array(values.astype("int64") if is_whole else values))  # sinks write null for NaN
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return _Writer(output, rows_of)


class _Closing(AbstractContextManager["_Closing"]):
    """Finishes the outputs, or leaves them unfinished if something went wrong."""

    def __init__(self, writers: list[Any]) -> None:
        self._writers = writers

    def __exit__(self, kind: object, error: object, at: object) -> None:
        for writer in self._writers:
            if kind is None:
                writer.close()
            else:
                writer.abandon()
