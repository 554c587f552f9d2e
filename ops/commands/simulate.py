"""`pelton simulate`."""

from pathlib import Path
from typing import Annotated

from typer import Option


def simulate(
    out: Annotated[Path, Option(metavar="DIR", help="Folder for payments.jsonl and frauds.jsonl.")] = Path("data"),
    days: Annotated[int, Option(help="Length in days of event time.")] = 14,
    events_per_day: Annotated[float, Option(help="Payments a day.")] = 14_300,
    cards: Annotated[int, Option(help="How many cards there are.")] = 2_000,
    terminals: Annotated[int, Option(help="How many terminals there are.")] = 500,
    fraud_rate: Annotated[float, Option(help="Share of payments that are fraud.")] = 0.009,
    seed: Annotated[int, Option(help="The same seed gives the same bytes.")] = 7,
    drift: Annotated[bool, Option(help="Let behaviour shift, and a new fraud pattern appear.")] = True,
    compress: Annotated[bool, Option("--gzip", help="Compress both files.")] = False,
) -> None:
    """Make up card payments, with frauds that are reported late.

    \b
    For example: pelton simulate --days 30 --cards 5000 --out data
    """
    from ops.simulate import SimulationSettings
    from ops.simulate import simulate as write
    from ops.terminal import progress, say

    settings = SimulationSettings(
        days=days, events_per_day=events_per_day, cards=cards, terminals=terminals, fraud_rate=fraud_rate, seed=seed,
        drift=drift,
    )  # fmt: skip
    with progress("simulating", "records") as step:
        made = write(settings, out, lambda done, total: step(done, total, f"{done:,} records"), compress)
    say(f"{made.payments_path}: {made.records:,} records, {made.payments:,} payments, {made.frauds:,} of them fraud")
    say(f"{made.labels_path}: {made.labels:,} labels, in the order in which they became known")
    say(f"seed {seed}, sha256 {made.payments_sha256[:12]} and {made.labels_sha256[:12]}")
