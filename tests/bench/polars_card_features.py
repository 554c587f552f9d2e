"""The other side of bench_card_features.py: Polars' batch `rolling` over the events sorted by card and time."""

import sys

import polars as pl

SCHEMA = {"event_id": pl.String, "card": pl.String, "merchant": pl.String, "amount": pl.Float64, "ts": pl.Int64}


def main(source: str, target: str) -> None:
    """Read JSON lines, compute, write CSV."""
    events = pl.scan_ndjson(source, schema={**SCHEMA, "country": pl.String}).select(*SCHEMA).collect()
    events = events.sort("card", "ts")
    amount = pl.col("amount")
    hour = events.rolling("ts", period="3600000i", group_by="card").agg(
        count_1h=pl.len(), sum_1h=amount.sum(), mean_1h=amount.mean(), std_1h=amount.std(ddof=0), max_1h=amount.max(),
        merchants_1h=pl.col("merchant").n_unique(),
    )  # fmt: skip
    day = events.rolling("ts", period="86400000i", group_by="card").agg(count_24h=pl.len(), sum_24h=amount.sum())
    columns = [events.select("event_id"), hour.drop("card", "ts"), day.drop("card", "ts")]
    pl.concat(columns, how="horizontal").write_csv(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
