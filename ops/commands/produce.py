"""`pelton produce`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ops.commands.options import Kafka


def produce(
    topic: Annotated[
        str, Argument(metavar="TOPIC", help="It must be there: pelton topics create APP --kafka BROKERS.")
    ],
    file: Annotated[Path, Argument(metavar="FILE", help="JSON lines, CSV (both also .gz) or Parquet.")],
    key: Annotated[
        str | None, Option(metavar="FIELD", help="Field that is the key: equal keys go to one partition.")
    ] = None,
    rate: Annotated[float | None, Option(help="Records a second; the most, if not given.")] = None,
    format: Annotated[
        str, Option(help="json, or avro and protobuf with the newest schema of TOPIC-value in the registry.")
    ] = "json",
    app: Annotated[
        str | None,
        Option("--app", "-a", metavar="APP", help="Whose stream it is, to register a schema where none is."),
    ] = None,
    compression: Annotated[str, Option(help="none, gzip, snappy or zstd.")] = "none",
    kafka: Kafka = None,
) -> None:
    """Send records of a file to a Kafka topic, as JSON, Avro or Protobuf.

    \b
    For example: pelton produce payments payments.jsonl --key card --kafka localhost:9092
                 pelton produce payments payments.jsonl --key card --format avro --app bank.py
    """
    import os
    import time

    from connectors.kafka.sending import Sender
    from ops.brokers import kafka_settings
    from ops.producing import messages_of, partitions_of_topic, produce_file, schema_of
    from ops.record_files import RecordFile
    from ops.terminal import note, progress, ready_kernels, say

    if kafka is None:
        raise typer.BadParameter("say where Kafka is: --kafka host:port, or PELTON_KAFKA_BROKERS", param_hint="--kafka")
    settings, source = kafka_settings(kafka), RecordFile(file)
    partitions = partitions_of_topic(settings, topic)  # before the kernels: what is refused is told at once
    message = messages_of(topic, format, schema_of(app, topic), os.environ)
    ready_kernels()
    started_s = time.monotonic()
    with Sender(settings, topic, partitions, compression) as sender, progress("sending") as step:
        clock_ms = lambda: time.time_ns() // 1_000_000  # noqa: E731
        sent, without = produce_file(sender, source, key, rate, clock_ms, time.sleep, step, message)
    took_s = max(time.monotonic() - started_s, 1e-9)
    say(f"{topic}: {sent:,} records sent in {took_s:,.1f} s, {sent / took_s:,.0f}/s")
    if key is not None and without:
        note(f"{without:,} of them have no {key!r}; they are in partition 0, without a key")
    if message is not None and message.unfit:
        note(f"{message.unfit:,} of them do not fit the schema and went as JSON; the first: {message.why}")
