"""The app of the benchmark "card features": eight windows by card."""

from pipeline import App, Stream, Task

payments = Stream(
    "payments",
    id="event_id",
    time="ts",
    lateness="5s",
    fields={"card": "string", "merchant": "string", "amount": "money"},
)
hour, day = payments.by("card").last("1h"), payments.by("card").last("24h")
features = {
    "count_1h": hour.count(),
    "sum_1h": hour.sum("amount"),
    "mean_1h": hour.mean("amount"),
    "std_1h": hour.std("amount"),
    "max_1h": hour.max("amount"),
    "merchants_1h": hour.distinct("merchant"),
    "count_24h": day.count(),
    "sum_24h": day.sum("amount"),
}
task = Task("features", on=payments, features=features, model=None, learner=None)
app = App("card_features", tasks=[task], events_per_key=32_768)  # the busiest card has 17,300 events in 24 h
