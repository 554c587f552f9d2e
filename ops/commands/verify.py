"""`pelton verify`."""

from typing import Annotated

import typer
from typer import Option

from ops.commands.options import App, DataFolder, Inputs


def verify(
    app: App,
    inputs: Inputs,
    sample: Annotated[int, Option(min=1, help="How many events to recompute, all their features.")] = 2000,
    seed: Annotated[int, Option(help="Of the choice of events.")] = 7,
    data_folder: DataFolder = None,
) -> None:
    """Recompute a sample of features the slow way, and count differences.

    The exit code is 1 if anything differs.

    \b
    For example: pelton verify bank.py --input payments.jsonl frauds.jsonl --sample 5000
    """
    from ops.inputs import open_inputs
    from ops.settings import Settings
    from ops.terminal import progress, ready_kernels, say
    from ops.verifying import verify_files
    from pipeline.loading import load_app

    loaded, settings = load_app(app), Settings.read(data_folder)
    opened = open_inputs(loaded, inputs)
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    with progress("verifying") as step:
        found = verify_files(loaded, opened, sample, seed, tokeniser, step)
    for name, each in found.items():
        say(
            f"{name}: {each.mismatches + each.misjudged:,} mismatches in {each.values_checked:,} values of "
            f"{each.events_checked:,} of {each.events:,} events: {each.ppm:g} ppm"
        )
        for mismatch in each.first:
            say(f"  {mismatch}")
        if each.values_skipped:
            say(f"  {each.values_skipped:,} values of features over features left out; a smaller --sample checks all")
    if not all(each.holds for each in found.values()):
        raise typer.Exit(1)
