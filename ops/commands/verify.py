"""`pelton verify`."""

from typing import Annotated

import typer
from typer import Option

from ops.commands.options import App, DataFolder, Kafka, SomeInputs


def verify(
    app: App,
    inputs: SomeInputs = None,
    sample: Annotated[int, Option(min=1, help="How many events to recompute, all their features.")] = 2000,
    seed: Annotated[int, Option(help="Of the choice of events.")] = 7,
    kafka: Kafka = None,
    watch_s: Annotated[
        float | None,
        Option("--watch", metavar="SECONDS", min=0.0, show_default=False, help="With --kafka: again and again."),
    ] = None,
    data_folder: DataFolder = None,
) -> None:
    """Recompute a sample of features the slow way, and count differences.

    Of files, everything is replayed. With --kafka, what a running system served last is recomputed from its topics; it
    only reads. The exit code is 1 if anything differs.

    \b
    For example: pelton verify bank.py --input payments.jsonl frauds.jsonl --sample 5000
                 pelton verify bank.py --kafka localhost:9092 --watch 60
    """
    from ops.settings import Settings
    from ops.terminal import ready_kernels
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder)
    if kafka is None or inputs:
        from ops.inputs import open_inputs
        from ops.verifying import verify_and_tell

        opened = open_inputs(loaded, inputs or [])
        ready_kernels()
        tokeniser, _ = settings.secrets(loaded, make=True)
        holds = verify_and_tell(loaded, opened, sample, seed, tokeniser)
    else:
        from ops.live_parity import watch

        ready_kernels()
        holds = watch(loaded, settings, kafka, sample, seed, watch_s)
    if not holds:
        raise typer.Exit(1)
