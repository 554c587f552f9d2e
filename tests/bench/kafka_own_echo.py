"""An exactly-once echo on the connector's own batches: copies a topic of 2 partitions, computes nothing.

A thread per partition; a transaction per read; where it is goes as a manifest into the transaction.
Usage: python -m tests.bench.kafka_own_echo BROKERS SOURCE TARGET
"""

from __future__ import annotations

import sys
import threading

from connectors.kafka.log import KafkaLog
from connectors.kafka.settings import KafkaSettings

PARTITIONS, RECORDS_MAX, WAIT_S = 2, 8192, 0.2


def echo(log: KafkaLog, source: str, target: str, partition: int) -> None:
    """Copy a partition until the process is ended."""
    group = f"{target}.echo"
    commit, at = log.claim(group, partition, PARTITIONS), 0
    while True:
        records = log.read(source, partition, at, RECORDS_MAX)
        if not len(records):
            log.wait({(source, partition): at}, WAIT_S)
            continue
        with log.transaction(group, partition, commit) as transaction:
            transaction.append(target, partition, records.values, int(records.append_ms[-1]))
            at = int(records.offsets[-1]) + 1
            transaction.put_manifest(b'{"end":%d}' % at)
        commit += 1


def main() -> None:
    """Copy both partitions until a signal ends the process."""
    address, source, target = sys.argv[1:]
    with KafkaLog(KafkaSettings((address,))) as log:
        threads = [
            threading.Thread(target=echo, args=(log, source, target, partition)) for partition in range(PARTITIONS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
