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
    tokeniser, sealer = settings.secrets(loaded, make=True)
    served, notes = ({}, []) if features_only else served_for(loaded, settings, bundle)
    for each in [
        *notes,
        *(
            f"{name}: {each.scorer.rung if each.scorer is not None else 'rules'} of bundle {each.bundle}"
            for name, each in served.items()
        ),
    ]:
        note(each.replace("APP", app))
    with progress("replaying") as step:
        done = replay_files(
            loaded, opened, output, features_only, factor, served, tokeniser,
            lambda read, total, events: step(read, total, f"{events:,} events"),
        )  # fmt: skip
    if dead is not None:
        from ops.dead_file import dead_of_files, write_dead  # late: with it comes what recovers a log

        hidden = {name for name, stream in loaded.streams.items() if stream.schema.has_sensitive}
        write_dead(dead, dead_of_files(loaded, open_inputs(loaded, inputs), tokeniser), hidden, sealer)
    for line in summary(done, output, dead):
        say(line)
    if done.dead and not done.events:
        from ops.dead_file import dead_of_files

        first = next(dead_of_files(loaded, open_inputs(loaded, inputs), tokeniser))
        note(f"nothing was applied; the first record of {first.stream} is {first.kind}: {first.cause}")
