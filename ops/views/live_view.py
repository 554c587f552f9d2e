"""The live view in a terminal: one picture, drawn to fit."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.align import Align
from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ops.views import live_words as words
from ops.views.live_figures import Picture, Shown, is_closed

WIDE = 100  # columns from which reasons are whole sentences
TALL = 32  # lines from which there is room for where the time goes, and which models served
CHANGES_SHOWN = 4
_STYLES = {"allow": "green", "review": "yellow", "block": "bold red"}
_BORDER = "bright_black"
_NAME = "cyan"
_SECONDS = ("fetch", "decode", "features", "score", "encode", "commit")


def draw(picture: Picture, width: int, height: int, title: str = "pelton run") -> RenderableType:
    """Draw a picture for a terminal of that many columns and lines; 80x24 shows everything that matters."""
    inside = width - 4
    panels = [
        _panel("stream", _stream(picture, inside), width),
        _panel("models", _models(picture, inside, height), width),
    ]
    if picture.problems:
        told = Text("\n".join(picture.problems[:2]), "red", no_wrap=True, overflow="ellipsis")
        panels.append(_panel("problems", told, width))
    used = 1 + sum(_lines(panel) for panel in panels)
    rows = max(height - used - 3, 1)  # two lines of frame, one of headers
    return Group(_header(picture, title, width), *panels, _panel("decisions", _decisions(picture, rows, width), width))


def _panel(title: str, body: RenderableType, width: int) -> Panel:
    name = f"[{_NAME}]{title}[/]"
    return Panel(body, box=ROUNDED, border_style=_BORDER, title=name, title_align="left", width=width, padding=(0, 1))


def _lines(panel: Panel) -> int:
    """Return the lines of a panel whose body is a grid of single lines, or a text."""
    body = panel.renderable
    return 2 + (body.row_count if isinstance(body, Table) else str(body).count("\n") + 1)


def _header(picture: Picture, title: str, width: int) -> RenderableType:
    header = Table.grid(expand=True)
    for justify in ("left", "center", "right"):
        header.add_column(justify=justify, no_wrap=True, ratio=1)
    header.width = width
    header.add_row(
        Text.assemble((f" {title} ", "bold reverse"), (f" {picture.app}", "bold"), (f" · {picture.task}", "dim")),
        Text(words.event_time(picture.event_ms)),
        Text.assemble((words.clock(picture.elapsed_s), "bold"), ("  Ctrl-C ends ", "dim")),
    )
    return header


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(style=_NAME, no_wrap=True, width=8)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    return grid


def _stream(picture: Picture, width: int) -> Table:
    grid = _grid()
    room = min(max(width - 54, 8), 60)
    rate = Text.assemble(
        (f"{words.rate(picture):>6,.0f} /s ", "bold"),
        (words.sparkline(picture.rates, room), "green"), "   ", ("latency ", _NAME), _latency(picture.recent_ms),
    )  # fmt: skip
    grid.add_row("events", rate)
    for name, counts in picture.ledgers.items():
        grid.add_row(name, _ledger(counts))
    if picture.labels:
        grid.add_row("labels", Text(words.label_ledger(picture.labels)))
    if picture.dead:
        grid.add_row("dead", Text(f"{picture.dead:,} letters kept with their cause", "yellow"))
    return grid


def _latency(p50_p99_ms: tuple[float, float]) -> Text:
    p99 = p50_p99_ms[1]
    style = "" if math.isnan(p99) else "bold green" if p99 <= 50 else "bold yellow" if p99 <= 500 else "bold red"
    return Text(words.latency(p50_p99_ms), style)


def _ledger(counts: Mapping[str, int]) -> Text:
    closed = is_closed(counts)
    text = Text(words.ledger(counts, short=True))
    return text.append("  ✓", "bold green") if closed else Text("does not add up: ", "bold red").append_text(text)


def _models(picture: Picture, width: int, height: int) -> Table:
    grid = _grid()
    room = min(max((width - 44) // 2, 6), 40)
    quality = Text.assemble(
        ("served ", "dim"), (words.number(picture.served_auc), "bold"), " ",
        (words.sparkline(picture.served_curve, room, span_min=0.05), "magenta"),
        ("   learner ", "dim"), (words.number(picture.learner_auc), "bold"), " ",
        (words.sparkline(picture.learner_curve, room, span_min=0.05), "magenta"),
    )  # fmt: skip
    grid.add_row("AUC", quality if picture.served_curve else Text("known when the first labels have come", "dim"))
    grid.add_row("serving", _serving(picture))
    target = f" (holds {words.percent(picture.alert_target)})" if math.isfinite(picture.alert_target) else ""
    counts = picture.decisions
    grid.add_row("alerts", Text.assemble(
        (words.percent(picture.alert_rate), "bold"), (target, "dim"), ("  limit ", "dim"),
        (words.number(picture.threshold, 3), "bold"), "   ",
        (f"{counts.get('review', 0):,} review", "yellow"), "  ", (f"{counts.get('block', 0):,} block", "red"),
    ))  # fmt: skip
    if height >= TALL:
        _more(grid, picture)
    return grid


def _serving(picture: Picture) -> Text:
    text = Text(words.versions(picture))
    if picture.changes and picture.elapsed_s - picture.changes[-1].at_s < 3 and len(picture.changes) > 1:
        text.append("  new", "bold green")
    return text.append(f"  {picture.rung}", "dim")


def _more(grid: Table, picture: Picture) -> None:
    spent = sum(picture.seconds.values())
    if spent:
        shares = [f"{name} {100 * picture.seconds.get(name, 0.0) / spent:.0f} %" for name in _SECONDS]
        grid.add_row("time", Text("  ".join(shares)))
    if picture.refused:
        grid.add_row("refused", Text(picture.refused, "yellow"))
    for change in picture.changes[-CHANGES_SHOWN:][::-1]:
        what = f"snapshot {change.snapshot[:6]}" if change.snapshot else "no snapshot"
        grid.add_row("", Text(f"{words.clock(change.at_s)}  bundle {change.bundle[:6] or 'none'}, {what}", "dim"))


def _decisions(picture: Picture, rows: int, width: int) -> RenderableType:
    if not picture.latest:
        return Align.center(Text("no event has been decided yet", "dim"), vertical="middle", height=rows + 1)
    wide = width >= WIDE
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("time", no_wrap=True, width=8 if wide else 5)
    table.add_column("who", no_wrap=True, width=11)
    table.add_column("amount", no_wrap=True, justify="right", width=9)
    table.add_column("decided", no_wrap=True, width=7)
    table.add_column("score", no_wrap=True, justify="right", width=5)
    table.add_column("limit", no_wrap=True, justify="right", width=5)
    table.add_column("because", no_wrap=True, overflow="ellipsis", ratio=1)
    for shown in picture.latest[:rows]:
        table.add_row(*_decision(shown, wide))
    for _ in range(rows - min(rows, len(picture.latest))):
        table.add_row()
    return table


def _decision(shown: Shown, wide: bool) -> list[Text]:
    quiet = "dim" if shown.decision == "allow" else ""
    return [
        Text(words.time_of_day(shown.time_ms, seconds=wide), "dim"),
        Text(words.shortened(shown.who), quiet),
        Text(f"{shown.amount:,.2f}" if math.isfinite(shown.amount) else "", quiet),
        Text(shown.decision, _STYLES.get(shown.decision, "")),
        Text(words.number(shown.score, 2), quiet),
        Text(words.number(shown.threshold, 2), "dim"),
        Text(words.why(shown.reason, short=not wide), quiet),
    ]
