"""A stream of payments and the labels that follow, made slot by slot and written as it is made."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ops.simulate.arrival import Arrivals
from ops.simulate.behaviour import Behaviour, slots
from ops.simulate.fraud import PATTERNS, Thieves
from ops.simulate.labels import Labels, Reports
from ops.simulate.lines import LinesFile
from ops.simulate.population import Payments, Population, make_population
from ops.simulate.settings import SimulationError, SimulationSettings, SimulationSummary
from ops.simulate.writer import BREAKS, label_lines, payment_lines

Progress = Callable[[int, int], None]

_BLOCK = 16_384  # lines that are put together at once: their bytes stay in the processor's cache


@dataclass(frozen=True)
class Part:
    """A slot of the stream.

    Attributes:
        happened: (payments,) that happened in it, each once, with their true pattern.
        arrived: (records,) that arrived in it, in arrival order.
        known: (labels,) that became known in it, in that order.
    """

    happened: Payments
    arrived: Payments
    known: Labels


class Simulation:
    """The stream as arrays: what `simulate` writes, for those who need the truth as well."""

    def __init__(self, settings: SimulationSettings) -> None:
        """Draw cards and terminals."""
        seeds = np.random.SeedSequence(settings.seed).spawn(6)  # apart: more late records do not move the frauds
        people, *self._rngs, self.breaks_rng = (np.random.Generator(np.random.PCG64(seed)) for seed in seeds)
        self.settings = settings
        self.people: Population = make_population(settings, people)

    def parts(self) -> Iterator[Part]:
        """Yield the stream once; at the end a part of what is still under way. Memory: O(cards + a slot + delays)."""
        honest_rng, thieves_rng, arrivals_rng, reports_rng = self._rngs
        behaviour = Behaviour(self.settings, self.people, honest_rng)
        thieves = Thieves(self.settings, self.people, behaviour, thieves_rng)
        arrivals = Arrivals(self.settings, arrivals_rng)
        reports = Reports(self.settings, reports_rng)
        for slot in slots(self.settings):
            honest = behaviour.generate(slot)
            stolen = thieves.generate(slot, honest)
            happened, arrived = arrivals.take(np.concatenate([honest, stolen]), slot.end_ms)
            yield Part(happened, arrived, reports.take(happened, slot.end_ms))
        yield Part(happened[:0], arrivals.rest(), reports.rest())


def simulate(
    settings: SimulationSettings, out: Path, progress: Progress | None = None, compress: bool = False
) -> SimulationSummary:
    """Write `payments.jsonl` and `frauds.jsonl` into the folder `out`, which is made if need be.

    Args:
        settings: the stream to make.
        out: the folder; files of these names in it are replaced, when the new ones are whole.
        progress: called after each slot with the records written so far and about how many there will be.
        compress: gzip both; their names then end in `.gz`.

    Returns:
        What was written. Payments stand in arrival order, labels in the order in which they become known.

    Raises:
        SimulationError: `out` cannot be a folder.
        OSError: writing failed; the files are then as they were before.
    """
    if not out.is_dir():
        try:
            out.mkdir(parents=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise SimulationError(f"{out} is not a folder, or lies below a file; choose another --out") from error
    ending = ".jsonl.gz" if compress else ".jsonl"
    simulation = Simulation(settings)
    tally = _Tally(settings)
    with ExitStack() as files:
        payments = files.enter_context(LinesFile(out / f"payments{ending}"))
        labels = files.enter_context(LinesFile(out / f"frauds{ending}"))
        for part in simulation.parts():
            tally.add(part)
            for records in _blocks(part.arrived):
                breaks = _choose_breaks(settings, simulation.breaks_rng, records.size)
                payments.write(*payment_lines(simulation.people, records, breaks))
                tally.malformed += len(breaks)
            for known in _blocks(part.known):
                labels.write(label_lines(known), known.size)
            if progress:
                progress(payments.lines, settings.events)
    return tally.summary(payments, labels)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, rows.size, _BLOCK):
        yield rows[first : first + _BLOCK]


def _choose_breaks(settings: SimulationSettings, rng: np.random.Generator, records: int) -> dict[int, str]:
    names = list(BREAKS)
    chosen = np.flatnonzero(rng.random(records) < settings.malformed_share)
    kinds = rng.integers(0, len(names), chosen.size)
    return {index: names[kind] for index, kind in zip(chosen.tolist(), kinds.tolist(), strict=True)}


class _Tally:
    """Counts of what was written."""

    def __init__(self, settings: SimulationSettings) -> None:
        self._late_max_ms = settings.late_max_ms
        self._patterns = np.zeros(len(PATTERNS), np.int64)
        self._arrived = self._late = self._stale = self.malformed = 0
        self._first_ms, self._last_ms, self._last_label_ms = settings.end_ms, settings.start_ms, settings.start_ms

    def add(self, part: Part) -> None:
        self._patterns += np.bincount(part.happened["pattern"], minlength=len(PATTERNS))
        delay_ms = part.happened["arrive_ms"] - part.happened["ts_ms"]
        self._late += int(np.count_nonzero((delay_ms > 0) & (delay_ms <= self._late_max_ms)))
        self._stale += int(np.count_nonzero(delay_ms > self._late_max_ms))
        self._arrived += part.arrived.size
        self._first_ms = min(self._first_ms, int(part.happened["ts_ms"].min(initial=self._first_ms)))
        self._last_ms = max(self._last_ms, int(part.happened["ts_ms"].max(initial=self._last_ms)))
        self._last_label_ms = max(self._last_label_ms, int(part.known["reported_ms"].max(initial=0)))

    def summary(self, payments: LinesFile, labels: LinesFile) -> SimulationSummary:
        total = int(self._patterns.sum())
        return SimulationSummary(
            payments_path=payments.path,
            labels_path=labels.path,
            records=payments.lines,
            payments=total,
            frauds=total - int(self._patterns[0]),
            by_pattern={name: int(self._patterns[number]) for number, name in enumerate(PATTERNS) if number},
            late=self._late,
            stale=self._stale,
            duplicates=self._arrived - total,
            malformed=self.malformed,
            labels=labels.lines,
            first_ms=self._first_ms,
            last_ms=self._last_ms,
            last_label_ms=self._last_label_ms,
            payments_sha256=payments.sha256,
            labels_sha256=labels.sha256,
        )
