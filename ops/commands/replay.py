"""`pelton replay`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ops.commands.options import App, DataFolder, Gpu, Kafka, SomeInputs

if TYPE_CHECKING:
    from pipeline.decisions import Served


def replay(
    app: App,
    inputs: SomeInputs = None,
    output: Annotated[
        str | None,
        Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="CSV, JSON lines or Parquet by its ending, a folder/ for hourly Parquet, or a database URL.",
        ),
    ] = None,
    features_only: Annotated[bool, Option("--features-only", help="Write features, decide nothing.")] = False,
    speed: Annotated[str, Option(metavar="10x|max", help="Times the speed of the events' own clock.")] = "max",
    bundle: Annotated[
        str | None,
        Option(metavar="DIR|ID", help="Models to decide with; else those that serve.", show_default=False),
    ] = None,
    dead: Annotated[
        Path | None,
        Option(metavar="FILE", help="Write what was not applied, as JSON lines.", show_default=False),
    ] = None,
    from_topic: Annotated[
        bool, Option("--from-topic", help="Not files: what the app's topics hold, with --kafka or of the log here.")
    ] = False,
    since: Annotated[
        str | None,
        Option(metavar="TIME", help="With --from-topic: events from then on; windows see more.", show_default=False),
    ] = None,
    kafka: Kafka = None,
    gpu: Gpu = None,
    data_folder: DataFolder = None,
) -> None:
    """Run an app over files or topics: features and decisions as they would have been.

    Topics of several partitions are replayed as one, merged by event time.

    \b
    For example: pelton replay bank.py --input payments.jsonl frauds.jsonl --output decisions.csv
                 pelton replay bank.py --input payments.csv.gz --features-only --output features.parquet
                 pelton replay bank.py --from-topic --since 2026-01-31 --kafka localhost:9092 -o decisions.csv
    """  # fmt: skip
    from ops.settings import Settings
    from ops.terminal import note, ready_kernels
    from ops.times import read_time
    from ops.topic_replay import ReplayInputs, replay_and_tell
    from ops.views.replay import read_speed
    from pipeline.loading import load_app

    loaded, settings, factor = load_app(app), Settings.read(data_folder, gpu=gpu), read_speed(speed)
    since_ms = read_time(since)
    source = ReplayInputs(loaded, settings, inputs or [], from_topic, since_ms, kafka if from_topic else None, factor)
    ready_kernels()
    tokeniser, sealer = settings.secrets(loaded, make=True)
    served: dict[str, Served] = {}
    notes: list[str] = []
    if not features_only:
        from ops.served import served_for  # late: features alone do without models

        served, notes = served_for(loaded, settings, bundle)
    for each in [
        *notes,
        *(f"{name}: {each.rung} of bundle {each.bundle}" for name, each in served.items()),
    ]:
        note(each.replace("APP", app))
    replay_and_tell(source, output, features_only, served, tokeniser, sealer, dead)
