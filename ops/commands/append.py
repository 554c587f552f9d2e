"""`pelton append`."""

from typing import Annotated

from typer import Argument, Option

from ops.commands.options import App, DataFolder


def append(
    app: App,
    files: Annotated[list[str], Argument(metavar="FILE", help="As of replay: NAME=FILE says of which stream.")],
    rate: Annotated[float | None, Option(help="Records a second and stream; the most, if not given.")] = None,
    data_folder: DataFolder = None,
) -> None:
    """Put records of files into the log, for `pelton run` to decide.

    \b
    For example: pelton append bank.py payments.jsonl frauds.jsonl --rate 100
    """
    import time

    from ops.appending import append_files
    from ops.inputs import open_inputs
    from ops.settings import Settings
    from ops.terminal import progress, ready_kernels, say
    from pipeline.loading import load_app

    loaded = load_app(app)
    settings = Settings.read(data_folder)
    inputs = open_inputs(loaded, files)
    ready_kernels()
    _, sealer = settings.secrets(loaded, make=True)
    with settings.open_log(sealer, make=True) as log, progress("appending") as step:
        counts = append_files(loaded, log, inputs, rate, lambda: time.time_ns() // 1_000_000, time.sleep, step)
    for name, (count, end) in counts.items():
        say(f"{name}: {count:,} records appended, the topic ends at {end:,}")
    say(f"Decide them: pelton run {app}")
