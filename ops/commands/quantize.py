"""`pelton quantize`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from ops.commands.options import App, Data, DataFolder, TaskOption

if TYPE_CHECKING:
    from ops.training.quantising import Quantized


def quantize(
    app: App,
    data: Data,
    task: TaskOption = None,
    bundle: Annotated[
        str | None, Option(metavar="DIR|ID", help="Whose network; that of what serves.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None,
        Option(metavar="NAME", help="Measure this one alone; the best that passes.", show_default=False),
    ] = None,
    rows: Annotated[int, Option(min=1_000, help="Judge on the newest labelled events, at most so many.")] = 10_000,
    out: Annotated[Path, Option(metavar="DIR", help="Where the new bundle goes.")] = Path("bundles"),
    data_folder: DataFolder = None,
) -> None:
    """Make a bundle's network smaller, if it then decides the same.

    Measures fp32, static int8, dynamic int8, int4, and forms with only the experts in int8, on the newest 15 % of the
    labelled events: size, speed on one thread, quality, and how often experts or decisions become others.
    Only what passes the gate is written: experts only, int8; fewer than 1 % of events with other experts or another
    decision; 99 of 100 probabilities within 0.01; AUC at most 0.001 lower, calibration error at most 0.0005 higher.
    Of those that pass, the fastest; one with operators that only ONNX Runtime has must be 10 % faster than one without.

    \b
    For example: pelton quantize bank.py --data payments.jsonl frauds.jsonl
                 pelton quantize bank.py --data payments.jsonl frauds.jsonl --bundle 41c9e2 --variant experts-int8
    """
    import shlex
    import sys
    import time

    from ops.extras import QUANTIZER, need
    from ops.inputs import open_inputs
    from ops.settings import Settings
    from ops.terminal import note, ready_kernels, say, stages
    from pipeline.app import Task
    from pipeline.loading import load_app

    need(QUANTIZER, "graphs are rewritten with it")
    from models.quantize.graph import QuantizeError
    from ops.served import bundle_of
    from ops.training.quantising import QuantizeSettings
    from ops.training.quantising import quantize as make
    from ops.training.training import check_trainable

    command = shlex.join(["pelton", *sys.argv[1:]])
    wanted = QuantizeSettings(variant, rows, command, time.time_ns() // 1_000_000)
    loaded, settings = load_app(app), Settings.read(data_folder)
    chosen, opened = loaded.task(task), open_inputs(loaded, data)
    if not isinstance(chosen, Task):
        raise QuantizeError(f"task {chosen.name!r} has no network on events; only such networks can be quantised")
    check_trainable(chosen)
    original, snapshot = bundle_of(loaded, settings, chosen, bundle)
    ready_kernels()
    tokeniser, _ = settings.secrets(loaded, make=True)
    with stages() as step:
        found = make(loaded, chosen, opened, original, snapshot, wanted, out, step, tokeniser)
    _show(found, original.id)
    for each in found.notes:
        note(each)
    if found.chosen is None or found.bundle is None:
        raise QuantizeError(found.problem)
    say(f"wrote {found.chosen.variant.name}, {found.chosen.variant.what}: bundle {found.bundle.id} in {found.folder}")
    say(f"Serve it: pelton models promote {chosen.name} {found.folder}")


def _show(found: "Quantized", bundle: str) -> None:
    from models.quantize.gate import in_words
    from models.quantize.measuring import choice_in_words
    from ops.terminal import facts, say, table
    from ops.training.protocol import iso

    say(
        f"bundle {bundle}: {found.rows:,} events judged, {found.positives:,} positive, from "
        f"{iso(found.first_ms)} to {iso(found.last_ms)}; calibrated on {found.calibration_rows:,} before them"
    )
    say()
    table(*found.speeds())
    say()
    table(*found.qualities())
    say()
    say("Speed: medians on one thread, by batch size. AUC, AP, ECE, |dp|: of the network alone, calibrated.")
    say(
        "Flips: events in which a token visits other experts; in which the whole bundle decides otherwise, rules apart."
    )
    say()
    say(f"The gate lets pass: {in_words()}.")
    say(f"{choice_in_words()}.")
    facts([(name, f"refused: {why}") for name, why in found.refused()])
    say()
