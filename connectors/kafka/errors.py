"""What Kafka refuses, in words for the person who must mend it; for the errors of kafka-python and aiokafka alike."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl

from connectors.errors import ConnectorError
from connectors.kafka.settings import KafkaSettings

# Numbers of Kafka's protocol, the same in every client library.
_TIMED_OUT, _NO_TOPIC, _TOO_LARGE, _BAD_NAME = 7, 3, 10, 17
_ACLS = {29: "topic", 30: "group", 31: "cluster, or to write on the topic", 53: "transactional id"}
_OTHER_LOGIN, _NO_LOGIN, _WRONG_LOGIN = 33, 34, 58
_EXISTS, _COPIES, _CONFIG, _POLICY = 36, 38, 40, 44


class KafkaError(ConnectorError):
    """Kafka cannot do what was asked."""


class BrokerAwayError(KafkaError):
    """No broker answers; it may come back."""


class NotAllowedError(KafkaError):
    """Kafka does not let us in, or not do this; waiting does not help."""


class NoTopicError(KafkaError):
    """A topic is not there."""


def in_words(error: BaseException, settings: KafkaSettings, doing: str = "do this") -> KafkaError:
    """Return what to tell about an error of a Kafka client.

    Args:
        error: of kafka-python, aiokafka, or the connection under them.
        settings: what the client was given; its secrets are not shown.
        doing: what was refused, for example "write to topic 'payments'".
    """
    if isinstance(error, KafkaError):
        return error
    number = getattr(error, "errno", None) if not isinstance(error, OSError) else None
    who = f"user {settings.user!r}" if settings.sasl else "this client"
    said = _said(error)
    login = _of_login(number, settings, who, said)
    if login is not None:
        return login
    if number in _ACLS:
        return NotAllowedError(
            f"{who} may not {doing}; allow it with an ACL on the {_ACLS[number]}: kafka-acls.sh --add"
        )
    if number == _NO_TOPIC:
        return NoTopicError(
            f"cannot {doing}: there is no such topic; make it: pelton topics create APP --kafka BROKERS"
        )
    if number == _TOO_LARGE:
        return KafkaError(f"cannot {doing}: a message is over the size that the broker takes; raise max.message.bytes")
    if number == _COPIES:
        return KafkaError(f"cannot {doing}: {said}; ask for at most as many copies as there are brokers")
    if number == _BAD_NAME:
        return KafkaError(f"cannot {doing}: in its name use 1 to 249 letters, digits, dots, dashes or underscores")
    if number in (_EXISTS, _CONFIG, _POLICY):
        return KafkaError(f"cannot {doing}: {said}; change it and try again")
    away = _of_connection(error, settings)
    return away or KafkaError(f"Kafka at {settings.where} cannot {doing}: {said}; see the broker's log")


def _of_login(number: int | None, settings: KafkaSettings, who: str, said: str) -> NotAllowedError | None:
    if number == _WRONG_LOGIN:
        return NotAllowedError(
            f"Kafka at {settings.where} refuses {who}: wrong user or password; "
            f"check PELTON_KAFKA_USER, PELTON_KAFKA_PASSWORD and PELTON_KAFKA_SASL ({settings.mechanism})"
        )
    if number == _OTHER_LOGIN:
        return NotAllowedError(
            f"Kafka at {settings.where} does not take {settings.mechanism}; set PELTON_KAFKA_SASL to what it takes"
        )
    if number == _NO_LOGIN:
        return NotAllowedError(
            f"Kafka at {settings.where} asks for no password there; use the port of its SASL listener, "
            f"or unset PELTON_KAFKA_USER"
        )
    return None


def _of_connection(error: BaseException, settings: KafkaSettings) -> KafkaError | None:
    cause = error.__cause__ if not isinstance(error, OSError) and isinstance(error.__cause__, OSError) else error
    where = settings.where
    if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
        trusted = settings.ca or "the authorities of this machine"
        return NotAllowedError(
            f"the certificate of Kafka at {where} is not trusted by {trusted}; "
            f"set PELTON_KAFKA_CA to the authority that signed it, and use the host name that stands in it"
        )
    if isinstance(cause, ssl.SSLError):
        return NotAllowedError(
            f"Kafka at {where} does not speak TLS with us ({_said(cause)}); "
            f"use the port of its {settings.security} listener, and a client certificate if it asks for one"
        )
    if isinstance(cause, socket.gaierror):
        return BrokerAwayError(f"Kafka at {where}: no such host; check the name")
    if isinstance(cause, ConnectionRefusedError):
        return BrokerAwayError(f"Kafka at {where} does not answer: nothing listens there; start it, or check the port")
    if isinstance(cause, asyncio.TimeoutError | TimeoutError) or type(error).__name__ in _AWAY:
        return BrokerAwayError(f"Kafka at {where} does not answer; check that it runs and that this machine reaches it")
    if isinstance(cause, OSError):
        return BrokerAwayError(f"Kafka at {where} does not answer: {(cause.strerror or str(cause)).lower()}; check it")
    return None


_AWAY = (
    "KafkaConnectionError", "KafkaTimeoutError", "RequestTimedOutError", "NodeNotReadyError", "NoBrokersAvailable",
    "CoordinatorNotAvailableError", "LeaderNotAvailableError", "NetworkExceptionError", "BrokerNotAvailableError",
    "NotLeaderForPartitionError", "GroupCoordinatorNotAvailableError",
)  # fmt: skip


def _said(error: BaseException) -> str:
    """Return what an error says without the names of classes in front of it."""
    text = str(error) or type(error).__name__
    text = re.sub(r"^(\[Error \d+\] )?(\w+Error(: ?|$))+", "", text).strip().rstrip(".")
    return text or type(error).__name__
