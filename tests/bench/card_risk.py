"""The app of the benchmark with both models: windows by card alone, a network over its last payments, a learner."""

from ops.demo.payments import frauds, payments
from pipeline import App, Dynamic, Rule, Task, hour_of, ratio

card = payments.by("card")
hour, day, month = card.last("1h"), card.last("24h"), card.last("30d")
risk = Task(
    "risk",
    on=payments,
    features={
        "payment_amount": payments.amount,
        "category": payments.merchant_category,
        "hour": hour_of(payments.ts),
        "payments_1h": hour.count(),
        "payments_24h": day.count(),
        "amount_std_24h": day.std("amount"),
        "place_entropy_24h": day.entropy("place"),
        "device_is_known_30d": month.seen("device"),
        "terminal_is_known_30d": month.seen("terminal"),
        "place_changed": month.changed("place"),
        "terminals_24h": day.distinct("terminal"),
        "amount_mean_30d": month.mean("amount"),
        "amount_to_mean": ratio("amount", "amount_mean_30d"),
        "seconds_since_last": card.seconds_since_last(),
        **card.recent(4, "amount", "merchant_category"),
    },
    rules=[Rule("many places at once", "place_entropy_24h > 0.9 and device_is_known_30d == 0", "review")],
    label=frauds.is_fraud,
    threshold=Dynamic(base=0.85, alert_rate=0.01, lowest=0.05, window=10_000),
    entity="card",
)
app = App("card_risk", tasks=[risk])
