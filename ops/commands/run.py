"""`pelton run`."""

from typing import Annotated

from typer import Option

from ops.commands.options import App, DataFolder, MetricsHost, MetricsPort


def run(
    app: App,
    output: Annotated[
        list[str] | None,
        Option(
            "--output",
            "-o",
            metavar="FILE|URL",
            show_default=False,
            help="Also write decisions to a .jsonl file, a folder/ of hourly Parquet, or a database URL.",
        ),
    ] = None,
    learn: Annotated[bool, Option("--learn/--no-learn", help="Learn from labels as they come.")] = True,
    until_idle: Annotated[bool, Option("--until-idle", help="End when everything in the log is decided.")] = False,
    plain: Annotated[bool, Option("--plain", help="Print lines, although this is a terminal.")] = False,
    metrics_port: MetricsPort = 0,
    metrics_host: MetricsHost = "127.0.0.1",
    data_folder: DataFolder = None,
) -> None:
    """Decide the records of the log as they come, until Ctrl-C; a stop at any moment loses nothing.

    \b
    For example: pelton run bank.py --output decisions.jsonl
    """  # fmt: skip
    import shutil

    from ops.live_words import folded
    from ops.running import run_app
    from ops.settings import Settings
    from ops.terminal import note, ready_kernels, say
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder)
    ready_kernels()
    done = run_app(
        loaded,
        settings,
        output or [],
        learn,
        until_idle,
        plain,
        lambda text: note(text.replace("APP", app)),
        (metrics_host, metrics_port) if metrics_port else None,
    )
    say()
    for line in folded(done, shutil.get_terminal_size((100, 24)).columns):
        say(line)
