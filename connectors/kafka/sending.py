"""Write keyed records to a topic as fast as they come: whole batches, each record once even if it is sent again."""

from __future__ import annotations

from concurrent.futures import Future
from types import TracebackType

import numpy as np
import pyarrow as pa
from aiokafka.errors import KafkaError as ClientError

from connectors.kafka.compression import COMPRESSIONS
from connectors.kafka.connection import Connection
from connectors.kafka.errors import KafkaError
from connectors.kafka.messages import Outgoing, OutgoingBatch
from connectors.kafka.producing import Producer
from connectors.kafka.reader import Place
from connectors.kafka.settings import KafkaSettings
from connectors.partitions import partitions_of, split_by_partition


class Sender:
    """Writes to the partitions that Kafka's own producers choose for the same keys; for one thread.

    Delivery: what was sent is written once and in order when `flush`, or the block, ends without an error.

    Args:
        settings: where Kafka is.
        topic: it must be there.
        partitions: how many it has.
        compression: one of COMPRESSIONS.

    Raises:
        KafkaError: there is no such compression.
    """

    def __init__(self, settings: KafkaSettings, topic: str, partitions: int, compression: str = "none") -> None:
        if compression not in COMPRESSIONS:
            raise KafkaError(f"compression is {compression!r}; choose {', '.join(COMPRESSIONS)}")
        self._connection = Connection(settings)
        self._producer = Producer(self._connection, None, ("send", topic))
        self._topic, self._partitions, self._compression = topic, partitions, COMPRESSIONS[compression]
        self._next = 0  # partition of the next records without keys
        self._writing: Future[dict[Place, int]] | None = None

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self._connection.close()

    def send(self, values: pa.LargeBinaryArray, keys: pa.LargeStringArray | None, time_ms: int) -> None:
        """Send records; they are on their way when this returns, and the ones before are written.

        Args:
            values: (n,) without nulls.
            keys: (n,) texts, null for none; None if no record has one, and all go to the next partition in turn.
            time_ms: of all of them; topics with LogAppendTime replace it.

        Raises:
            LogError: records that were sent before could not be written.
        """
        batches: dict[Place, list[OutgoingBatch]] = {}
        for partition, each in self._by_partition(values, keys, time_ms):
            batches.setdefault((self._topic, partition), []).extend(each.batches(self._compression))
        self.flush()
        self._writing = self._connection.start(self._producer.write(batches, self._connection.deadline_s))

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            LogError: it could not be.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result(2 * self._connection.timeout_s)  # it gives up by itself before
        except (TimeoutError, ClientError, OSError) as error:
            raise self._connection.explained(error, f"write to topic {self._topic!r}") from None

    def _by_partition(
        self, values: pa.LargeBinaryArray, keys: pa.LargeStringArray | None, time_ms: int
    ) -> list[tuple[int, Outgoing]]:
        if keys is None:
            self._next = (self._next + 1) % self._partitions
            return [(self._next, Outgoing(values, time_ms))]
        found = []
        if keys.null_count:
            found.append((0, Outgoing(values.filter(keys.is_null()), time_ms)))
            values, keys = values.filter(keys.is_valid()), keys.drop_null()
        rows, bounds = split_by_partition(partitions_of(keys, self._partitions), self._partitions)
        texts = keys.cast(pa.large_binary())
        for partition in np.flatnonzero(np.diff(bounds)).tolist():
            own = pa.array(rows[bounds[partition] : bounds[partition + 1]])
            found.append((partition, Outgoing(values.take(own), time_ms, texts.take(own))))
        return found
