"""The card payments of the Fraud Detection Handbook, in its own columns and by its protocol: labels come a week late.

Data: CSV files with TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT, TX_FRAUD and a column
TX_FRAUD_SCENARIO, which tells the label and is not declared. Source: Le Borgne et al., "Reproducible Machine Learning
for Credit Card Fraud Detection", ULB 2022, chapters 3.2 (transaction data) and 3.3 (feature transformation).
"""

from pipeline import App, Stream, Task
from pipeline.app import Feature

payments = Stream(
    "payments",
    id="TRANSACTION_ID",
    time="TX_DATETIME",
    time_unit="iso",
    fields={
        "TRANSACTION_ID": "int",
        "CUSTOMER_ID": "int",
        "TERMINAL_ID": "int",
        "TX_AMOUNT": "money",
        "TX_FRAUD": "int?",
    },
)
fraud = payments.label("TX_FRAUD", known_after="7d")
customer, terminal = payments.by("CUSTOMER_ID"), payments.by("TERMINAL_ID")

features: dict[str, Feature | str] = {
    "amount": payments.TX_AMOUNT,
    "night": "hour(TX_DATETIME) <= 6",
    "weekend": "weekday(TX_DATETIME) >= 5",
}
for days in (1, 7, 30):  # the book's
    features |= {
        f"customer_count_{days}d": customer.last(f"{days}d").count(),
        f"customer_mean_{days}d": customer.last(f"{days}d").mean("TX_AMOUNT"),
        f"terminal_count_{days}d": terminal.last(f"{days}d", delay="7d").count(),
        f"terminal_rate_{days}d": terminal.last(f"{days}d", delay="7d").rate(fraud),
    }

# The amount against the customer's own history, and how many payments like that there were lately.
spent_before = "(customer_mean_30d * customer_count_30d - TX_AMOUNT)"
features |= {
    "amount_zscore_30d": customer.last("30d").zscore("TX_AMOUNT"),
    "amount_ratio_30d": f"TX_AMOUNT * (customer_count_30d - 1) / {spent_before}",
    "customer_gap": customer.seconds_since_last(),
}
big = "amount_ratio_30d > 3"
for days in (1, 3, 7, 14):
    features[f"customer_bigs_{days}d"] = customer.last(f"{days}d").sum(big)
for days in (7, 14, 30):
    features[f"customer_frauds_{days}d"] = customer.last(f"{days}d", delay="7d").sum(fraud)

# A terminal is taken over for 28 days: frauds before that are over. Big payments are fraud of another kind.
for days in (1, 3, 7, 21):
    features[f"terminal_frauds_{days}d"] = terminal.last(f"{days}d", delay="7d").sum(fraud)
features |= {
    "terminal_frauds_before": terminal.last("30d", delay="28d").sum(fraud),
    "terminal_big_share_7d": terminal.last("7d").rate(big),
    "terminal_big_share_28d": terminal.last("28d").rate(big),
}
for days in (7, 21):
    features |= {
        f"terminal_bigs_{days}d": terminal.last(f"{days}d", delay="7d").sum(big),
        f"terminal_small_frauds_{days}d": f"max(terminal_frauds_{days}d - terminal_bigs_{days}d, 0)",
    }
features |= {
    "terminal_bigs_before": terminal.last("30d", delay="28d").sum(big),
    "terminal_small_frauds_before": "max(terminal_frauds_before - terminal_bigs_before, 0)",
}

risk = Task("risk", on=payments, features=features, label=fraud, entity="CUSTOMER_ID")
app = App("handbook", tasks=[risk])
