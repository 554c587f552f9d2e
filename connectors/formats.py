"""How messages of a stream are written: JSON, or Avro and Protobuf with a schema registry."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from connectors.decode import RECORD_BYTES_MAX, decode
from connectors.errors import ConnectorError
from connectors.records import Decoded, Records
from connectors.schema import FORMATS, Schema

if TYPE_CHECKING:
    from connectors.schema_registry import SchemaRegistry

Decode = Callable[[Records], Decoded]


def decoder_of(
    schema: Schema,
    format: str = "json",
    registry: "SchemaRegistry | None" = None,
    record_bytes_max: int = RECORD_BYTES_MAX,
    *,
    stream: str = "",
) -> Decode:
    """Return what decodes the records of a stream; threads may share it.

    Args:
        schema: of the stream.
        format: one of FORMATS.
        registry: where schemas of Avro and Protobuf are asked for.
        record_bytes_max: a longer record is invalid.
        stream: its name, for a message.

    Raises:
        ConnectorError: the format needs a registry and there is none.
    """
    if format == "json":
        return partial(decode, schema, record_bytes_max=record_bytes_max)
    if format not in FORMATS:
        raise ConnectorError(f"format is {format!r}; use one of {', '.join(FORMATS)}")
    if registry is None:
        advice = "set PELTON_SCHEMA_REGISTRY to its address, such as http://localhost:8081"
        named = f"stream {stream!r}" if stream else "a stream"
        raise ConnectorError(f"{named} in {format} needs a schema registry; {advice}")
    from connectors.decode_wire import WireDecoder  # its kernels are loaded only where they are used

    return WireDecoder(schema, format, registry, record_bytes_max)
