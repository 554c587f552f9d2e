"""The other side: "card features" on Bytewax, event by event, at least once. Usage: BROKERS SOURCE TARGET."""

import json
import sys

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.testing import cluster_main

from tests.bench.card_state import CardState


def step(state, event):
    """Add an event to its card."""
    state = state if state is not None else CardState()
    features = state.add(event["ts"], event["merchant"], event["amount"])
    return state, json.dumps({"event_id": event["event_id"], **features})


def main():
    """Run until killed."""
    brokers, source, target = sys.argv[1:]
    flow = Dataflow("card_features")
    messages = kop.input("in", flow, brokers=[brokers], topics=[source], batch_size=1_000)
    parsed = op.map("parse", messages.oks, lambda message: json.loads(message.value))
    keyed = op.key_on("card", parsed, lambda event: event["card"])
    featured = op.stateful_map("features", keyed, step)
    written = op.map("write", featured, lambda pair: KafkaSinkMessage(pair[0].encode(), pair[1].encode()))
    kop.output("out", written, brokers=[brokers], topic=target)
    cluster_main(flow, [], 0, worker_count_per_proc=1)


if __name__ == "__main__":
    main()
