"""The card payments of the Fraud Detection Handbook, in its own columns and by its protocol: labels come a week late.

Data: one CSV file a month with TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT, TX_FRAUD; its column
TX_FRAUD_SCENARIO tells the label and is not declared. Source: Le Borgne et al., "Reproducible Machine Learning for
Credit Card Fraud Detection", ULB 2022, chapters "Transaction data simulator" and "Baseline feature transformation".
"""

from pipeline import App, Stream, Task
from pipeline.windows import WindowFeature

payments = Stream(
    "payments",
    id="TRANSACTION_ID",
    time="TX_DATETIME",
    time_unit="iso",
    fields={
        "TRANSACTION_ID": "int", "CUSTOMER_ID": "int", "TERMINAL_ID": "int", "TX_AMOUNT": "money", "TX_FRAUD": "int?"
    },
)  # fmt: skip
fraud = payments.label("TX_FRAUD", known_after="7d")
customer, terminal = payments.by("CUSTOMER_ID"), payments.by("TERMINAL_ID")
BIG = "amount_ratio_30d > 3"  # by the customer's own measure


def by_days(name: str, *days: int) -> dict[str, int]:
    """Return a feature's name for each span: {"customer_count_7d": 7, ...}."""
    return {f"{name}_{span}d": span for span in days}


of_the_book: dict[str, WindowFeature] = {
    **{name: customer.last(f"{d}d").count() for name, d in by_days("customer_count", 1, 7, 30).items()},
    **{name: customer.last(f"{d}d").mean("TX_AMOUNT") for name, d in by_days("customer_mean", 1, 7, 30).items()},
    **{name: terminal.last(f"{d}d", delay="7d").count() for name, d in by_days("terminal_count", 1, 7, 30).items()},
    **{name: terminal.last(f"{d}d", delay="7d").rate(fraud) for name, d in by_days("terminal_rate", 1, 7, 30).items()},
}
of_the_history: dict[str, WindowFeature] = {
    "amount_zscore_30d": customer.last("30d").zscore("TX_AMOUNT"),
    **{name: customer.last(f"{d}d").rate(BIG) for name, d in by_days("customer_big", 1, 3, 7, 14).items()},
    **{name: customer.last(f"{d}d").sum(BIG) for name, d in by_days("customer_bigs", 1, 3, 7, 14).items()},
    **{name: customer.last(f"{d}d", delay="7d").sum(fraud) for name, d in by_days("customer_frauds", 7, 14, 30).items()},
    **{name: terminal.last(f"{d}d", delay="7d").sum(fraud) for name, d in by_days("terminal_frauds", 1, 3, 7, 21).items()},
    "terminal_frauds_before": terminal.last("30d", delay="28d").sum(fraud),  # whoever took it over is gone after 28 days
    **{name: terminal.last(f"{d}d").rate(BIG) for name, d in by_days("terminal_big", 7, 28).items()},
    **{name: terminal.last(f"{d}d").count() for name, d in by_days("terminal_now", 1, 7).items()},
    "customer_gap": customer.seconds_since_last(),
    "terminal_gap": terminal.seconds_since_last(),
}
others_30d = "customer_mean_30d * customer_count_30d - TX_AMOUNT"  # what the customer spent on the others of the window

risk = Task(
    "risk",
    on=payments,
    features={
        "amount": payments.TX_AMOUNT,
        "hour": "hour(TX_DATETIME)",
        "night": "hour(TX_DATETIME) <= 6",
        "weekend": "weekday(TX_DATETIME) >= 5",
        "amount_ratio_30d": f"TX_AMOUNT * (customer_count_30d - 1) / ({others_30d})",
        **of_the_book,
        **of_the_history,
    },
    label=fraud,
    entity="CUSTOMER_ID",
)
app = App("handbook", tasks=[risk])
