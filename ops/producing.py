"""Records of a file into a Kafka topic, keyed by one of their fields, as other producers would have sent them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec
import pyarrow as pa

from connectors.errors import ConnectorError
from connectors.kafka.admin import KafkaAdmin
from connectors.kafka.errors import NoTopicError
from connectors.kafka.sending import Sender
from connectors.kafka.settings import KafkaSettings
from connectors.schema import FORMATS, Schema
from connectors.wire_writer import Write
from ops.record_files import ROWS_MAX, RecordFile, keys_of


class ProduceError(ValueError):
    """Records cannot be sent as asked."""


def partitions_of_topic(settings: KafkaSettings, topic: str) -> int:
    """Return how many partitions a topic has.

    Raises:
        NoTopicError: there is no such topic.
        NotAllowedError: it may not be looked at.
    """
    with KafkaAdmin(settings) as admin:
        partitions = admin.partitions([topic]).get(topic)
    if partitions is None:
        raise NoTopicError(
            f"there is no topic {topic!r} on Kafka at {settings.where}; make it: pelton topics create APP"
        )
    return partitions


class Messages:
    """Makes messages in Avro or Protobuf of JSON records; what does not fit stays JSON, to become a dead letter.

    Attributes:
        unfit: how many did not fit so far.
        why: the first time.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._decode = msgspec.json.Decoder(dict).decode
        self.unfit, self.why = 0, ""

    def __call__(self, values: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
        """Return the messages of some records."""
        return pa.array([self._one(value) for value in values.to_pylist()], pa.large_binary())

    def _one(self, value: bytes) -> bytes:
        try:
            return self._write(self._decode(value))
        except (ConnectorError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self.unfit += 1
            self.why = self.why or str(error)
            return value


def schema_of(app: str | None, topic: str) -> Schema | None:
    """Return the schema of an app's stream, by the app's file; None without an app.

    Raises:
        ProduceError: the app has no such stream.
    """
    if app is None:
        return None
    from pipeline.errors import nearest
    from pipeline.loading import load_app

    streams = load_app(app).streams
    if topic not in streams:
        raise ProduceError(f"{app} has no stream {topic!r}; {nearest(topic, streams)}")
    return streams[topic].schema


def messages_of(topic: str, format: str, schema: Schema | None, environment: Mapping[str, str]) -> Messages | None:
    """Return what makes messages for a topic, None for JSON; the schema is the newest of subject TOPIC-value.

    Args:
        schema: of the stream: to make a schema of, if the subject has none yet.

    Raises:
        ProduceError: there is no such format, or no schema yet and nothing to make one of.
        ConnectorError: there is no registry, or it refuses.
    """
    if format not in FORMATS:
        raise ProduceError(f"format is {format!r}; use one of {', '.join(FORMATS)}")
    if format == "json":
        return None
    from connectors.schema_registry import NoSuchSchemaError, RegistrySettings, SchemaRegistry
    from connectors.wire_writer import open_writer

    settings = RegistrySettings.read(environment)
    if settings is None:
        raise ProduceError(
            f"messages in {format} need a schema registry; "
            f"set PELTON_SCHEMA_REGISTRY to its address, such as http://localhost:8081"
        )
    registry, subject = SchemaRegistry(settings), f"{topic}-value"
    if schema is None:
        try:
            registry.latest(subject)
        except NoSuchSchemaError:
            raise ProduceError(
                f"the schema registry has no schema of {subject} yet; say which app declares the stream, so that one "
                f"is made of its fields: --app APP"
            ) from None
        schema = Schema((), "", "")
    return Messages(open_writer(schema, format, registry, subject))


def produce_file(
    sender: Sender,
    file: RecordFile,
    key: str | None,
    rate: float | None,
    clock_ms: Callable[[], int],
    sleep: Callable[[float], None],
    step: Callable[[float, float, str], None],
    message: Messages | None = None,
) -> tuple[int, int]:
    """Send all records; each is written once, in the order of the file within its partition.

    Args:
        key: field whose text is the key; None for no keys.
        rate: records a second; None for as fast as possible.
        clock_ms: milliseconds since the epoch.
        step: told bytes done, bytes in all, and a note.
        message: makes messages of JSON records; None sends these.

    Returns:
        How many records were sent, and how many of them had no key.

    Raises:
        ProduceError: the rate is not above 0, or no record of the first block has the key.
        LogError: what it says was sent before is there.
    """
    if rate is not None and not rate > 0:
        raise ProduceError(f"rate is {rate}; choose a number above 0")
    sent = without = 0
    started_ms = clock_ms()
    for values, keys in _keyed(file, key, rate):
        if rate is not None and (wait_ms := started_ms + sent / rate * 1000 - clock_ms()) > 0:
            sleep(wait_ms / 1000)
        sender.send(message(values) if message is not None else values, keys, clock_ms())
        sent += len(values)
        without += keys.null_count if keys is not None else len(values)
        step(file.bytes_read, file.bytes_total, f"{sent:,} records")
    sender.flush()
    return sent, without


def _keyed(
    file: RecordFile, key: str | None, rate: float | None
) -> Iterator[tuple[pa.LargeBinaryArray, pa.LargeStringArray | None]]:
    """Yield records with their keys; with a rate, about ten batches a second."""
    rows = ROWS_MAX if rate is None else max(1, min(ROWS_MAX, int(rate / 10)))
    checked = False
    for values in file.blocks(rows):
        keys = keys_of(values, key) if key is not None else None
        if keys is not None and not checked and keys.null_count == len(keys):
            raise ProduceError(f"none of the first {len(keys):,} records has a field {key!r}; choose another --key")
        checked = True
        yield values, keys
