"""Sets the demo up in a folder: the stream, the log, the models that serve, and a producer that waits for its start."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from connectors.secrets import Sealer, Tokeniser
from connectors.sqlite_log import SqliteLog
from models.registry import Registry
from ops.beside import now_ms
from ops.producer import Producer, read_script
from ops.settings import Settings
from ops.simulate import SimulationSettings, simulate
from pipeline.app import App
from pipeline.live import create_topics
from pipeline.loading import load_app

HERE = Path(__file__).parent
APP, BUNDLE = HERE / "payments.py", HERE / "bundle"
DAYS = 14
EVENTS_PER_S = 800  # about what the producer appends a second, so that latency is that of a busy service
CARDS_PER_S, TERMINALS_PER_S = 8, 2  # a card pays about seven times a day, as in the training data
SEED = 7
DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
_MONDAY_MS = 4 * DAY_MS  # the first Monday since the epoch
WHO = "demo"


class DemoError(ValueError):
    """The demo cannot be set up as asked; the message says what to do."""


@dataclass
class Stage:
    """Everything the demo runs on.

    Attributes:
        folder: of app, data, log, registry and key; a data folder for all other commands.
        producer: not started yet.
    """

    folder: Path
    app: App
    log: SqliteLog
    registry: Registry
    producer: Producer
    tokeniser: Tokeniser | None
    sealer: Sealer | None

    def close(self) -> None:
        """Let go of the files."""
        self.producer.stop()
        self.log.close()
        self.registry.close()


def stream_settings(seconds: float, now: int) -> SimulationSettings:
    """Return the stream for a demo of that many seconds: two whole weeks that end before this one.

    The same length gives the same stream, moved by whole weeks: no event is ahead of the log's clock, and Mondays
    stay Mondays.
    """
    this_monday_ms = (now - _MONDAY_MS) // WEEK_MS * WEEK_MS + _MONDAY_MS
    return SimulationSettings(
        days=DAYS, seed=SEED, start_ms=this_monday_ms - DAYS * DAY_MS, events_per_day=EVENTS_PER_S * seconds / DAYS,
        cards=max(round(CARDS_PER_S * seconds), 20), terminals=max(round(TERMINALS_PER_S * seconds), 10),
    )  # fmt: skip


def set_up(folder: Path, seconds: float, speed: float | None = None) -> Stage:
    """Make the stream and everything that decides it, in a new folder.

    Args:
        folder: empty, or not there yet.
        seconds: how long the stream is to take, which says how many events it has.
        speed: seconds of event time in a second; as much as the stream needs to fit, if not given.

    Raises:
        DemoError: the folder is in use, or the bundle is missing.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DemoError(f"{folder} is not empty; name a new folder to keep the demo in")
    if not (BUNDLE / "bundle.json").exists():
        raise DemoError(f"the demo's models are missing at {BUNDLE}; install pelton again")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(APP, folder / APP.name)
    made = simulate(stream_settings(seconds, now_ms()), folder)
    app = load_app(str(folder / APP.name))
    settings = Settings(folder, folder / "log.db")  # its own key, log and registry, whatever the environment says
    tokeniser, sealer = settings.secrets(app, make=True)
    log = settings.open_log(sealer, make=True)
    create_topics(app, log)
    registry = Registry.open(None, settings.bundles)
    for task in app.tasks:
        registry.promote(task.name, registry.add_bundle(task.name, BUNDLE, WHO, now_ms()), WHO, now_ms())
    payments = read_script("payments", made.payments_path, "ts")
    frauds = read_script("frauds", made.labels_path, "reported_at")
    pace = speed or DAYS * DAY_MS / 1000 / seconds
    return Stage(folder, app, log, registry, Producer(log, [payments, frauds], pace, now_ms), tokeniser, sealer)
