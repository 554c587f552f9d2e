"""The live view of an app whose tasks are several, or read or look: a panel for each, drawn to fit."""

from __future__ import annotations

import math
from functools import lru_cache

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from connectors.images import ImageError, ImageField, pixels_of
from ops.views import live_kind_words as kinds
from ops.views import live_words as words
from ops.views.block_picture import photo_and_heat
from ops.views.live_figures import Picture, Shown
from ops.views.live_kinds import DefectTold, SupportTold, Surface
from ops.views.live_parts import DECISION_STYLES, alerts, auc, grid, header, latency, ledger, panel

PICTURE_ROWS_MIN, PICTURE_ROWS_MAX = 6, 12
WIDE, TEXT_MIN = 100, 48  # columns from which the photograph stands beside its heat map; columns for what is said
PIXELS = 96  # along a side of what a small picture is made of
RATE_SPAN_MIN = 8  # events a second; of rare events, chance alone makes more or less
FIXED = 4  # lines of each panel between its frame: events, records, quality, decisions


def draw_board(
    pictures: tuple[Picture, ...], width: int, height: int, title: str = "pelton run", colours: bool = True
) -> RenderableType:
    """Draw pictures for a terminal of that many columns and lines; three tasks fit into 80x24."""
    problems = [each for picture in pictures for each in picture.problems][:2]
    room = height - 1 - (len(problems) + 2 if problems else 0)
    lines = _lines_of(pictures, room)
    panels = [
        panel(_title(picture), _body(picture, width - 4, count, colours), width)
        for picture, count in zip(pictures, lines, strict=True) if count > 0
    ]  # fmt: skip
    if problems:
        panels.append(panel("problems", Text("\n".join(problems), "red", no_wrap=True, overflow="ellipsis"), width))
    return Group(header(pictures, title, width), *panels)


def _lines_of(pictures: tuple[Picture, ...], room: int) -> list[int]:
    """Share the lines out: each panel gets its fixed ones, a picture its least, the rest goes round."""
    lines = [PICTURE_ROWS_MIN if isinstance(each.told, DefectTold) else FIXED + 1 for each in pictures]
    left = room - sum(count + 2 for count in lines)
    while left < 0 and any(lines):  # what does not fit is left out, the last first
        last = max(place for place, count in enumerate(lines) if count)
        left, lines[last] = left + lines[last] + 2, 0
    place = 1  # an example of a message fills two lines
    while left > 0 and any(lines):
        if lines[place % len(lines)]:
            lines[place % len(lines)] += 1
            left -= 1
        place += 1
    return lines


def _title(picture: Picture) -> str:
    stream = next(iter(picture.ledgers), "")
    return f"{picture.task} · {stream}" if stream else picture.task


def _body(picture: Picture, width: int, lines: int, colours: bool) -> RenderableType:
    if not isinstance(picture.told, DefectTold):
        return _text(picture, width, lines)
    is_wide = width >= WIDE
    rows = min(lines, PICTURE_ROWS_MAX, (width - TEXT_MIN) // (4 if is_wide else 2))
    if rows < PICTURE_ROWS_MIN:
        return _text(picture, width, lines)
    columns = 4 * rows + 1 if is_wide else 2 * rows
    beside = Table.grid(padding=0, expand=True)
    beside.add_column(ratio=1)
    beside.add_column(width=1)
    beside.add_column(width=columns)
    beside.add_row(_text(picture, width - columns - 1, lines), "", _newest(picture.told, rows, is_wide, colours))
    return beside


def _text(picture: Picture, width: int, lines: int) -> Table:
    found = grid()
    room = min(max(width - 52, 0), 60)
    rates = words.sparkline(picture.rates, room, span_min=RATE_SPAN_MIN)
    found.add_row("events", Text.assemble(
        (f"{words.rate(picture):>6,.0f} /s ", "bold"), (rates, "green"),
        "  " if room else "", latency(picture.recent_ms),
    ))  # fmt: skip
    counts = next(iter(picture.ledgers.values()), None)
    found.add_row("records", ledger(counts) if counts else Text("none yet", "dim"))
    told, used = picture.told, FIXED
    if told is None:
        found.add_row("AUC", auc(picture, width))
        found.add_row("alerts", alerts(picture))
    elif isinstance(told, SupportTold):
        found.add_row("intents", Text(kinds.quality(told), "" if told.labelled else "dim"))
        found.add_row("decided", Text.assemble((kinds.decided(told), "bold"), ("   " + _bundle(picture), "dim")))
    else:
        found.add_row("quality", Text(kinds.quality(told), "" if told.labelled else "dim"))
        found.add_row("decided", Text.assemble((kinds.decided(told), "bold"), ("  limit ", "dim"),
                                               (words.number(picture.threshold, 3), "bold"),
                                               ("   " + _bundle(picture), "dim")))  # fmt: skip
    for place, line in enumerate(_examples(picture, lines - used)):
        found.add_row("latest" if place == 0 else "", line)
    for _ in range(lines - found.row_count):
        found.add_row()
    return found


def _bundle(picture: Picture) -> str:
    serves = picture.changes[-1].bundle if picture.changes else ""
    by = f", {words.rungs(picture)}" if len(picture.rungs) > 1 else ""
    return f"bundle {serves[:6]}{by}" if serves else "no bundle serves yet"


def _examples(picture: Picture, count: int) -> list[Text]:
    """Return the newest examples in at most that many lines."""
    told, found = picture.told, list[Text]()
    if isinstance(told, SupportTold):
        for each in told.latest:
            found += [Text(f'"{each.text}"'), Text(f"  → {kinds.read(each)}", "green")]
        return found[: count - count % 2] if count != 1 else [Text(kinds.message(each)) for each in told.latest[:1]]
    if isinstance(told, DefectTold):
        return [
            Text.assemble((f"{each.decision} ", DECISION_STYLES.get(each.decision, "")), kinds.seen(each))
            for each in told.latest[:count]
        ]
    alerted = [each for each in picture.latest if each.decision != "allow"]
    return [_alert(each) for each in alerted[:count]]


def _alert(shown: Shown) -> Text:
    amount = f" {shown.amount:>9,.2f}" if math.isfinite(shown.amount) else ""
    return Text.assemble(
        (f"{shown.decision:<6} ", DECISION_STYLES.get(shown.decision, "")), f"{words.shortened(shown.who)}{amount} ",
        (words.number(shown.score, 2), "bold"), f" {words.why(shown.reason)}",
    )  # fmt: skip


def _newest(told: DefectTold, rows: int, beside: bool, colours: bool) -> Text:
    """Draw the newest photograph with a heat map."""
    surface = next((each for each in told.latest if each.heat_map), None)
    return _drawn(surface, rows, beside, colours) if surface is not None else Text("")


@lru_cache(maxsize=4)
def _drawn(surface: Surface, rows: int, beside: bool, colours: bool) -> Text:
    try:
        field = ImageField(size=PIXELS, channels=1)
        photo, heat = (pixels_of(each, field)[:, :, 0] for each in (surface.image, surface.heat_map))
    except ImageError:  # it lies elsewhere, where only the task's own field may read
        return Text("")
    return photo_and_heat(photo, heat, rows, beside, colours)
