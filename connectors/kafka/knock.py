"""Find out why Kafka cannot be reached, before a client library tries for minutes and says only that it could not."""

from __future__ import annotations

import asyncio
import logging

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError as ConnectionClosedError
from aiokafka.errors import KafkaError as ClientError
from aiokafka.protocol.metadata import MetadataRequest

from connectors.kafka.errors import BrokerAwayError, in_words
from connectors.kafka.settings import KafkaSettings

ANSWER_S_MAX = 5.0
CLOSE_S_MAX = 1.0


async def knock(settings: KafkaSettings, timeout_s: float = ANSWER_S_MAX) -> None:
    """Return as soon as one broker lets us in and answers.

    Args:
        settings: the brokers are tried in their order.
        timeout_s: seconds for each of them.

    Raises:
        NotAllowedError: a broker refuses user, password or certificate; waiting does not help.
        BrokerAwayError: none answers.
        KafkaSettingsError: certificates cannot be used.
    """
    arguments = settings.aiokafka()
    away: Exception | None = None
    for broker in arguments.pop("bootstrap_servers"):
        host, _, port = broker.rpartition(":")
        connection = AIOKafkaConnection(
            host.strip("[]"), int(port), request_timeout_ms=int(timeout_s * 1000), **arguments
        )
        try:
            async with asyncio.timeout(timeout_s):
                await _ask(connection)
                return
        except (OSError, ClientError) as error:
            found = _hung_up(settings) if _is_hang_up(error) else in_words(error, settings)
            if not isinstance(found, BrokerAwayError):
                raise found from None
            away = away or found
    assert away is not None
    raise away from None


async def _ask(connection: AIOKafkaConnection) -> None:
    try:
        await connection.connect()
        await connection.send(MetadataRequest([]))
    except OSError:  # never was connected
        raise
    except BaseException:
        await _closed(connection)
        raise
    await _closed(connection)


async def _closed(connection: AIOKafkaConnection) -> None:
    await asyncio.wait([connection.close()], timeout=CLOSE_S_MAX)


def knock_now(settings: KafkaSettings, timeout_s: float = ANSWER_S_MAX) -> None:
    """Do the same where there is no event loop."""
    asyncio.run(knock(settings, timeout_s))


def quiet() -> None:
    """Keep what the client libraries log off the terminal, unless the process set up logging: errors are raised."""
    for name in ("kafka", "aiokafka"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def _is_hang_up(error: Exception) -> bool:
    """Tell whether a broker took the connection and closed it again, as it does when it expects another protocol."""
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    return type(error) is ConnectionClosedError


def _hung_up(settings: KafkaSettings) -> BrokerAwayError:
    certificate = "" if settings.certificate or not settings.tls else ", and whether it asks for a client certificate"
    return BrokerAwayError(
        f"Kafka at {settings.where} hangs up; check that this is the port of its {settings.security} listener "
        f"(PELTON_KAFKA_SECURITY){certificate}"
    )
