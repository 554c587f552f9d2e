"""The view of several tasks fits its terminal; examples, labels and small pictures are right."""

import base64
import io
import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from connectors.sqlite_log import SqliteLog
from models.defects import gray_png
from ops.demo.all_tasks import app as demo
from ops.views import live_kind_words as kinds
from ops.views import live_words as words
from ops.views.block_picture import photo_and_heat, shrunk
from ops.views.live_app import AppFigures, Labels
from ops.views.live_board import draw_board
from ops.views.live_figures import Change, Picture, Shown
from ops.views.live_kinds import DefectReader, DefectTold, Message, Pairs, SupportReader, SupportTold, Surface
from ops.views.live_show import has_colours
from pipeline.live import Step
from pipeline.manifest import Manifest

NAN = float("nan")
MONDAY_MS = 1_767_571_200_000
LEDGER = {"taken": 806, "applied": 804, "late": 0, "future": 0, "duplicate": 0, "invalid": 2}


def png(dark_at):
    """A photograph, and as a heat map bright where it is dark."""
    pixels = np.full((64, 64), 200, np.uint8)
    pixels[dark_at] = 20
    return [base64.b64encode(gray_png(each)).decode() for each in (pixels, 255 - pixels)]


PHOTO, HEAT = png((slice(0, 32), slice(32, 64)))
WHERE = "scratch, most of all 40 % from the left and 12 % from the top"
SURFACE = Surface("s00000012", "scratch", 0.99, "block", WHERE, PHOTO, f"data:image/png;base64,{HEAT}")
MESSAGE = Message("Hi, I lost my card", "card_lost", 0.98, 0.9, "urgent", "kb-card_lost")
COMMON = {"elapsed_s": 34.2, "event_ms": MONDAY_MS, "decided": 800, "rates": (8,) * 30, "recent_ms": (4, 12),
          "latency_ms": (3, 14), "changes": (Change(0, "36508cd027f7", ""),)}  # fmt: skip
RISK = Picture(
    "demo", "risk", ledgers={"payments": LEDGER}, decisions={"allow": 790, "review": 8, "block": 2}, alert_rate=0.0125,
    latest=(Shown(MONDAY_MS, "card_4f0c9a3b7d12", 1204.5, "block", 0.97, 0.42, "amount is 912"),) * 9, **COMMON,
)  # fmt: skip
SUPPORT = Picture(
    "demo", "support", ledgers={"messages": LEDGER}, told=SupportTold(804, 80, 700, 690, (MESSAGE,) * 9), **COMMON
)
DEFECT = Picture(
    "demo", "defect", ledgers={"photos": LEDGER}, told=DefectTold(300, 150, 280, 140, 139, 3, (SURFACE,) * 9),
    threshold=0.015, **COMMON,
)  # fmt: skip
ALL = (RISK, SUPPORT, DEFECT)


def drawn(pictures, width, height, colours=True):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(draw_board(pictures, width, height, "pelton demo", colours), end="")
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (200, 60)])
@pytest.mark.parametrize("pictures", [
    ALL, tuple(Picture("demo", name, told=told) for name, told in
               (("risk", None), ("support", SupportTold()), ("defect", DefectTold()))), (SUPPORT,),
    (replace(RISK, problems=("x" * 300,)), SUPPORT, DEFECT),
])  # fmt: skip
def test_it_fits_the_terminal(pictures, width, height):
    lines = drawn(pictures, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert len(lines) == height or pictures[0].problems  # what problems push out leaves room


def test_the_smallest_terminal_shows_all_three():
    text = "\n".join(drawn(ALL, 80, 24))
    for part in (
        "3 tasks", "00:34", "8 /s", "p50 4 ms, p99 12 ms", "806 = 804 applied + 2 invalid", "risk · payments",
        "1.2 %", "card_4f0c9a", "support · messages", "right 98.6 % of 700", "10.0 % out of scope",
        "→ card_lost 0.98, urgent, kb-card_lost", "Hi, I lost my card", "defect · photos", "50.0 % rejected",
        "recall 99.3 % of 140 defects, precision 97.9 %", "block s00000012 0.99 scratch at 40 % left, 12 % top",
    ):  # fmt: skip
        assert part in text, part
    assert sum("▀" * 12 in line for line in text.splitlines()) == 6


def test_problems_are_shown_and_what_does_not_fit_is_left_out():
    text = "\n".join(drawn((replace(RISK, problems=("the disk is full",)), SUPPORT, DEFECT), 80, 24))
    assert "the disk is full" in text
    assert "risk · payments" in text


def test_plain_lines_and_the_summary_name_each_task():
    lines = words.lines(ALL)
    assert lines[1] == (
        "support  00:34 | Mon 05 Jan 00:00 | 8 events/s | p50 4 ms, p99 12 ms | 10.0 % out of scope | "
        "right 98.6 % of 700 with a label since"
    )
    assert lines[2].endswith("| 50.0 % rejected | recall 99.3 % of 140 defects, precision 97.9 %")
    assert words.lines((SUPPORT,)) == [lines[1].removeprefix("support  ")]
    assert words.decision_line(SUPPORT) == '      card_lost 0.98, urgent, kb-card_lost: "Hi, I lost my card"'
    folded = words.folded(words.summary_of(ALL), 200)
    assert [line for line in folded if line.startswith("task")] == ["task risk", "task support", "task defect"]
    assert any(line.split() == ["rejected", "150", "of", "300", "photographs,", "50.0", "%"] for line in folded)
    assert kinds.quality(SupportTold(5)) == "how right that is, is known when the first labels have come"


def test_a_picture_shows_the_photograph_and_in_red_where_the_heat_is():
    photo = np.repeat(np.linspace(0, 240, 64).astype(np.uint8)[None], 64, axis=0)
    heat = np.zeros((64, 64), np.uint8)
    heat[:32, :32] = 255  # upper left
    text = photo_and_heat(photo, heat, rows=4, beside=True)
    lines = text.split("\n")
    assert [len(line.plain) for line in lines] == [17] * 4
    console = Console(width=40, force_terminal=True, color_system="truecolor", file=io.StringIO())
    cells = [[color for s in console.render(line) for color in [s.style and s.style.color] * s.text.count("▀")]
             for line in lines]  # fmt: skip
    tints = [[color.get_truecolor().red - color.get_truecolor().blue for color in row] for row in cells]
    for row in range(4):
        assert tints[row][:8] == [0] * 8  # the photograph itself is gray
        assert [tint > 50 for tint in tints[row][8:]] == [row < 2 and column < 4 for column in range(8)]


def test_without_colours_the_heat_is_drawn_in_shades():
    heat = np.zeros((64, 64), np.uint8)
    heat[:32, :32] = 255
    text = photo_and_heat(np.zeros((64, 64), np.uint8), heat, rows=4, beside=False, colours=False)
    assert text.plain.split("\n") == ["████    "] * 2 + ["        "] * 2


@pytest.mark.parametrize(("given", "wanted"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_used_where_there_are_any_and_they_are_wanted(given, wanted):
    environment = {"TERM": "xterm-256color", **given}
    assert has_colours(Console(file=io.StringIO(), force_terminal=True, _environ=environment)) == wanted


def test_shrinking_keeps_the_mean_where_sizes_do_not_divide():
    pixels = np.random.default_rng(0).integers(0, 256, (97, 97)).astype(np.uint8)
    small = shrunk(pixels, 12)
    assert small.shape == (12, 12)
    edges = np.linspace(0, 97, 13).round().astype(int)
    for row, column in ((0, 0), (5, 7), (11, 11)):
        cell = pixels[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        assert small[row, column] == pytest.approx(cell.mean())


def test_labels_count_whether_they_come_before_or_after_the_decision():
    pairs = Pairs()
    assert pairs.labelled("a", "x") is None
    assert pairs.decided("a", True) == (True, "x")
    assert pairs.decided("b", False) is None
    assert pairs.labelled("b", "y") == (False, "y")
    assert pairs.labelled("b", "z") is None  # said again


def support_rows(ids, intents):
    return pa.record_batch({
        "event_id": ids, "decision": ["allow"] * len(ids), "intent": intents, "score": [0.9] * len(ids),
        "priority": ["low"] * len(ids), "articles": [[{"id": "kb-1", "score": 0.5}]] * len(ids),
        "time_ms": pa.array(range(len(ids)), pa.int64()), "threshold": [0.5] * len(ids),
    })  # fmt: skip


def test_a_message_out_of_scope_is_right_if_its_label_says_so():
    reader = SupportReader(demo.task("support"))
    events = pa.record_batch({"body": ["one  two\nthree", "x" * 500, None]})
    reader.add(events, support_rows(["a", "b", "c"], ["out_of_scope", "lost", None]))
    reader.label(["a", "b", "c", "d"], ["out_of_scope", "found", "lost", "lost"])
    told = reader.told()
    assert (told.messages, told.outside, told.labelled, told.right) == (3, 1, 3, 1)
    assert [each.text for each in told.latest] == ["", "x" * 200, "one two three"]
    assert told.latest[-1].article == "kb-1"


def test_recall_and_precision_are_of_what_has_a_label():
    rows = pa.record_batch({
        "event_id": list("abcde"), "decision": ["block", "review", "allow", "allow", "block"],
        "defect": ["pit", None, "none", "none", "pit"], "score": [0.9, None, 0.1, 0.1, 0.9],
        "heat_map": ["data:x", None, None, None, "data:y"], "reasons": [["pit"], ["broken"], [], [], ["pit"]],
    })  # fmt: skip
    reader = DefectReader(demo.task("defect"))
    reader.add(pa.record_batch({"image": list("ABCDE")}), rows)
    assert math.isnan(reader.told().recall)
    reader.label(list("abcd"), ["pit", "none", "scratch", "none"])
    told = reader.told()
    assert (told.photos, told.rejected, told.labelled, told.defects, told.found) == (5, 3, 4, 2, 1)
    assert (told.recall, told.precision) == (0.5, 0.5)
    assert [(each.photo, each.image, each.heat_map) for each in told.latest] == [
        ("e", "E", "data:y"), ("b", "B", ""), ("a", "A", "data:x"),
    ]  # fmt: skip


def test_each_task_counts_its_own_steps_and_streams():
    figures = AppFigures(demo)
    rows = support_rows(["a", "b"], ["lost", "out_of_scope"])
    manifest = Manifest({}, {"support": "b"}, ledgers={"messages": LEDGER, "answers": LEDGER}, labels={"joined": 2})
    step = Step(pa.record_batch({"body": ["x", "y"]}), {"support": rows}, np.zeros(2, np.int64), 5, manifest, 0, {})
    figures.add(step, 0.5)
    of_all = replace(step, decisions={}, manifest=Manifest({}, ledgers={"photos": LEDGER, "demo.photos.x": LEDGER}))
    figures.add(of_all, 0.6)  # a stage that decides nothing, on Kafka, knows of all of its process
    risk, support, defect = figures.pictures(1.0, {}, ("late",))
    assert (risk.decided, support.decided, defect.decided) == (0, 2, 0)
    assert (risk.problems, support.problems) == (("late",), ())
    assert support.labels == {}
    assert list(defect.ledgers) == ["photos", "demo.photos.x"]
    assert (list(risk.ledgers), list(support.ledgers)) == ([], ["messages", "answers"])
    assert support.told.outside == 1


def test_labels_are_read_once_as_they_come(tmp_path):
    with SqliteLog(tmp_path / "log.db") as log:
        log.create_topic("answers")
        labels = Labels(demo.task("support"), log, None)
        assert labels.read() == ([], [])

        def say(number):
            line = {"message_id": f"m{number}", "answered_at": MONDAY_MS, "intent": f"i{number}", "priority": "low"}
            log.append("answers", 0, [b"broken", json.dumps(line).encode()], MONDAY_MS)

        say(1)
        assert labels.read() == (["m1"], ["i1"])
        say(2)
        assert labels.read() == (["m2"], ["i2"])
        assert labels.read() == ([], [])
