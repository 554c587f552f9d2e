"""The demo's app: card payments, scored for fraud. `pelton simulate` writes streams for it."""

from pipeline import App, Dynamic, Rule, Stream, Task, hour_of, ratio, weekday_of

payments = Stream(
    "payments", id="event_id", time="ts", lateness="5s",
    fields={
        "card": "card", "terminal": "string", "device": "string", "place": "string",
        "merchant_category": "string", "channel": "string", "amount": "money",
    },
)  # fmt: skip
frauds = Stream("frauds", id="event_id", time="reported_at", fields={"is_fraud": "bool"})
card, terminal, device = payments.by("card"), payments.by("terminal"), payments.by("device")
hour, day, month = card.last("1h"), card.last("24h"), card.last("30d")
known = {"delay": "2d"}

risk = Task(
    "risk",
    on=payments,
    features={
        "payment_amount": payments.amount,
        "category": payments.merchant_category,
        "sales_channel": payments.channel,
        "hour": hour_of(payments.ts),
        "weekday": weekday_of(payments.ts),
        "payments_1h": hour.count(),
        "payments_24h": day.count(),
        "amount_std_1h": hour.std("amount"),
        "amount_std_24h": day.std("amount"),
        "place_entropy_1h": hour.entropy("place"),
        "place_entropy_24h": day.entropy("place"),
        "device_is_known_1h": hour.seen("device"),
        "device_is_known_24h": day.seen("device"),
        "device_is_known_30d": month.seen("device"),
        "terminal_is_known_30d": month.seen("terminal"),
        "place_changed": month.changed("place"),
        "terminals_24h": day.distinct("terminal"),
        "amount_sum_24h": day.sum("amount"),
        "amount_max_24h": day.max("amount"),
        "amount_mean_30d": month.mean("amount"),
        "amount_zscore_30d": month.zscore("amount"),
        "amount_to_mean": ratio("amount", "amount_mean_30d"),
        "big_share_7d": card.last("7d").rate("amount > 3 * amount_mean_30d"),
        "seconds_since_last": card.seconds_since_last(),
        "terminal_payments_24h": terminal.last("24h").count(),
        "terminal_cards_24h": terminal.last("24h").distinct("card"),
        "terminal_fraud_rate_7d": terminal.last("7d", **known).rate(frauds.is_fraud),
        "terminal_frauds_7d": terminal.last("7d", **known).sum(frauds.is_fraud),
        "card_frauds_7d": card.last("7d", **known).sum(frauds.is_fraud),
        "device_cards_24h": device.last("24h").distinct("card"),
        **card.recent(4, "amount", "merchant_category"),
    },
    rules=[
        Rule("card testing", "device_cards_24h >= 4 and payment_amount < 5", "block"),
        Rule("many places at once", "place_entropy_1h > 0.9 and device_is_known_30d == 0", "review"),
    ],
    label=frauds.is_fraud,
    threshold=Dynamic(base=0.85, alert_rate=0.01, lowest=0.05, window=10_000),
    entity="card",
)
app = App("bank", tasks=[risk])
