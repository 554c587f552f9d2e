"""Made-up payments and frauds as streams, with their files."""

from connectors.files import open_files
from pipeline import Stream

texts = dict.fromkeys(("card", "terminal", "device", "place", "channel"), "string")
payments = Stream("payments", id="event_id", time="ts", fields={**texts, "amount": "money"})
frauds = Stream("frauds", id="event_id", time="reported_at", fields={"is_fraud": "bool"})
card, terminal = payments.by("card"), payments.by("terminal")
of_card = {
    "amount": payments.amount,
    "channel": payments.channel,
    "count_1h": card.last("1h").count(),
    "device_is_known": card.last("30d").seen("device"),
    "amount_zscore_30d": card.last("30d").zscore("amount"),
}


def inputs(folder, *streams):
    """Open NAME.jsonl of some streams, or of both."""
    return {
        each.name: open_files([folder / f"{each.name}.jsonl"], each.schema, each.name)
        for each in streams or (payments, frauds)
    }
