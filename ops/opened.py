"""The log that was asked for: on Kafka with `--kafka`, else the one of this machine; only opened, nothing is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ops.settings import Settings
from pipeline.topics import rows_of, rows_of_name

if TYPE_CHECKING:
    from connectors.log import Log
    from connectors.secrets import Sealer
    from pipeline.app import App


@contextmanager
def opened_log(settings: Settings, kafka: str | None, app: App | str, sealer: Sealer | None = None) -> Iterator[Log]:
    """Open a log to read, or to send records in again.

    Topics of streams on Kafka are their producers' own: what is appended there is never encrypted.

    Args:
        settings: where the log of this machine is.
        kafka: brokers, "host:port,host:port"; None for the log of this machine.
        app: whose topics are looked at; its name will do for dead letters.
        sealer: of what is encrypted.

    Raises:
        SettingsError: there is no log on this machine.
        LogError: it cannot be used.
        KafkaSettingsError: how to reach Kafka is not said properly.
    """
    with ExitStack() as stack:
        if kafka is None:
            yield stack.enter_context(settings.open_log(sealer))
            return
        from connectors.kafka.log import KafkaLog
        from ops.brokers import kafka_settings

        rows = rows_of_name(app) if isinstance(app, str) else rows_of(app)
        yield stack.enter_context(KafkaLog(kafka_settings(kafka), sealer, rows=rows))
