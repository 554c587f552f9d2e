"""Parts that live views in a terminal share."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.box import ROUNDED
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ops.views import live_words as words
from ops.views.live_figures import Picture, is_closed

DECISION_STYLES = {"allow": "green", "review": "yellow", "block": "bold red"}
BORDER = "bright_black"
NAME = "cyan"


def panel(title: str, body: RenderableType, width: int) -> Panel:
    """Draw a frame with a title around a body."""
    name = f"[{NAME}]{title}[/]"
    return Panel(body, box=ROUNDED, border_style=BORDER, title=name, title_align="left", width=width, padding=(0, 1))


def header(pictures: tuple[Picture, ...], title: str, width: int) -> RenderableType:
    """Draw the first line: what runs, how far it is in event time, how long it has run."""
    top = Table.grid(expand=True)
    top.add_column(justify="left", no_wrap=True, ratio=5)
    top.add_column(justify="center", no_wrap=True, ratio=4)
    top.add_column(justify="right", no_wrap=True, ratio=4)
    top.width = width
    first = pictures[0]
    tasks = first.task if len(pictures) == 1 else f"{len(pictures)} tasks"
    top.add_row(
        Text.assemble((f" {title} ", "bold reverse"), (f" {first.app}", "bold"), (f" · {tasks}", "dim")),
        Text(words.event_time(max(each.event_ms for each in pictures))),
        Text.assemble((words.clock(first.elapsed_s), "bold"), ("  Ctrl-C ends ", "dim")),
    )
    return top


def grid() -> Table:
    """Return an empty table of names and what belongs to them."""
    empty = Table.grid(padding=(0, 2, 0, 0), expand=True)
    empty.add_column(style=NAME, no_wrap=True, width=8)
    empty.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    return empty


def latency(p50_p99_ms: tuple[float, float]) -> Text:
    """Say a latency, green while it is short."""
    p99 = p50_p99_ms[1]
    style = "" if math.isnan(p99) else "bold green" if p99 <= 50 else "bold yellow" if p99 <= 500 else "bold red"
    return Text(words.latency(p50_p99_ms), style)


def ledger(counts: Mapping[str, int]) -> Text:
    """Say where every record went; a ledger that does not add up says so."""
    closed = is_closed(counts)
    text = Text(words.ledger(counts, short=True))
    return text.append("  ✓", "bold green") if closed else Text("does not add up: ", "bold red").append_text(text)


def serving(picture: Picture) -> Text:
    """Say which models serve."""
    text = Text(words.versions(picture))
    if picture.changes and picture.elapsed_s - picture.changes[-1].at_s < 3 and len(picture.changes) > 1:
        text.append("  new", "bold green")
    return text.append(f"  {words.rungs(picture)}", "dim")


def auc(picture: Picture, width: int) -> Text:
    """Say how good the served scores and the learner's are, as labels came."""
    if not picture.served_curve:
        return Text("known when the first labels have come", "dim")
    room = min(max((width - 44) // 2, 6), 40)
    return Text.assemble(
        ("served ", "dim"), (words.number(picture.served_auc), "bold"), " ",
        (words.sparkline(picture.served_curve, room, span_min=0.05), "magenta"),
        ("   learner ", "dim"), (words.number(picture.learner_auc), "bold"), " ",
        (words.sparkline(picture.learner_curve, room, span_min=0.05), "magenta"),
    )  # fmt: skip


def alerts(picture: Picture) -> Text:
    """Say how many alerts there are, and what the threshold holds."""
    target = f" (holds {words.percent(picture.alert_target)})" if math.isfinite(picture.alert_target) else ""
    counts = picture.decisions
    return Text.assemble(
        (words.percent(picture.alert_rate), "bold"), (target, "dim"), ("  limit ", "dim"),
        (words.number(picture.threshold, 3), "bold"), "   ",
        (f"{counts.get('review', 0):,} review", "yellow"), "  ", (f"{counts.get('block', 0):,} block", "red"),
    )  # fmt: skip
