"""The Kafka that a command was told of, by its option `--kafka` and the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.kafka.settings import KafkaSettings


def kafka_settings(brokers: str) -> KafkaSettings:
    """Return how to reach these brokers ("host:port,host:port"), with the security that PELTON_KAFKA_* sets.

    Raises:
        KafkaSettingsError: something is missing, or does not fit together.
    """
    from connectors.kafka.settings import KafkaSettings

    return KafkaSettings.read(brokers, os.environ)
