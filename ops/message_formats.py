"""The decoders of an app's streams, with the schema registry that the environment names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.formats import Decode
    from pipeline.app import App


def decoders_of(app: App, environment: Mapping[str, str] = os.environ) -> dict[str, Decode]:
    """Return what decodes the messages of each stream, by the stream's name.

    Raises:
        ConnectorError: a stream needs a schema registry and PELTON_SCHEMA_REGISTRY is not set, or is malformed.
    """
    from connectors.formats import decoder_of

    registry = None
    if any(stream.message_format != "json" for stream in app.streams.values()):
        from connectors.schema_registry import RegistrySettings, SchemaRegistry

        settings = RegistrySettings.read(environment)
        registry = SchemaRegistry(settings) if settings is not None else None
    return {
        name: decoder_of(stream.schema, stream.message_format, registry, stream=name)
        for name, stream in app.streams.items()
    }
