"""`pelton state`: what is known about a key right now."""

from typing import Annotated

import typer
from typer import Argument, Option

from ops.commands.options import DataFolder, Kafka, State

state = typer.Typer(help="What is known about a key now.", no_args_is_help=True)


@state.callback()
def _group() -> None: ...


@state.command()
def get(
    stream: Annotated[str, Argument(metavar="STREAM", help="A stream that the app decides.")],
    key: Annotated[str, Argument(metavar="KEY", help="A value, or FIELD=VALUE if there are several keys.")],
    app: Annotated[str, Option("--app", "-a", metavar="APP", help="The app's file.")],
    kafka: Kafka = None,
    state: State = None,
    data_folder: DataFolder = None,
) -> None:
    """Print the live features of a key, with their age, as of the newest decided event.

    \b
    For example: pelton state get payments card=4000001234567899 --app bank.py
                 pelton state get payments card=4000001234567899 --app bank.py --kafka localhost:9092
    """
    import time

    from ops.message_formats import decoders_of
    from ops.opened import opened_log
    from ops.settings import Settings
    from ops.terminal import counted, facts, note, ready_kernels, say, table
    from ops.views.state import look_up
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder, state=state)
    ready_kernels()
    tokeniser, sealer = settings.secrets(loaded)
    decoders = decoders_of(loaded) if kafka is not None else {}
    with opened_log(settings, kafka, loaded, sealer) as log:
        found = look_up(loaded, settings, log, tokeniser, stream, key, decoders)
    facts(found.lines(time.time_ns() // 1_000_000))
    if found.events >= 0:
        say()
        table(("feature", "value", "what"), [(each.name, each.shown, each.what) for each in found.features])
    if found.waiting:
        about = "about " if kafka is not None else ""
        note(f"{about}{counted(found.waiting, 'record')} of the log not decided yet: pelton run {app}")
