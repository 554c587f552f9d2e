"""Sets the demo up in a folder: streams, log, the models that serve, and a producer that waits for its start."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from connectors.secrets import Sealer, Tokeniser
from connectors.sqlite_log import SqliteLog
from models.registry import Registry
from ops.beside import now_ms
from ops.producer import Producer, Script, read_script
from ops.settings import Settings
from ops.simulate import SimulationSettings, simulate
from ops.simulate.messages import MessageSettings, simulate_messages
from ops.simulate.photos import PhotoSettings, simulate_photos
from pipeline.app import App
from pipeline.live import create_topics
from pipeline.loading import load_app

HERE = Path(__file__).parent
APP, DEMO = HERE / "payments.py", HERE / "all_tasks.py"
BUNDLE = HERE / "bundle"
BUNDLES = {"risk": BUNDLE, "support": HERE / "bundle_support", "defect": HERE / "bundle_defect"}
STREAMS = ("payments", "frauds", "messages", "answers", "photos", "inspections")
DAYS = 14
EVENTS_PER_S = 800  # about what the producer appends a second, so that latency is that of a busy service
CARDS_PER_S, TERMINALS_PER_S = 8, 2  # a card pays about seven times a day, as in the training data
MESSAGES_PER_S, PHOTOS_PER_S = 20, 8
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
    """Return the payments for a demo of that many seconds: two whole weeks that end before this one.

    The same length gives the same stream, moved by whole weeks: no event is ahead of the log's clock, and Mondays
    stay Mondays.
    """
    this_monday_ms = (now - _MONDAY_MS) // WEEK_MS * WEEK_MS + _MONDAY_MS
    return SimulationSettings(
        days=DAYS, seed=SEED, start_ms=this_monday_ms - DAYS * DAY_MS, events_per_day=EVENTS_PER_S * seconds / DAYS,
        cards=max(round(CARDS_PER_S * seconds), 20), terminals=max(round(TERMINALS_PER_S * seconds), 10),
    )  # fmt: skip


def message_settings(seconds: float, start_ms: int) -> MessageSettings:
    """Return the messages of the same two weeks."""
    count = max(round(MESSAGES_PER_S * seconds), 1)
    return MessageSettings(messages=count, per_hour=count / (DAYS * 24), seed=SEED, start_ms=start_ms)


def photo_settings(seconds: float, start_ms: int) -> PhotoSettings:
    """Return the photographs of the same two weeks."""
    count = max(round(PHOTOS_PER_S * seconds), 1)
    return PhotoSettings(photos=count, every_ms=DAYS * DAY_MS // count, seed=SEED, start_ms=start_ms)


def set_up(folder: Path, seconds: float, speed: float | None = None) -> Stage:
    """Make the streams and everything that decides them, in a new folder.

    Args:
        folder: empty, or not there yet.
        seconds: how long the streams are to take, which says how many events they have.
        speed: seconds of event time in a second; as much as the streams need to fit, if not given.

    Raises:
        DemoError: the folder is in use, or a bundle is missing.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DemoError(f"{folder} is not empty; name a new folder to keep the demo in")
    missing = [bundle for bundle in BUNDLES.values() if not (bundle / "bundle.json").exists()]
    if missing:
        raise DemoError(f"the demo's models are missing at {missing[0]}; install pelton again")
    folder.mkdir(parents=True, exist_ok=True)
    for each in (DEMO, APP):  # the second is an app to begin with
        shutil.copyfile(each, folder / each.name)
    scripts = _make_streams(folder, seconds)
    app = load_app(str(folder / DEMO.name))
    settings = Settings(folder, folder / "log.db")  # its own key, log and registry, whatever the environment says
    tokeniser, sealer = settings.secrets(app, make=True)
    log = settings.open_log(sealer, make=True)
    create_topics(app, log)
    registry = Registry.open(None, settings.bundles)
    for task in app.tasks:
        registry.promote(task.name, registry.add_bundle(task.name, BUNDLES[task.name], WHO, now_ms()), WHO, now_ms())
    pace = speed or DAYS * DAY_MS / 1000 / seconds
    return Stage(folder, app, log, registry, Producer(log, scripts, pace, now_ms), tokeniser, sealer)


def _make_streams(folder: Path, seconds: float) -> list[Script]:
    """Write the files of all streams, and say when each record is due; payments first, they are the pace."""
    wanted = stream_settings(seconds, now_ms())
    payments = simulate(wanted, folder)
    messages = simulate_messages(message_settings(seconds, wanted.start_ms), folder)
    photos = simulate_photos(photo_settings(seconds, wanted.start_ms), folder)
    return [
        read_script("payments", payments.payments_path, "ts"),
        read_script("frauds", payments.labels_path, "reported_at"),
        read_script("messages", messages.messages_path, "ts"),
        read_script("answers", messages.labels_path, "answered_at"),
        read_script("photos", photos.photos_path, "ts"),
        read_script("inspections", photos.labels_path, "inspected_at"),
    ]
