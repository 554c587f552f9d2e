"""What looking for manifests costs: a broker is asked for little."""

from connectors.kafka.connection import Connection
from connectors.kafka.log import KafkaLog
from connectors.kafka.manifests import forget_before, manifest_topic
from connectors.kafka.reader import Reader
from connectors.kafka.settings import KafkaSettings
from tests.kafka_broker import fresh

MANIFESTS, BYTES = 400, 2_000


class Counting(Reader):
    """A reader that adds up what it was given."""

    taken_bytes = 0

    async def fetch(self, *asked, **how):
        found = await super().fetch(*asked, **how)
        self.taken_bytes += sum(each.messages.size for each in found.values())
        return found


def test_old_manifests_are_forgotten_by_small_reads(kafka):
    group = fresh("app")
    with KafkaLog(KafkaSettings((kafka,)), at_least_once=True) as log:
        for number in range(MANIFESTS):
            with log.transaction(group, 0, number) as transaction:
                transaction.put_manifest(b"x" * BYTES)
    connection = Connection(KafkaSettings((kafka,)))
    try:
        reader = Counting(connection)
        assert connection.call(forget_before(reader, manifest_topic(group), 0, 250), "forget") == 249
        assert BYTES < reader.taken_bytes < 0.4 * MANIFESTS * BYTES  # the end is read, and some ten batches before it
    finally:
        connection.close()
