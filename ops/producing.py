"""Records of a file into a Kafka topic, keyed by one of their fields, as other producers would have sent them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from connectors.kafka.admin import KafkaAdmin
from connectors.kafka.errors import NoTopicError
from connectors.kafka.sending import Sender
from connectors.kafka.settings import KafkaSettings
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


def produce_file(
    sender: Sender,
    file: RecordFile,
    key: str | None,
    rate: float | None,
    clock_ms: Callable[[], int],
    sleep: Callable[[float], None],
    step: Callable[[float, float, str], None],
) -> tuple[int, int]:
    """Send all records; each is written once, in the order of the file within its partition.

    Args:
        key: field whose text is the key; None for no keys.
        rate: records a second; None for as fast as possible.
        clock_ms: milliseconds since the epoch.
        step: told bytes done, bytes in all, and a note.

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
        sender.send(values, keys, clock_ms())
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
