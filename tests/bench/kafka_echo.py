"""An exactly-once echo on aiokafka alone, as one writes it today: copies a topic of 2 partitions, computes nothing.

A task per partition; a transaction per poll; where it is goes as a record into the transaction; two transactional ids
take turns, and back-offs are short: without both, a commit takes four times as long.
Usage: python tests/bench/kafka_echo.py BROKERS SOURCE TARGET [at_least_once]
"""

from __future__ import annotations

import asyncio
import signal
import sys

import aiokafka
from aiokafka.producer import sender
from aiokafka.structs import TopicPartition

PARTITIONS, RECORDS_MAX, WAIT_MS, BATCH_BYTES = 2, 8192, 200, 900_000
sender.BACKOFF_OVERRIDE = 0.001  # of "the last transaction is still being ended"; its constant is 20 ms


async def echo(brokers: str, source: str, target: str, partition: int, exactly_once: bool) -> None:
    """Copy a partition until cancelled."""
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest",
        isolation_level="read_committed", fetch_max_wait_ms=WAIT_MS, max_partition_fetch_bytes=4 << 20,
    )  # fmt: skip
    names = [f"{target}.echo-{partition}-{turn}" for turn in range(2)] if exactly_once else [None]
    producers = [
        aiokafka.AIOKafkaProducer(
            bootstrap_servers=brokers,
            transactional_id=name,
            enable_idempotence=True,
            retry_backoff_ms=1,
            linger_ms=0,
            max_batch_size=BATCH_BYTES,
        )
        for name in names
    ]
    for client in (consumer, *producers):
        await client.start()
    place, turn = TopicPartition(source, partition), 0
    consumer.assign([place])
    await consumer.seek_to_beginning(place)
    try:
        while True:
            records = (await consumer.getmany(place, timeout_ms=WAIT_MS, max_records=RECORDS_MAX)).get(place)
            if not records:
                continue
            producer = producers[turn % len(producers)]
            if exactly_once:
                async with producer.transaction():
                    await asyncio.gather(*await copy(producer, target, partition, records))
                    note = b'{"end":%d}' % (records[-1].offset + 1)
                    await producer.send(f"{target}.notes", note, partition=partition)
            else:
                await asyncio.gather(*await copy(producer, target, partition, records))
            turn += 1
    finally:
        for client in (consumer, *producers):
            await client.stop()


async def copy(producer: aiokafka.AIOKafkaProducer, target: str, partition: int, records: list) -> list:
    """Send values in as few batches as fit; return what to wait for."""
    sent, batch = [], producer.create_batch()
    for record in records:
        if batch.append(key=None, value=record.value, timestamp=None) is None:
            batch.close()
            sent.append(await producer.send_batch(batch, target, partition=partition))
            batch = producer.create_batch()
            batch.append(key=None, value=record.value, timestamp=None)
    batch.close()
    return [*sent, await producer.send_batch(batch, target, partition=partition)]


async def main() -> None:
    """Copy both partitions until told to stop."""
    brokers, source, target, *how = sys.argv[1:]
    tasks = [asyncio.ensure_future(echo(brokers, source, target, n, not how)) for n in range(PARTITIONS)]
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: [task.cancel() for task in tasks])
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
