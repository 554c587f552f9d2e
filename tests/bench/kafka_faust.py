"""The other side: "card features" on plain Faust, by event, at least once. Usage: BROKERS SOURCE TARGET FOLDER."""

import sys

import faust

from tests.bench.card_state import CardState

brokers, source, target, folder = sys.argv[1:]
app = faust.App("card-features", broker=f"kafka://{brokers}", datadir=folder, topic_partitions=2, web_enabled=False)
payments = app.topic(source, value_serializer="json")
results = app.topic(target, value_serializer="json")
cards = {}


@app.agent(payments)
async def decide(stream):
    """Add each event to its card."""
    async for event in stream:
        state = cards.setdefault(event["card"], CardState())
        features = state.add(event["ts"], event["merchant"], event["amount"])
        await results.send(key=event["card"], value={"event_id": event["event_id"], **features})


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "--without-web", "-l", "error"]
    app.main()
