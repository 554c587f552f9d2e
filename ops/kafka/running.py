"""Runs an app on Kafka, with lines that say how it goes, until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from connectors.kafka.admin import KafkaAdmin
from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings
from ops.app_topics import app_topics
from ops.beside import STEP_S, Following, Learning, learns_live, now_ms, queue_of
from ops.kafka.faust import SESSION_S
from ops.kafka.figures import Summed
from ops.kafka.sinks import PartitionSinks
from ops.kafka.worker import KafkaRunner, MakeWorker
from ops.message_formats import decoders_of
from ops.running import kept_here, serving_metrics
from ops.settings import Settings, SettingsError
from ops.views import live_words
from ops.views.live_app import AppFigures, Pictures
from ops.views.live_show import Show, stopping_on_signals
from pipeline.app import App
from pipeline.families import families_of
from pipeline.learning import LearnerLoop
from pipeline.live import Step, Worker, create_topics, stages_of
from pipeline.stages import LINES, Stage, decoding
from pipeline.topics import rows_of

Note = Callable[[str], None]


@dataclass(frozen=True)
class KafkaRun:
    """How to run on Kafka.

    Attributes:
        kafka: where it is.
        outputs: files, folders and database URLs that decisions go to besides the topic.
        at_least_once: no transactions: faster, and a decision may be there twice after a crash.
        session_s: how long a silent worker keeps its partitions.
        learn, until_idle: as of the local run.
        plain: no live view, although there is a terminal.
        metrics_at: host and port to serve metrics at.
    """

    kafka: KafkaSettings
    outputs: Sequence[str] = ()
    at_least_once: bool = False
    session_s: float = SESSION_S
    learn: bool = True
    until_idle: bool = False
    plain: bool = False
    metrics_at: tuple[str, int] | None = None


def run_on_kafka(app: App, settings: Settings, how: KafkaRun, note: Note) -> list[tuple[str, str]]:
    """Run until Ctrl-C or SIGTERM, or until nothing is left; return what was done, in words.

    Args:
        app: what to run.
        settings: where registry, snapshots and key are.
        how: where Kafka is, and how to run on it.
        note: prints what the user should know.

    Raises:
        ValueError: something must be mended before it can run, in one sentence.
    """
    decoders = decoders_of(app)
    partitions = checked_partitions(app, how.kafka)
    with ExitStack() as stack:
        tokeniser, sealer, registry = stack.enter_context(kept_here(app, settings, note))
        log = stack.enter_context(KafkaLog(how.kafka, sealer, at_least_once=how.at_least_once))
        create_topics(app, log, partitions)
        # a log of its own, that nobody feeds: what is fed may be behind, and labels come in the order of all partitions
        learner_log = stack.enter_context(KafkaLog(how.kafka, sealer, rows=rows_of(app)))
        metrics = None
        if how.metrics_at is not None:
            metrics = stack.enter_context(serving_metrics(app, how.metrics_at, note, "kafka"))
        on_change = metrics.serving if metrics is not None else None
        following = Following(app, registry, on_change, settings.gpu, queue_of(app, metrics))
        figures, summed = AppFigures(app), Summed()
        began_s = time.monotonic()

        def on_step(worker: Worker, step: Step) -> None:
            figures.add(summed.step(worker, step), time.monotonic() - began_s)

        def pictures() -> Pictures:
            return figures.pictures(time.monotonic() - began_s, runner.learned, tuple(runner.problems))

        def learning() -> Learning:
            assert registry is not None
            tasks = [task for task in app.tasks if learns_live(task)]
            return Learning({
                task.name: LearnerLoop(
                    app, task, learner_log, registry, tokeniser, decoder=decoders.get(task.label.stream.name)
                ) for task in tasks if task.label is not None
            })  # fmt: skip

        def maker(stage: Stage, level: int) -> MakeWorker:
            return lambda partition: Worker(
                app, stage, log, settings.state, following.served, now_ms, time.perf_counter, tokeniser, sealer,
                partition, STEP_S, partial(following.queue.ahead, level),
            )  # fmt: skip

        stages = decoding(stages_of(app, partitions), decoders)
        families = families_of(app, stages)
        levels = {group: family.level for family in families for group in family.groups}
        topics = {each.topic: each.kind != LINES for stage in stages for each in stage.inputs}
        runner = KafkaRunner(
            app, log, how.kafka, {stage.group: maker(stage, levels[stage.group]) for stage in stages},
            [family.groups for family in families], topics, partitions, following,
            PartitionSinks(app.name, log, how.outputs),
            learning if how.learn and registry is not None else None, on_step, note, how.session_s,
            metrics=metrics,
        )  # fmt: skip
        if metrics is not None:
            metrics.ask(end=log.end, learned=lambda: runner.learned, problems=lambda: runner.problems)
        with stopping_on_signals(runner.stop), Show(pictures, "pelton run", how.plain):
            runner.run(how.until_idle)
        return live_words.summary_of(pictures())


def checked_partitions(app: App, kafka: KafkaSettings) -> int:
    """Return how many partitions the app's topics have.

    Raises:
        SettingsError: a stream's topic is missing, has another number of partitions than the others, or keeps too
            little. Topics of the app's own are made by the first worker, and must not have changed since.
    """
    with KafkaAdmin(kafka) as admin:
        wanted = app_topics(app, 1)
        there = admin.describe([each.topic.name for each in wanted])
    streams = [each for each in wanted if each.what == "stream"]
    missing = [each.topic.name for each in streams if each.topic.name not in there]
    if missing:
        raise SettingsError(
            f"there is no topic {missing[0]!r} at {kafka.where}; "
            f"make it: pelton topics create APP --kafka {kafka.where}"
        )
    count = there[streams[0].topic.name].partitions
    wanted = app_topics(app, count)
    for each in wanted:
        if each.topic.name not in there:
            continue
        found = there[each.topic.name]
        if found.partitions != count:
            raise SettingsError(
                f"topic {each.topic.name!r} has {found.partitions} partitions and {streams[0].topic.name!r} {count}: "
                f"keys would move away from their state; give them the same number, or start under a new app name"
            )
        problems = each.problems(found)
        if problems:
            raise SettingsError(f"topic {each.topic.name!r}: {problems[0]}")
    return count
