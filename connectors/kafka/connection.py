"""One connection to a cluster for threads that wait: an event loop beside them, and errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient

from connectors.kafka.errors import BrokerAwayError, KafkaError, in_words
from connectors.kafka.knock import knock, quiet
from connectors.kafka.settings import KafkaSettings
from connectors.log import LogError, unknown_topic

TIMEOUT_S = 30.0
RETRY_S = 0.02  # between two tries where a broker is moving or starting
AWAY_S = 0.5  # at most, where none answers
AWAY_S_MAX = 1.0  # then who waits is let go, to look at the clock
TRIES_MS = 20  # aiokafka's own pause between tries
AWAY = (
    kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.RequestTimedOutError, kafka.StaleMetadata,
    kafka.NoBrokersAvailable, kafka.CorrelationIdError, asyncio.TimeoutError, OSError,
)  # fmt: skip
MOVING = (
    kafka.NotLeaderForPartitionError, kafka.LeaderNotAvailableError, kafka.CoordinatorNotAvailableError,
    kafka.CoordinatorLoadInProgressError, kafka.NotCoordinatorError, kafka.KafkaStorageError,
    kafka.UnknownTopicOrPartitionError,
)  # fmt: skip
NOT_ALLOWED = (
    kafka.TopicAuthorizationFailedError, kafka.GroupAuthorizationFailedError, kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
)  # fmt: skip

Result = TypeVar("Result")


class PatientClient(AIOKafkaClient):
    """Asks brokers that are all away less and less often; aiokafka asks them in a loop."""

    _away_s = 0.0

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        answered: bool = await super()._metadata_update(cluster_metadata, topics)
        self._away_s = 0.0 if answered else min(self._away_s * 2 or RETRY_S, AWAY_S)
        await asyncio.sleep(self._away_s)
        return answered


class Connection:
    """A client of a cluster, with its event loop in a thread or on one that already runs elsewhere.

    Args:
        settings: where and how.
        timeout_s: after this long without an answer a call gives up.
        loop: one that runs in another thread; None for a thread of our own.
    """

    def __init__(
        self, settings: KafkaSettings, timeout_s: float = TIMEOUT_S, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        quiet()
        self.settings, self.timeout_s = settings, timeout_s
        self._thread: threading.Thread | None = None
        self._loop = loop or self._start_loop()
        self._client: AIOKafkaClient | None = None
        self._connecting: asyncio.Lock | None = None
        self._asking: asyncio.Task[None] | None = None
        self._closed = False

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="kafka", daemon=True)
        self._thread.start()
        return loop

    @property
    def deadline_s(self) -> float:
        """When a call that begins now gives up, by the loop's clock."""
        return time.monotonic() + self.timeout_s

    def call(self, work: Coroutine[Any, Any, Result], doing: str) -> Result:
        """Run a coroutine on the loop and wait for it, from any other thread.

        Raises:
            LogError: it failed, or took too long; `doing` says what in the message.
        """
        future = self.start(work)
        try:
            return future.result(self.timeout_s * 2 + 5)  # the coroutine itself gives up before
        except CancelledError:
            raise LogError(f"{doing}: the connection to Kafka at {self.settings.where} was closed") from None
        except (TimeoutError, kafka.KafkaError, KafkaError, OSError) as error:
            future.cancel()
            raise self.explained(error, doing) from error

    def start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Let a coroutine run on the loop."""
        if self._closed:
            work.close()
            raise LogError(f"the connection to Kafka at {self.settings.where} is closed; open it again")
        if asyncio._get_running_loop() is self._loop:
            work.close()
            raise LogError("the log on Kafka was called from its own event loop, and would wait for itself")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def client(self) -> AIOKafkaClient:
        """Return the client, connected."""
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
        return self._client

    async def _connect(self) -> AIOKafkaClient:
        until_s = self.deadline_s
        arguments = self.settings.aiokafka()
        while True:
            client = PatientClient(
                **arguments, request_timeout_ms=int(self.timeout_s * 1000), retry_backoff_ms=TRIES_MS,
                metadata_max_age_ms=60_000,
            )  # fmt: skip
            try:
                await client.bootstrap()
            except kafka.KafkaError:
                await client.close()
                await self._say_why(is_last=time.monotonic() > until_s)
                await asyncio.sleep(RETRY_S * 5)
            else:
                return client

    async def _say_why(self, *, is_last: bool) -> None:
        """Raise what stands against a connection; a broker that is only away may come back."""
        try:
            await knock(self.settings)
        except BrokerAwayError:
            if is_last:
                raise

    async def send(self, node: int, request: Any, group: object = 0) -> Any:
        """Send a request to a broker; requests of one `group` share a connection and are answered in their order."""
        return await (await self.client()).send(node, request, group=group)

    async def leaders(self, places: Iterable[tuple[str, int]], until_s: float) -> dict[tuple[str, int], int]:
        """Return which broker leads each topic and partition.

        Raises:
            KafkaError: a topic or partition is not there, has no leader until then, or no broker says so.
        """
        client = await self.client()
        wanted, answered = set(places), True
        while True:
            found = {}
            for topic, partition in wanted:
                leader = client.cluster.leader_for_partition(kafka_place(topic, partition))
                if leader is not None and leader != -1:
                    found[topic, partition] = leader
            missing = {topic for topic, partition in wanted if (topic, partition) not in found}
            if not missing:
                return found
            for topic in missing:
                client._topics.add(topic)  # an empty set would mean all
            for topic in sorted(missing & client.cluster.unauthorized_topics):
                raise kafka.TopicAuthorizationFailedError(topic)
            if time.monotonic() > until_s:
                if not answered or all(client.cluster.partitions_for_topic(topic) for topic in missing):
                    raise kafka.LeaderNotAvailableError(*sorted(missing))
                raise kafka.UnknownTopicOrPartitionError(*sorted(missing))
            answered = await client.force_metadata_update()
            if any(client.cluster.leader_for_partition(kafka_place(*place)) is None for place in wanted):
                await asyncio.sleep(RETRY_S)

    async def stale(self) -> None:
        """Ask anew who leads what, after a short pause; all who need it share one question.

        While no broker answers, the question is repeated now and then; those who wait are let go after a second.
        """
        client = await self.client()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask_anew(client))
        await asyncio.shield(self._asking)

    async def _ask_anew(self, client: AIOKafkaClient) -> None:
        until_s = time.monotonic() + AWAY_S_MAX
        while True:
            answered = False
            with contextlib.suppress(asyncio.TimeoutError):
                answered = await asyncio.wait_for(client.force_metadata_update(), AWAY_S_MAX)
            await asyncio.sleep(RETRY_S)
            if answered or time.monotonic() > until_s:
                return

    async def partitions(self, names: Iterable[str] = ()) -> dict[str, int]:
        """Return how many partitions each topic has; of all topics if none are named. Missing ones are left out."""
        from aiokafka.protocol.metadata import MetadataRequest

        client = await self.client()
        until_s = self.deadline_s
        while True:
            try:
                node = client.get_random_node()
                response = await self.send(node, MetadataRequest(list(names) or None))
            except AWAY:
                if time.monotonic() > until_s:
                    raise
                await self.stale()
                continue
            found = {}
            for code, name, *_, partitions in response.topics:
                if kafka.for_code(code) in NOT_ALLOWED and names:
                    raise kafka.for_code(code)(name)
                if code == 0:
                    found[name] = len(partitions)
            return found

    def explained(self, error: BaseException, doing: str) -> LogError:
        """Return the error that tells a user what is wrong and what to do."""
        if isinstance(error, LogError):
            return error
        if isinstance(error, KafkaError):
            return LogError(str(error))
        if isinstance(error, kafka.UnknownTopicOrPartitionError) and error.args:
            return unknown_topic(str(error.args[0]), [])
        return LogError(str(in_words(error, self.settings, doing)))

    def close(self) -> None:
        """Close the connection, and the loop if it is our own; calls that wait raise LogError."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(5)
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            if not self._thread.is_alive():
                self._loop.close()

    async def _shut(self) -> None:
        if self._thread is not None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            mine = [task for task in others if "md_synchronizer" not in repr(task)]
            for task in mine:
                task.cancel()
            await asyncio.gather(*mine, return_exceptions=True)
        if self._asking is not None:
            self._asking.cancel()
        if self._client is not None:
            await self._client.close()


async def all_of(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return what all of them return, side by side; if one fails, all have ended before its error goes on."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def kafka_place(topic: str, partition: int) -> Any:
    """Return the client's name for a topic and partition."""
    from aiokafka.structs import TopicPartition

    return TopicPartition(topic, partition)


def raise_code(code: int, *about: object) -> None:
    """Raise the error that a broker's answer stands for; nothing for 0."""
    if code:
        raise kafka.for_code(code)(*about)


async def until(
    done_s: float, attempt: Callable[[], Coroutine[Any, Any, Result]], again: tuple[type[BaseException], ...],
    connection: Connection,
) -> Result:  # fmt: skip
    """Try until it works, the time is over, or the error is another one."""
    while True:
        try:
            return await attempt()
        except again:
            if time.monotonic() > done_s:
                raise
            await connection.stale()
