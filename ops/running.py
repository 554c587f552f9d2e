"""Runs an app on the log of the data folder, with a view of it, until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from connectors.log import Log
from connectors.sinks import Sink, open_sink
from ops.runner import AppRunner
from ops.settings import Settings
from ops.sink_feed import group_of_sink
from ops.views import live_words
from ops.views.live_app import AppFigures, Pictures
from ops.views.live_show import Show, stopping_on_signals
from pipeline.app import App

if TYPE_CHECKING:
    from connectors.secrets import Sealer, Tokeniser
    from models.registry import Registry
    from ops.metrics.metrics import Metrics

Note = Callable[[str], None]
GROWING = (".jsonl", ".ndjson", ".json")  # files that one run after the other adds lines to


def run_app(
    app: App,
    settings: Settings,
    outputs: Sequence[str],
    learn: bool,
    until_idle: bool,
    plain: bool,
    note: Note,
    metrics_at: tuple[str, int] | None = None,
) -> list[tuple[str, str]]:
    """Run until Ctrl-C or SIGTERM, or until nothing is left; return what was done, in words.

    Args:
        app: what to run.
        settings: where log, registry, snapshots and key are; what is missing is made.
        outputs: files, folders and database URLs that decisions go to besides the log.
        learn, until_idle: as of `AppRunner`.
        plain: no live view, although there is a terminal.
        note: prints what the user should know before the start.
        metrics_at: host and port to serve metrics at.

    Raises:
        ValueError: a file cannot be used, or another process runs the app; in one sentence. Nothing is lost.
    """
    with ExitStack() as stack:
        tokeniser, sealer, registry = stack.enter_context(kept_here(app, settings, note))
        log = stack.enter_context(settings.open_log(sealer, make=True))
        sinks = open_sinks(app, log, outputs)
        figures = AppFigures(app, log, tokeniser)
        metrics = stack.enter_context(serving_metrics(app, metrics_at, note)) if metrics_at is not None else None
        began_s = time.monotonic()

        def pictures() -> Pictures:
            return figures.pictures(time.monotonic() - began_s, runner.learned, tuple(runner.problems))

        runner = AppRunner(
            app, log, registry, settings.data, tokeniser, sealer, sinks,
            on_step=lambda step: figures.add(step, time.monotonic() - began_s), learn=learn, metrics=metrics,
            state=settings.state, gpu=settings.gpu,
        )  # fmt: skip
        with runner:
            for worker in runner.workers:
                if worker.commit:
                    note(
                        f"going on after commit {worker.commit:,}: {worker.replayed:,} records replayed for the windows"
                    )
            began_s = time.monotonic()
            with stopping_on_signals(runner.stop), Show(pictures, "pelton run", plain):
                runner.run(until_idle)
        return live_words.summary_of(pictures())


@contextmanager
def kept_here(
    app: App, settings: Settings, note: Note
) -> Iterator[tuple[Tokeniser | None, Sealer | None, Registry | None]]:
    """Give what hides sensitive values, and the registry until the block ends; what is missing is made.

    Raises:
        SecretError: the key is malformed, or others can read its file.
        RegistryError: it cannot be used.
    """
    is_new = not settings.key_file.exists()
    tokeniser, sealer = settings.secrets(app, make=True)
    if tokeniser is not None and not settings.key:
        note(
            f"key {'made' if is_new else 'used'}: {settings.key_file}, readable by its owner only; "
            f"who runs the app elsewhere needs the same, as PELTON_KEY"
        )
    registry = settings.open_registry(make=True)
    try:
        yield tokeniser, sealer, registry
    finally:
        if registry is not None:
            registry.close()


@contextmanager
def serving_metrics(app: App, at: tuple[str, int], note: Note, log: str = "embedded") -> Iterator[Metrics]:
    """Serve metrics at a host and port until the block ends.

    Raises:
        ValueError: the address cannot be used.
    """
    from ops.metrics.metrics import Metrics
    from ops.metrics.server import MetricsServer

    metrics = Metrics(app, log)
    with MetricsServer(metrics, at[1], at[0]) as server:
        note(f"metrics at http://{at[0]}:{server.port}/metrics, health at /healthz")
        yield metrics


def open_sinks(app: App, log: Log, outputs: Sequence[str]) -> dict[str, Sink]:
    """Open the sinks that outputs mean; what an earlier run began is gone on with.

    Raises:
        ConnectorError: one cannot be opened, or cannot be gone on with.
    """
    sinks: dict[str, Sink] = {}
    for each in outputs:
        began = log.manifest(group_of_sink(app.name, each), 0) is not None
        sinks[each] = open_sink(each, resume=began or each.endswith(GROWING))
    return sinks
