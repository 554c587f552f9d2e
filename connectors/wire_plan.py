"""How records of one registered schema are read as rows of a stream: what Avro and Protobuf have in common."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from connectors.errors import ConnectorError
from connectors.schema import Field, Schema
from kernels.json_tokens import FLOAT, INTEGER, TEXT, TRUE
from kernels.wire import STAMP, SYMBOL, WireCells

Bytes = NDArray[np.uint8]
Int64s = NDArray[np.int64]
Scan = Callable[[Bytes, Int64s, Int64s], WireCells]


class WireSchemaError(ConnectorError):
    """A registered schema cannot be read as the stream declares; no record of it can. The message says why."""


class Names:
    """The names of enums, one after the other in one buffer."""

    def __init__(self) -> None:
        self._text = bytearray()
        self.places: list[int] = []

    def add(self, name: str) -> int:
        """Keep a name and return its place << 32 | size."""
        encoded = name.encode()
        place = len(self._text) << 32 | len(encoded)
        self._text += encoded
        self.places.append(place)
        return place

    def text(self) -> Bytes:
        """Return the buffer, (bytes,) uint8, never empty."""
        return np.frombuffer(bytes(self._text) or b"\0", np.uint8)


@dataclass(frozen=True)
class WirePlan:
    """How to read records of one schema.

    Attributes:
        scan: of data, starts and ends of some records makes their cells.
        names: (bytes,) uint8, where SYMBOL cells point to.
    """

    scan: Scan
    names: Bytes = field(repr=False)


def takes(schema: Schema, declared: Field) -> frozenset[int]:
    """Return the kinds of values that a field takes, null aside."""
    if declared.name == schema.time:
        return frozenset({TEXT, SYMBOL, STAMP} if schema.time_unit == "iso" else {INTEGER, FLOAT, STAMP})
    kinds = {"string": {TEXT, SYMBOL}, "bool": {TRUE}, "int": {INTEGER}}
    return frozenset(kinds.get(declared.type, {INTEGER, FLOAT}))


def check_kinds(schema: Schema, declared: Field, kinds: set[int], written: str) -> None:
    """Refuse a schema that writes a field as something else than declared.

    Args:
        schema, declared: the stream's field.
        kinds: the kinds of values that the registered schema may write.
        written: the type there, in its own words.

    Raises:
        WireSchemaError: none of the kinds fits.
    """
    if kinds & takes(schema, declared):
        return
    if declared.name == schema.time:
        expected = f'the time field, whose unit is "{schema.time_unit}"'
    else:
        expected = f'declared as "{declared.sensitive or declared.type}"'
    raise WireSchemaError(f"{declared.name} is written as {written:.100}, and {expected}")


def check_missing(schema: Schema, declared: Field) -> None:
    """Refuse a schema that lacks a field which every record needs.

    Raises:
        WireSchemaError: the field is not optional.
    """
    if declared.name in (schema.id, schema.time):
        raise WireSchemaError(f"the schema has no field {declared.name}, which every record needs")
    if not declared.optional:
        kind = declared.sensitive or declared.type
        raise WireSchemaError(f'the schema has no field {declared.name}; declare it as "{kind}?" if it may be missing')
