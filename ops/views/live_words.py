"""A picture in words: parts of the view in a terminal, and the plain lines where there is none."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from models.learner import LearnerSettings
from ops.views import live_kind_words as kinds
from ops.views.live_figures import Picture, is_closed

PREQUENTIAL = LearnerSettings().window  # labels that the quality of a live stream is measured on
BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int, span_min: float = 0.0) -> str:
    """Draw the newest `width` values as bars between their smallest and largest.

    `span_min` keeps small wiggles small: the bars span at least this much.

    >>> sparkline([0, 1, 2, 3], 3)
    '▁▅█'
    """
    shown = [value for value in values[-width:] if math.isfinite(value)] if width > 0 else []
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = max(high - low, span_min) or 1.0
    return "".join(BARS[min(int((value - low) / span * len(BARS)), len(BARS) - 1)] for value in shown)


def clock(elapsed_s: float) -> str:
    """Say how long something runs: 00:34, 1:02:03."""
    minutes, seconds = divmod(int(elapsed_s), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes:02d}:{seconds:02d}"


def event_time(time_ms: int) -> str:
    """Say an event time: Mon 12 Jan 14:05, in UTC."""
    return _utc(time_ms).strftime("%a %d %b %H:%M") if time_ms > 0 else "waiting for events"


def time_of_day(time_ms: int, seconds: bool = True) -> str:
    """Say a time of day in UTC: 14:05:09, or 14:05."""
    return _utc(time_ms).strftime("%H:%M:%S" if seconds else "%H:%M")


def latency(p50_p99_ms: tuple[float, float]) -> str:
    """Say a latency: p50 3 ms, p99 12 ms."""
    return ", ".join(
        f"{name} {'–' if math.isnan(value) else _milliseconds(value)}"
        for name, value in zip(("p50", "p99"), p50_p99_ms, strict=True)
    )


def number(value: float, digits: int = 3) -> str:
    """Say a figure, "–" while it is unknown."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def percent(share: float) -> str:
    """Say a share: 1.2 %."""
    return f"{100 * share:.2g} %" if math.isfinite(share) else "–"


def ledger(counts: Mapping[str, int], short: bool = False) -> str:
    """Say where every record went; `short` leaves out what is zero.

    >>> ledger({"taken": 120, "applied": 117, "late": 1, "future": 0, "duplicate": 2, "invalid": 0}, short=True)
    '120 = 117 applied + 1 late + 2 duplicate'
    """
    shown = [name for name in counts if name != "taken" and (name == "applied" or counts[name] or not short)]
    return f"{counts['taken']:,} = {' + '.join(f'{counts[name]:,} {name}' for name in shown)}"


def label_ledger(counts: Mapping[str, int]) -> str:
    """Say where every label went; what is zero is left out, but for the first two."""
    names = ["joined", "waiting", *(each for each in counts if each not in ("joined", "waiting") and counts[each])]
    return f"{sum(counts.values()):,} = {' + '.join(f'{counts.get(name, 0):,} {name}' for name in names)}"


def shortened(token: str, width: int = 11) -> str:
    """Return a token's beginning: enough to tell a few cards apart."""
    return token if len(token) <= width else token[:width]


def why(reason: str, short: bool = False) -> str:
    """Return a reason with an arrow for what it did to the score; `short` leaves the usual value out.

    >>> why("amount is 912, usually 14: raises the score"), why("amount is 3, usually 14: lowers the score", True)
    ('amount is 912, usually 14 ↑', 'amount is 3 ↓')
    """
    for words, arrow in ((": raises the score", " ↑"), (": lowers the score", " ↓")):
        if reason.endswith(words):
            told = reason.removesuffix(words)
            return (told.partition(", usually ")[0] if short else told) + arrow
    return reason


def versions(picture: Picture) -> str:
    """Say what serves: bundle 41c9e2 + snapshot 8fa2c1 (change 3), moe+ftrl."""
    if not picture.changes or not picture.changes[-1].bundle:
        return "no bundle serves yet: rules decide alone"
    last = picture.changes[-1]
    snapshot = f" + snapshot {last.snapshot[:6]}" if last.snapshot else ", as it was trained"
    times = len(picture.changes) - 1
    return f"bundle {last.bundle[:6]}{snapshot}" + (f", changed {times} time{'s' * (times != 1)}" if times else "")


def rungs(picture: Picture) -> str:
    """Say which models decide now, and if several did in this run, which share each: moe+ftrl (93 %, rules 7 %)."""
    total = sum(picture.rungs.values())
    if len(picture.rungs) < 2:
        return picture.rung
    others = sorted((each for each in picture.rungs if each != picture.rung), key=lambda each: -picture.rungs[each])
    shares = [f"{each} {percent(picture.rungs[each] / total)}" for each in others]
    own = percent(picture.rungs.get(picture.rung, 0) / total)
    return f"{picture.rung} ({', '.join([own, *shares])})"


def rate(picture: Picture, seconds: int = 3) -> float:
    """Return events a second over the last seconds."""
    newest = picture.rates[-seconds:]
    return sum(newest) / len(newest) if newest else 0.0


def line(picture: Picture) -> str:
    """Say how it goes in one plain line."""
    if picture.told is not None:
        return " | ".join([
            clock(picture.elapsed_s), event_time(picture.event_ms), f"{rate(picture):,.0f} events/s",
            latency(picture.recent_ms), kinds.decided(picture.told), kinds.quality(picture.told),
        ])  # fmt: skip
    parts = [
        clock(picture.elapsed_s), event_time(picture.event_ms), f"{rate(picture):,.0f} events/s",
        latency(picture.recent_ms), f"alerts {percent(picture.alert_rate)} from {number(picture.threshold, 2)}",
    ]  # fmt: skip
    if len(picture.rungs) > 1:
        parts.append(f"by {rungs(picture)}")
    if math.isfinite(picture.served_auc):
        parts.append(f"AUC {number(picture.served_auc)} served, {number(picture.learner_auc)} learner")
    if picture.changes and picture.changes[-1].snapshot:
        parts.append(f"snapshot {picture.changes[-1].snapshot[:6]}")
    return " | ".join(parts)


def decision_line(picture: Picture) -> str | None:
    """Say the newest alert, or what was read last, in one plain line; None before the first."""
    if picture.told is not None:
        told = kinds.example(picture.told)
        return f"      {told}" if told is not None else None
    for shown in picture.latest:
        if shown.decision != "allow":
            amount = f" {shown.amount:,.2f}" if math.isfinite(shown.amount) else ""
            score = (
                f" {number(shown.score, 2)} >= {number(shown.threshold, 2)}" if shown.score >= shown.threshold else ""
            )
            return f"      {shown.decision:<6} {shortened(shown.who)}{amount}{score}: {why(shown.reason)}"
    return None


def lines(pictures: Sequence[Picture]) -> list[str]:
    """Say how it goes in plain lines, one per task; of several, each begins with its name."""
    if len(pictures) == 1:
        return [line(pictures[0])]
    return [f"{each.task:<8} {line(each)}" for each in pictures]


def summary_of(pictures: Sequence[Picture]) -> list[tuple[str, str]]:
    """Say what was done, as names and values; of several tasks one after the other, each below its name."""
    if len(pictures) == 1:
        return summary(pictures[0])
    return [pair for each in pictures for pair in [("", ""), (f"task {each.task}", ""), *summary(each)]][1:]


def summary(picture: Picture) -> list[tuple[str, str]]:
    """Say what was done, as names and values."""
    seconds = max(picture.elapsed_s, 1e-9)
    found = [("decided", f"{picture.decided:,} events in {seconds:.0f} s, {picture.decided / seconds:,.0f} a second")]
    if picture.decided:
        found.append(("latency", f"{latency(picture.latency_ms)}, from append to committed decision"))
    for name, counts in picture.ledgers.items():
        found.append((name, f"{ledger(counts, short=True)}: {'closed' if is_closed(counts) else 'NOT CLOSED'}"))
    if picture.told is not None and picture.decided:
        found += kinds.totals(picture.told)
    elif picture.decided:
        counts = picture.decisions
        target = f", {percent(picture.alert_target)} wanted" if math.isfinite(picture.alert_target) else ""
        share = percent((counts["review"] + counts["block"]) / picture.decided)
        found.append(("alerts", f"{counts['review']:,} review + {counts['block']:,} block = {share}{target}"))
    if picture.dead:
        found.append(("dead letters", f"{picture.dead:,}, with their cause and original bytes"))
    found += [("models", versions(picture)), *_learning(picture)]
    return found + [("problem", each) for each in picture.problems]


def folded(pairs: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return names and values as lines of at most `width` columns; what is folded stands below its value.

    A name without a value stands alone, as a heading.
    """
    room = max((len(name) for name, _ in pairs), default=0) + 2
    lines: list[str] = []
    for name, value in pairs:
        if not value:
            lines.append(name)
            continue
        lines += textwrap.wrap(
            value, width, initial_indent=name.ljust(room), subsequent_indent=" " * room, break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip
    return lines


def _learning(picture: Picture) -> list[tuple[str, str]]:
    if not picture.labels:
        return []
    if picture.told is not None:
        return [("labels", label_ledger(picture.labels))]
    found = [("labels", label_ledger(picture.labels)), ("learner", f"{picture.snapshots} snapshots passed the gate")]
    if picture.refused:
        found.append(("", f"the last did not: {picture.refused}"))
    if math.isfinite(picture.served_auc):
        newest = f"of the last {min(picture.labels['joined'], PREQUENTIAL):,} labels"
        found.append(
            ("AUC", f"{number(picture.served_auc)} as served, {number(picture.learner_auc)} the learner, {newest}")
        )
    return found


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.0f} s"


def _utc(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)
