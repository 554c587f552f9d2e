"""Avro schemas to programs that read records of theirs as rows of a stream.

Fields are found by name, or by an alias that the writer's schema gives. Nested records, arrays and maps are skipped.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from connectors.schema import Schema
from connectors.wire_plan import Names, WirePlan, WireSchemaError, check_kinds, check_missing
from kernels import avro_scan as do
from kernels import json_tokens as tokens
from kernels.wire import STAMP, SYMBOL

_BUILT_FROM = ("union", "array", "map", "record", "error", "enum", "fixed")
_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_PLAIN = {"boolean": (do.BOOL, tokens.TRUE), "int": (do.LONG, tokens.INTEGER), "long": (do.LONG, tokens.INTEGER),
          "float": (do.SINGLE, tokens.FLOAT), "double": (do.DOUBLE, tokens.FLOAT),
          "bytes": (do.TEXT_OF, tokens.TEXT), "string": (do.TEXT_OF, tokens.TEXT)}  # fmt: skip
_TIMES = {("long", "timestamp-millis"): (1, 1), ("long", "timestamp-micros"): (1, 1000),
          ("long", "timestamp-nanos"): (1, 1_000_000), ("long", "local-timestamp-millis"): (1, 1),
          ("long", "local-timestamp-micros"): (1, 1000), ("long", "local-timestamp-nanos"): (1, 1_000_000),
          ("int", "date"): (86_400_000, 1)}  # fmt: skip
_SCALE_MAX = 255
_ROWS_MAX = 1 << 16  # of a program: a schema larger than that is no schema of events


class Node(NamedTuple):
    """A type of an Avro schema: its kind, its attributes, and the types it is made of (a named one only by name)."""

    kind: str
    attributes: Mapping[str, Any] = {}
    parts: tuple["Node", ...] = ()


def avro_plan(schema: Schema, text: str, references: tuple[str, ...] = ()) -> WirePlan:
    """Make the program that reads records of an Avro schema.

    Args:
        schema: what the stream declares.
        text: the writer's schema, JSON.
        references: schemas that define types which it names, those that others build on first.

    Raises:
        WireSchemaError: it is no Avro schema of a record, or cannot be read as declared.
    """
    try:
        compiler = _compiled(schema, text, references)
    except WireSchemaError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise WireSchemaError("the schema is not JSON, not Avro, or nested too deeply") from None
    program = np.array(compiler.rows, np.int64)
    places = np.array(compiler.names.places or [0], np.int64)
    scan = partial(do.scan_avro, program=program, names=places, fields=len(schema.fields))
    return WirePlan(lambda data, starts, ends: scan(data, starts, ends), compiler.names.text())


def _compiled(schema: Schema, text: str, references: tuple[str, ...]) -> "_Compiler":
    reader = _TypeReader()
    for each in references:
        reader.read(json.loads(each))
    root = reader.read(json.loads(text))
    root = reader.types.get(root.kind, root)
    if root.kind != "record":
        raise WireSchemaError(f"the schema is of {_words(root)}, not of a record")
    compiler = _Compiler(schema, reader.types)
    compiler.root(root)
    return compiler


class _TypeReader:
    """Reads JSON into nodes and collects the named types."""

    def __init__(self) -> None:
        self.types: dict[str, Node] = {}

    def read(self, written: Any, space: str = "") -> Node:
        if isinstance(written, str):
            return self._named(written, space)
        if isinstance(written, list):
            return Node("union", {}, tuple(self.read(each, space) for each in written))
        if not isinstance(written, dict) or "type" not in written:
            raise WireSchemaError(f"the schema has {json.dumps(written)[:60]} where a type belongs")
        kind = written["type"]
        if kind in ("record", "error", "enum", "fixed"):
            return self._define(written, kind, space)
        if kind == "array":
            return Node("array", {}, (self.read(written.get("items"), space),))
        if kind == "map":
            return Node("map", {}, (Node("string"), self.read(written.get("values"), space)))
        if kind in _PRIMITIVES:
            return Node(kind, written)
        return self.read(kind, space)  # {"type": {"type": ...}}, or the name of another type

    def _named(self, name: str, space: str) -> Node:
        if name in _PRIMITIVES:
            return Node(name)
        for full in (f"{space}.{name}" if space and "." not in name else name, name):
            if full in self.types:
                return Node(full)
        raise WireSchemaError(f"the schema names a type {name!r} that nothing defines")

    def _define(self, written: dict[str, Any], kind: str, space: str) -> Node:
        name = str(written.get("name", ""))
        if "." in name:
            space, full = name.rpartition(".")[0], name
        else:
            space = str(written.get("namespace") or space)
            full = f"{space}.{name}" if space else name
        if not name or full in _PRIMITIVES + _BUILT_FROM:
            raise WireSchemaError(f"the schema has a {kind} without a name of its own")
        if kind == "enum" and not _are_names(written.get("symbols")):
            raise WireSchemaError(f"the schema has an enum {full} without symbols")
        if kind == "fixed" and not _is_size(written.get("size")):
            raise WireSchemaError(f"the schema has a fixed {full} without a size")
        parts: tuple[Node, ...] = ()
        if kind in ("record", "error"):
            kind = "record"
            self.types[full] = Node("record", written)  # its own fields may name it
            fields = written.get("fields")
            if not isinstance(fields, list) or not all(isinstance(each, dict) and "name" in each for each in fields):
                raise WireSchemaError(f"the schema has a record {full} without fields")
            parts = tuple(self.read(each.get("type"), space) for each in fields)
        self.types[full] = Node(kind, written, parts)
        return Node(full)


def _are_names(symbols: Any) -> bool:
    return isinstance(symbols, list) and bool(symbols) and all(isinstance(each, str) for each in symbols)


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 31


class _Compiler:
    """Writes the rows of a program."""

    def __init__(self, schema: Schema, types: dict[str, Node]) -> None:
        self.rows: list[list[int]] = []
        self.names = Names()
        self._schema, self._types = schema, types
        self._empty = _empty_types(types)
        self._time = schema.names.index(schema.time)
        self._calls: list[tuple[int, str]] = []  # row and name of the record that it skips

    def root(self, record: Node) -> None:
        """Write the whole program."""
        written = record.attributes["fields"]
        found: dict[int, int] = {}
        for place, declared in enumerate(self._schema.fields):
            at = _find(written, declared.name)
            if at is None:
                check_missing(self._schema, declared)
            else:
                found[at] = place
        for at, node in enumerate(record.parts):
            place = found.get(at, -1)
            kinds = self._write(node, place)
            if place >= 0:
                check_kinds(self._schema, self._schema.fields[place], kinds, _words(node, self._types))
        self._row(do.END)
        self._bodies()

    def _bodies(self) -> None:
        """Write what skips each record that is called, and lead the calls there."""
        starts: dict[str, int] = {}
        while waiting := {name for _, name in self._calls} - starts.keys():
            name = min(waiting)
            starts[name] = len(self.rows)
            for node in self._types[name].parts:
                self._write(node, -1)
            self._row(do.RETURN)
        for row, name in self._calls:
            self.rows[row][2] = starts[name]

    def _row(self, code: int, place: int = -1, a: int = 0, b: int = 0) -> int:
        if len(self.rows) == _ROWS_MAX:
            raise WireSchemaError(f"the schema is too large: it takes more than {_ROWS_MAX} steps to read")
        self.rows.append([code, place, a, b])
        return len(self.rows) - 1

    def _write(self, node: Node, place: int) -> set[int]:
        """Write what reads a value into a field, or skips it if `place` is -1; return the kinds it may have."""
        named = self._types.get(node.kind, node)
        if named.kind == "record":
            if node.kind not in self._empty:  # so that each call takes a byte, and none goes round for ever
                self._calls.append((self._row(do.CALL), node.kind))
            return self._mark(place, tokens.OBJECT)
        if node.kind == "null":
            return self._mark(place, tokens.NULL)
        if node.kind == "union":
            return self._union(node, place)
        if node.kind in ("array", "map"):
            return self._array(node, place)
        return self._plain(named, place)

    def _mark(self, place: int, kind: int) -> set[int]:
        if place >= 0:
            self._row(do.MARK, place, kind)
        return {kind}

    def _plain(self, node: Node, place: int) -> set[int]:
        logical = node.attributes.get("logicalType")
        if node.kind == "enum":
            first = len(self.names.places)
            symbols = node.attributes["symbols"]
            if place >= 0:
                for symbol in symbols:
                    self.names.add(symbol)
            self._row(do.ENUM, place, len(symbols), first)
            return {SYMBOL}
        if node.kind in ("bytes", "fixed") and logical == "decimal" and (scale := _scale(node)) is not None:
            self._row(do.DECIMAL, place, scale, node.attributes["size"] if node.kind == "fixed" else -1)
            return {tokens.FLOAT if scale else tokens.INTEGER}
        if node.kind == "fixed":
            self._row(do.SKIP_FIXED, -1, node.attributes["size"])
            return self._mark(place, tokens.OBJECT)
        time = _TIMES.get((node.kind, str(logical)))
        if place == self._time and time is not None:
            self._row(do.TIME, place, *time)
            return {STAMP}
        code, kind = _PLAIN[node.kind]
        self._row(code, place)
        return {kind}

    def _union(self, node: Node, place: int) -> set[int]:
        kinds = [part.kind for part in node.parts]
        if len(kinds) == 2 and "null" in kinds:
            null = kinds.index("null")
            head = self._row(do.OPTIONAL, place, null)
            found = self._write(node.parts[1 - null], place)
            self.rows[head][3] = len(self.rows) - head - 1
            return found | {tokens.NULL}
        self._row(do.UNION, place, len(kinds))
        table = [self._row(do.GOTO) for _ in kinds]
        leaps, found = [], set()
        for start, part in zip(table, node.parts, strict=True):
            self.rows[start][2] = len(self.rows)
            found |= self._write(part, place)
            leaps.append(self._row(do.GOTO))
        for leap in leaps:
            self.rows[leap][2] = len(self.rows)
        return found

    def _array(self, node: Node, place: int) -> set[int]:
        nothing = all(part.kind in self._empty | {"null"} for part in node.parts)
        head = self._row(do.ARRAY, -1, 0, int(nothing))
        for part in node.parts:
            self._write(part, -1)
        self._row(do.NEXT)
        self.rows[head][2] = len(self.rows)
        return self._mark(place, tokens.ARRAY if node.kind == "array" else tokens.OBJECT)


def _find(fields: list[dict[str, Any]], name: str) -> int | None:
    for at, each in enumerate(fields):
        if each["name"] == name:
            return at
    for at, each in enumerate(fields):
        aliases = each.get("aliases")
        if isinstance(aliases, list) and name in aliases:
            return at
    return None


def _scale(node: Node) -> int | None:
    scale = node.attributes.get("scale", 0)
    return scale if isinstance(scale, int) and 0 <= scale <= _SCALE_MAX else None


def _empty_types(types: dict[str, Node]) -> set[str]:
    """Return the named types whose values take no bytes at all; a record that always holds itself is one of them."""
    empty = {name for name, node in types.items()
             if node.kind == "record" or (node.kind == "fixed" and node.attributes["size"] == 0)}  # fmt: skip
    size = -1
    while size != len(empty):
        size = len(empty)
        empty = {name for name in empty if all(part.kind in empty | {"null"} for part in types[name].parts)}
    return empty


def _words(node: Node, types: Mapping[str, Node] = {}) -> str:
    """Return what a type is, for a message."""
    if node.kind == "union":
        return " or ".join(_words(part, types) for part in node.parts) or "nothing"
    named = types.get(node.kind, node)
    logical = named.attributes.get("logicalType")
    return f"{named.kind} ({logical})" if isinstance(logical, str) else named.kind
