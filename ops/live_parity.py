"""`pelton verify --kafka`: of what a running system serves, a sample recomputed; once, or again and again beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectors.log import Log
from connectors.secrets import Tokeniser
from ops.message_formats import decoders_of
from ops.opened import opened_log
from ops.settings import Settings
from ops.terminal import Step, progress, say
from pipeline.app import App
from pipeline.parity import Parity, check
from pipeline.stages import decoding, stages_of
from pipeline.topics import count_partitions

if TYPE_CHECKING:
    from connectors.formats import Decode


@dataclass(frozen=True)
class Round:
    """What a look at all stages and partitions found.

    Attributes:
        seconds: that it took.
    """

    found: tuple[Parity, ...]
    seconds: float

    @property
    def mismatches(self) -> int:
        """Values that differ, and events that were judged otherwise."""
        return sum(each.found.mismatches + each.found.misjudged for each in self.found)

    def lines(self) -> Iterator[str]:
        """Yield what to print: a line in all, then what is wrong."""
        values = sum(each.found.values_checked for each in self.found)
        events = sum(each.found.events_checked for each in self.found)
        skipped = sum(each.found.values_skipped for each in self.found)
        served = sum(each.found.events for each in self.found)
        yield (
            f"{self.mismatches:,} mismatches in {values:,} values of {events:,} of the last {served:,} events: "
            f"{1e6 * self.mismatches / max(values, 1):g} ppm, in {self.seconds:.1f} s"
        )
        for each in self.found:
            for mismatch in each.found.first:
                yield f"  {each.group}, partition {each.partition}: {mismatch}"
        if skipped:
            yield f"  {skipped:,} values left out: windows reach back behind what topics hold, or take too long"
        if not values:
            yield "  nothing could be checked: no manifest is left of what was decided; look again while it decides"


def look(
    app: App,
    log: Log,
    sample: int,
    seed: int,
    tokeniser: Tokeniser | None,
    decoders: Mapping[str, Decode],
    timer_s: Callable[[], float],
    step: Step,
) -> Round:
    """Check every stage and partition once.

    Args:
        sample: how many events in all.
        seed: of the draw of events and keys.
        decoders: of streams whose messages are no JSON.
        timer_s: seconds of a clock that never goes back.
        step: told what is done, of how much, and a note.

    Raises:
        PeltonError: topics are missing or differ in their partitions.
        LogError: the log cannot be read.
    """
    began_s = timer_s()
    count = count_partitions(app, log)
    places = [(stage, p) for stage in decoding(stages_of(app, count), decoders) for p in range(count)]
    each_sample = max(sample // len(places), 1)
    found = []
    for number, (stage, partition) in enumerate(places):
        step(number, len(places), f"{stage.group}, partition {partition}")
        parity = check(app, stage, log, partition, each_sample, seed, tokeniser)
        if parity is not None:
            found.append(parity)
    step(len(places), len(places), "all stages and partitions")
    return Round(tuple(found), timer_s() - began_s)


def watch(
    app: App, settings: Settings, kafka: str, sample: int, seed: int, every_s: float | None, rounds: int | None = None
) -> bool:
    """Look at what a system on Kafka serves, and print what came out.

    Args:
        every_s: between two looks, each at other keys; None looks once.
        rounds: how often, with `every_s`; None until Ctrl-C.

    Returns:
        Whether everything agrees.
    """
    tokeniser, sealer = settings.secrets(app)
    holds, done = True, 0
    with opened_log(settings, kafka, app, sealer) as log:
        while True:
            with progress("verifying") as step:
                found = look(app, log, sample, seed + done, tokeniser, decoders_of(app), time.monotonic, step)
            for line in found.lines():
                say(f"{time.strftime('%H:%M:%S')} {line}" if every_s is not None else line)
            holds, done = holds and not found.mismatches, done + 1
            if every_s is None or done == rounds:
                return holds
            time.sleep(every_s)
