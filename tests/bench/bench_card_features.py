"""Is Pelton, event by event, as fast as Polars' batch `rolling` over the same file?

Whole processes with their start-up, from a file of JSON lines to a CSV file, on two cores, in turns. Before anything is
timed, values are compared: with Polars' where lines are in order, and a sample with the oracle. The second question:
what an event costs with 100 times as many keys.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from connectors.files import open_files
from ops.replaying import replay_files
from ops.verifying import verify_files
from pipeline.loading import load_app
from tests.bench.measuring import APP, PELTON, Run, in_turns, machine, parser, workload

COUNTS = ("count_1h", "merchants_1h", "count_24h")
OTHERS = ("sum_1h", "mean_1h", "std_1h", "max_1h", "sum_24h")
POLARS = str(Path(__file__).with_name("polars_card_features.py"))


def replay_command(source: Path, target: Path) -> list[str]:
    """Return the command under test."""
    return [*PELTON, "replay", str(APP), "--features-only", "--input", str(source), "--output", str(target)]


def in_order(events: pl.DataFrame) -> pl.Series:
    """Say which events came after all of their card that are as old or older: the others saw less than Polars does."""
    by_card = events.with_row_index("place").sort("card", "ts", "place")
    newest = pl.col("place").cum_max().over("card")  # of those at the same time, the last one saw all
    seen = by_card.with_columns(last=newest).with_columns(last=pl.col("last").max().over("card", "ts"))
    return seen.sort("place").select(pl.col("last") == pl.col("place")).to_series()


def check_equal(source: Path, ours: Path, theirs: Path) -> dict[str, Any]:
    """Compare all values with Polars', and a sample with the oracle; stop at a difference."""
    schema = {
        "event_id": pl.String,
        "card": pl.String,
        "merchant": pl.String,
        "country": pl.String,
        "amount": pl.Float64,
    }
    events = pl.read_ndjson(source, schema={**schema, "ts": pl.Int64})
    mine = pl.read_csv(ours)
    assert mine["event_id"].equals(events["event_id"]), "events are missing, or not in the order of the file"
    both = mine.join(pl.read_csv(theirs), on="event_id", how="left", maintain_order="left").filter(in_order(events))
    for name in COUNTS:
        assert both[name].equals(both[f"{name}_right"].cast(pl.Int64)), f"{name} differs from Polars'"
    for name in OTHERS:  # Polars adds floats up, so it is off by rounding; a deviation of equal amounts by its root
        np.testing.assert_allclose(both[name], both[f"{name}_right"], rtol=1e-9, atol=1e-5, err_msg=name)
    app = load_app(str(APP))
    inputs = {"payments": open_files([source], app.plans["payments"].stream.schema, "payments")}
    verified = verify_files(app, inputs, 1_000, 0, None, lambda done, of, note: None)["payments"]
    assert verified.holds, f"the oracle differs: {verified.first[0]}"
    return {"compared_with_polars": both.height, "values_checked_by_oracle": verified.values_checked}


def told(run: Run, events: int) -> dict[str, float]:
    """Return the figures of a process."""
    return {
        "wall_s": round(run.wall_s, 2), "cpu_s": round(run.cpu_s, 2), "mb": round(run.mb),
        "events_per_s": round(events / run.wall_s),
    }  # fmt: skip


def beside_polars(events: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time both sides in turns, values compared first."""
    source, ours, theirs = workload(events), folder / "ours.csv", folder / "theirs.csv"
    commands = {
        "pelton": replay_command(source, ours), "polars": [sys.executable, POLARS, str(source), str(theirs)],
    }  # fmt: skip
    in_turns(commands, 1)
    equal = check_equal(source, ours, theirs) if events <= 1_000_000 else {}
    best = in_turns(commands, rounds)
    pelton, polars = best["pelton"], best["polars"]
    row = {
        "events": events, "pelton": told(pelton, events), "polars": told(polars, events),
        "times_faster": round(polars.wall_s / pelton.wall_s, 2),
        "times_less_cpu": round(polars.cpu_s / pelton.cpu_s, 2),
        **equal, **machine(),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def many_keys(events: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Compare processor time per event with 10,000 and 1,000,000 keys."""
    sources = {str(cards): workload(events, cards) for cards in (10_000, 1_000_000)}
    best = in_turns({cards: replay_command(source, folder / "keys.csv") for cards, source in sources.items()}, rounds)
    ns = {cards: round(run.cpu_s / events * 1e9) for cards, run in best.items()}
    row = {
        "events": events, "ns_per_event_by_keys": ns,
        "mb_by_keys": {cards: round(run.mb) for cards, run in best.items()},
        "times_the_cost": round(ns["1000000"] / ns["10000"], 2), **machine(),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def where_time_goes(events: int) -> dict[str, Any]:
    """Return nanoseconds of processor time per event by stage; the stages overlap."""
    app = load_app(str(APP))
    inputs = {"payments": open_files([workload(events)], app.plans["payments"].stream.schema, "payments")}
    with tempfile.TemporaryDirectory() as folder:
        done = replay_files(app, inputs, f"{folder}/out.csv", features_only=True)
    row = {name: round(seconds / events * 1e9) for name, seconds in done.where_time_goes.items() if seconds}
    print(json.dumps({"ns_per_event_by_stage": row, "events": events, **machine()}), flush=True)
    return row


def main() -> None:
    """Run."""
    asked = parser(__doc__)
    asked.add_argument("--full", action="store_true", help="ten million events, too")
    given = asked.parse_args()
    quick, full = given.quick, given.full
    events = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [beside_polars(events, 1 if quick else 5, folder)]
        if full:
            rows.append(beside_polars(10_000_000, 2, folder))
        keys = many_keys(events, 1 if quick else 3, folder)
    stages = where_time_goes(events)
    result = {f"times_faster_{row['events']}": row["times_faster"] for row in rows}
    result |= {f"times_less_cpu_{row['events']}": row["times_less_cpu"] for row in rows}
    result |= {"mb_max": max(row["pelton"]["mb"] for row in rows), "keys_times_the_cost": keys["times_the_cost"]}
    print(json.dumps({"bench": "card_features", **result, "ns_per_event_by_stage": stages, **machine()}))


if __name__ == "__main__":
    main()
