"""The live view in a terminal: one picture, drawn to fit."""

from __future__ import annotations

import math

from rich.align import Align
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ops.views import live_words as words
from ops.views.live_figures import Picture, Shown
from ops.views.live_parts import DECISION_STYLES, NAME, alerts, auc, grid, header, latency, ledger, panel, serving

WIDE = 100  # columns from which reasons are whole sentences
TALL = 32  # lines from which there is room for where the time goes, and which models served
CHANGES_SHOWN = 4
_SECONDS = ("fetch", "decode", "features", "score", "encode", "commit")
DECISION_SECONDS = ("fetch", "decode", "features", "score", "encode", "commit")


def draw(picture: Picture, width: int, height: int, title: str = "pelton run") -> RenderableType:
    """Draw a picture for a terminal of that many columns and lines; 80x24 shows everything that matters."""
    inside = width - 4
    panels = [
        panel("stream", _stream(picture, inside), width),
        panel("models", _models(picture, inside, height), width),
    ]
    if picture.problems:
        told = Text("\n".join(picture.problems[:2]), "red", no_wrap=True, overflow="ellipsis")
        panels.append(panel("problems", told, width))
    used = 1 + sum(_lines(panel) for panel in panels)
    rows = max(height - used - 3, 1)  # two lines of frame, one of headers
    return Group(header((picture,), title, width), *panels, panel("decisions", _decisions(picture, rows, width), width))


def _lines(panel: Panel) -> int:
    """Return the lines of a panel whose body is a grid of single lines, or a text."""
    body = panel.renderable
    return 2 + (body.row_count if isinstance(body, Table) else str(body).count("\n") + 1)


def _stream(picture: Picture, width: int) -> Table:
    found = grid()
    room = min(max(width - 54, 8), 60)
    rate = Text.assemble(
        (f"{words.rate(picture):>6,.0f} /s ", "bold"),
        (words.sparkline(picture.rates, room), "green"), "   ", ("latency ", NAME), latency(picture.recent_ms),
    )  # fmt: skip
    found.add_row("events", rate)
    for name, counts in picture.ledgers.items():
        found.add_row(name, ledger(counts))
    if picture.labels:
        found.add_row("labels", Text(words.label_ledger(picture.labels)))
    if picture.dead:
        found.add_row("dead", Text(f"{picture.dead:,} letters kept with their cause", "yellow"))
    return found


def _models(picture: Picture, width: int, height: int) -> Table:
    found = grid()
    found.add_row("AUC", auc(picture, width))
    found.add_row("serving", serving(picture))
    found.add_row("alerts", alerts(picture))
    if height >= TALL:
        _more(found, picture)
    return found


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
        Text(shown.decision, DECISION_STYLES.get(shown.decision, "")),
        Text(words.number(shown.score, 2), quiet),
        Text(words.number(shown.threshold, 2), "dim"),
        Text(words.why(shown.reason, short=not wide), quiet),
    ]
