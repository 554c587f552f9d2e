"""`pelton demo`."""

from pathlib import Path
from typing import Annotated

from typer import Option


def demo(
    seconds: Annotated[
        float | None, Option(min=5, help="How long; about a minute, if not given.", show_default=False)
    ] = None,
    speed: Annotated[
        float | None,
        Option(min=1, help="Seconds of event time in one; two weeks in all, if not given.", show_default=False),
    ] = None,
    keep: Annotated[
        Path | None,
        Option(
            metavar="DIR", help="Keep apps, data, log, models and heat maps in this new folder.", show_default=False
        ),
    ] = None,
    plain: Annotated[bool, Option("--plain", help="Print lines, although this is a terminal.")] = False,
) -> None:
    """Watch two weeks of payments, customer messages and photographs of steel being decided, in a minute.

    \b
    For example: pelton demo --keep first-look
    """  # fmt: skip
    import shutil
    import sys
    import tempfile
    import time

    from ops.demo.playing import play, seconds_left, what_next, where_to_look
    from ops.terminal import note, ready_kernels, say
    from ops.views.live_words import folded

    began_s = time.monotonic()
    ready_kernels()
    terminal = sys.stdout.isatty() and not plain
    length_s = seconds or seconds_left(time.monotonic() - began_s)
    with tempfile.TemporaryDirectory(prefix="pelton-demo-") as scratch:
        note("simulating two weeks of payments, customer messages and photographs of steel, and the labels that follow")
        played = play(keep or Path(scratch), length_s, speed, plain=not terminal)
    say()
    for line in folded(played.summary, shutil.get_terminal_size((100, 24)).columns):
        say(line)
    say()
    if looked := where_to_look(keep):
        say(looked)
    say("What next:")
    for line in what_next(keep):
        say(f"  {line}")
