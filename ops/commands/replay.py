"""`pelton replay`."""

from pathlib import Path
from typing import Annotated

from typer import Option

from ops.commands.options import App, DataFolder, Inputs


def replay(
    app: App,
    inputs: Inputs,
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
    data_folder: DataFolder = None,
) -> None:
    """Run an app over files: features and decisions as they would have been.

    \b
    For example: pelton replay bank.py --input payments.jsonl frauds.jsonl --output decisions.csv
                 pelton replay bank.py --input payments.csv.gz --features-only --output features.parquet
    """  # fmt: skip
    from ops.inputs import open_inputs
    from ops.replay_view import read_speed, summary
    from ops.replaying import replay_files
    from ops.served import served_for
    from ops.settings import Settings
    from ops.terminal import note, progress, ready_kernels, say
    from pipeline.loading import load_app

    loaded, settings, factor = load_app(app), Settings.read(data_folder), read_speed(speed)
    opened = open_inputs(loaded, inputs)
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    served, notes = ({}, []) if features_only else served_for(loaded, settings, bundle)
    for each in notes:
        note(each.replace("APP", app))
    with progress("replaying") as step:
        done = replay_files(
            loaded, opened, output, features_only, factor, served, tokeniser,
            lambda read, total, events: step(read, total, f"{events:,} events"),
        )  # fmt: skip
    for line in summary(done, output):
        say(line)
