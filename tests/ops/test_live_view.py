"""The live view fits its terminal, and the plain lines say the same."""

import io

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from ops.views import live_words as words
from ops.views.live_figures import Change, LiveFigures, Picture, Shown
from ops.views.live_view import draw
from pipeline import App, Dynamic, Stream, Task
from pipeline.learning import Learned
from pipeline.live import Step
from pipeline.manifest import Manifest

NAN = float("nan")
MONDAY_MS = 1_767_571_200_000
LEDGER = {"taken": 33_120, "applied": 33_010, "late": 4, "future": 0, "duplicate": 61, "invalid": 45}
JOINED = {"joined": 20_000, "waiting": 100, "unmatched": 0, "superseded": 0, "duplicate": 0, "invalid": 0}
REASON = "amount_zscore_30d is 8.12, usually -0.29: raises the score"


def picture(**changes):
    shown = Shown(MONDAY_MS, "card_4f0c9a3b7d12", 1204.5, "block", 0.97, 0.42, REASON)
    passed = Shown(MONDAY_MS, "card_000000000000", NAN, "allow", 0.01, 0.42, "")
    facts = {
        "elapsed_s": 34.2, "event_ms": MONDAY_MS, "decided": 33_010, "rates": tuple(range(30)), "dead": 49,
        "latency_ms": (3, 14), "recent_ms": (4, 12), "ledgers": {"payments": LEDGER}, "labels": JOINED,
        "decisions": {"allow": 32_600, "review": 312, "block": 98}, "alert_rate": 0.012, "alert_target": 0.01,
        "changes": (Change(0, "36508cd027f7", ""), Change(33, "36508cd027f7", "8fa2")), "threshold": 0.42,
        "rung": "moe+ftrl",
        "served_auc": 0.962, "learner_auc": 0.958, "served_curve": (0.9, 0.95), "learner_curve": (0.9, 0.96),
        "snapshots": 1, "latest": (shown, passed) * 20,
        "seconds": {"decode": 1.0, "features": 1.0, "score": 2.0, "commit": 0.5},
    }  # fmt: skip
    return Picture("bank", "risk", **(facts | changes))


def drawn(shown, width, height):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(draw(shown, width, height), end="")
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (120, 40), (200, 60)])
@pytest.mark.parametrize("shown", [picture(), Picture("bank", "risk"), picture(problems=("x" * 300,))])
def test_it_fits_the_terminal(shown, width, height):
    lines = drawn(shown, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width


def test_the_smallest_terminal_shows_everything_that_matters():
    text = "\n".join(drawn(picture(), 80, 24))
    for part in (
        "bank", "risk", "Mon 05 Jan 00:00", "00:34", "28 /s", "p50 4 ms, p99 12 ms", "33,120 = 33,010 applied",
        "20,100 = 20,000 joined + 100 waiting", "0.962", "0.958", "bundle 36508c + snapshot 8fa2", "1.2 %", "0.420",
        "card_4f0c9a", "1,204.50", "block", "0.97", "0.42", "amount_zscore_30d is 8.12 ↑", "49 letters",
    ):  # fmt: skip
        assert part in text


def test_a_wide_one_shows_whole_reasons_and_a_tall_one_where_the_time_goes():
    text = "\n".join(drawn(picture(), 120, 40))
    assert "amount_zscore_30d is 8.12, usually -0.29 ↑" in text
    assert "score 44 %" in text


def test_a_ledger_that_does_not_add_up_is_said_aloud():
    broken = picture(ledgers={"payments": LEDGER | {"late": 5}})
    assert "does not add up" in "\n".join(drawn(broken, 80, 24))
    assert ("payments", f"{words.ledger(LEDGER | {'late': 5}, short=True)}: NOT CLOSED") in words.summary(broken)


def test_plain_lines_say_the_same():
    assert words.line(picture()) == (
        "00:34 | Mon 05 Jan 00:00 | 28 events/s | p50 4 ms, p99 12 ms | alerts 1.2 % from 0.42 | "
        "AUC 0.962 served, 0.958 learner | snapshot 8fa2"
    )
    assert words.decision_line(picture()) == (
        "      block  card_4f0c9a 1,204.50 0.97 >= 0.42: amount_zscore_30d is 8.12, usually -0.29 ↑"
    )
    assert words.line(Picture("bank", "risk")) == (
        "00:00 | waiting for events | 0 events/s | p50 –, p99 – | alerts – from –"
    )


def test_the_summary_folds_below_its_values():
    lines = words.folded([("payments", "one two three"), ("x", "four")], 18)
    assert lines == ["payments  one two", "          three", "x         four"]
    assert ("latency", "p50 3 ms, p99 14 ms, from append to committed decision") in words.summary(picture())


payments = Stream("payments", id="id", time="ts", fields={"card": "card", "amount": "money"})
FRAUD = Task(
    "fraud", on=payments, features={"amount": payments.amount}, entity="card", threshold=Dynamic(alert_rate=0.01)
)
BANK = App("bank", tasks=[FRAUD])


def step(first, decisions, latency_ms, snapshot=""):
    count = len(decisions)
    events = pa.record_batch({"card": ["card_1"] * count, "amount": np.arange(count, dtype=float)})
    rows = pa.record_batch({
        "time_ms": np.arange(first, first + count), "decision": decisions, "score": np.full(count, 0.5),
        "threshold": np.full(count, 0.4), "reasons": [[REASON] if each != "allow" else [] for each in decisions],
    })  # fmt: skip
    ledger = LEDGER | {"taken": first + count}
    manifest = Manifest({}, {"fraud": "b"}, {"fraud": snapshot}, {"fraud": "ftrl"}, ledgers={"payments": ledger})
    return Step(events, {"fraud": rows}, np.zeros(count, np.int64), latency_ms, manifest, 1, {"decode": 0.1})


def test_figures_count_every_step():
    figures = LiveFigures(BANK)
    figures.add(step(0, ["allow"] * 98 + ["review", "block"], 5), at_s=0.5)
    figures.add(step(100, ["allow"] * 300, 20, snapshot="s"), at_s=2.5)
    now = figures.picture(4.0, {"fraud": Learned(9, 0.9, 0.8, 1, "", JOINED)})
    assert (now.decided, now.event_ms, now.dead, now.seconds["decode"]) == (400, 399, 2, 0.2)
    assert now.rates == (100, 0, 300, 0)
    assert now.decisions == {"allow": 398, "review": 1, "block": 1}
    assert now.alert_rate == 2 / 400
    assert now.latency_ms == now.recent_ms == (20, 20)
    assert [(change.at_s, change.snapshot) for change in now.changes] == [(0.5, ""), (2.5, "s")]
    assert [each.decision for each in now.latest if each.decision != "allow"] == ["block", "review"]
    assert (now.served_auc, now.learner_auc, now.labels) == (0.9, 0.8, JOINED)


def test_alerts_and_latency_are_of_the_newest_events():
    figures = LiveFigures(BANK)
    figures.add(step(0, ["block"] * 20_000, 500), at_s=0.1)
    figures.add(step(20_000, ["allow"] * 9_000, 2), at_s=0.2)
    now = figures.picture(1.0)
    assert now.alert_rate == 0
    assert now.recent_ms == (2, 2)
    assert now.latency_ms == (500, 500)
