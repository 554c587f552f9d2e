"""What the user declares about events: streams, their fields, keys, and windows over them."""

from __future__ import annotations

from collections.abc import Mapping

from connectors.errors import SchemaError
from connectors.images import ImageField
from connectors.schema import FORMATS, TIME_UNITS, Field, Schema, TextField, parse_field
from pipeline.durations import duration_ms, span_ms
from pipeline.errors import DeclarationError, caller_place, nearest
from pipeline.windows import Column, Window, WindowFeature


class Stream:
    """Events of one kind: where their id and time stand, which fields they have, how late they may be.

    Args:
        name: of the stream and its topic.
        id: field that names an event; copies with the same id are counted, not applied.
        time: field with the event time.
        fields: name -> type: string, bool, int, number, money, or a sensitive class (card, email, iban, ip, name,
            phone), which is tokenised before anything is written. A `?` at the end makes a field optional;
            `number(3)` keeps 3 decimals in windows. "text", or `TextField(max_chars=1000)`, and "image", or
            `ImageField(size=128, channels=1)`, are for a network that reads them: no keys, and no features.
        lateness: how far behind the newest event one may be and still be applied.
        time_unit: "ms", "s" or "us" since the epoch, or "iso" for texts such as 2026-01-31T12:00:00Z.
        future_tolerance: how far ahead of the log's clock an event may be.
        key: the field that the topic is partitioned by, if it has several partitions; if not given, the first one used
            with `.by()`, else the id. Producers send equal keys to the same partition.
        format: of the messages on Kafka: "json", or "avro" and "protobuf" with a schema registry.

    Raises:
        DeclarationError: with file, line and what to change.

    >>> payments = Stream("payments", id="event_id", time="ts", fields={"card": "card", "amount": "money"})
    >>> mean = payments.by("card").last("1h").mean("amount")
    """

    def __init__(
        self,
        name: str,
        *,
        id: str,
        time: str,
        fields: Mapping[str, str | TextField | ImageField],
        lateness: str = "5s",
        time_unit: str = "ms",
        future_tolerance: str = "5m",
        key: str | None = None,
        format: str = "json",
    ) -> None:
        self.name = checked_name(name, "stream")
        self.place = caller_place()
        if time_unit not in TIME_UNITS:
            raise DeclarationError(f"time_unit is {time_unit!r}; use one of {', '.join(TIME_UNITS)}")
        if format not in FORMATS:
            raise DeclarationError(f"format is {format!r}; use one of {', '.join(FORMATS)}")
        self.message_format = format
        self.schema = Schema(_read_fields(name, id, time, fields), id=id, time=time, time_unit=time_unit)
        self.lateness_ms = duration_ms(lateness, "lateness")
        self.future_tolerance_ms = duration_ms(future_tolerance, "future_tolerance")
        self.derived_from: tuple[Stream, str, int] | None = None
        self._entry_key = self.by(key).key if key is not None else None

    @property
    def entry_key(self) -> str:
        """The field that the stream's topic is partitioned by."""
        return self._entry_key or self.__dict__.get("_first_key") or self.schema.id

    def __getattr__(self, name: str) -> Column:
        """Return the field of that name: `payments.amount`. A field called like a method: `payments.column("name")`."""
        if name.startswith("_") or "schema" not in self.__dict__:
            raise AttributeError(name)
        return self.column(name)

    def __repr__(self) -> str:
        """Show the name and the fields."""
        return f"Stream({self.name!r}, fields={', '.join(self.schema.names)})"

    def column(self, name: str) -> Column:
        """Return a field by name.

        Raises:
            DeclarationError: there is no such field; with the nearest one.
        """
        if name not in self.schema.names:
            raise DeclarationError(f"stream {self.name!r} has no field {name!r}; {nearest(name, self.schema.names)}")
        return Column(self, name)

    def by(self, key: str) -> Keyed:
        """Group the events by a field, for example a card or a terminal."""
        field = self.column(key).field
        if field.is_number and field.type != "int":
            raise DeclarationError(f"key {key!r} is a {field.type}; a key is a string, an int or a bool")
        if field.content is not None:
            raise DeclarationError(f"key {key!r} is for a network to read; declare it as a string to group by it")
        self.__dict__.setdefault("_first_key", key)
        return Keyed(self, key)

    def label(self, field: str, *, known_after: str) -> Column:
        """Use a field of this stream as label, known only some time after the event: for history with labels in it.

        The field never reaches a feature of its own event; as a fact it counts from `known_after` later.
        """
        declared = self.column(field).field
        if declared.type not in ("bool", "int"):
            raise DeclarationError(f"label {field!r} is a {declared.type}; a label is a bool, or an int of 0 and 1")
        labels = Stream(
            f"{self.name}.{field}",
            id=self.schema.id,
            time="known_at",
            fields={field: f"{declared.type}?"},
            lateness="0s",
        )
        labels.derived_from = (self, field, duration_ms(known_after, "known_after"))
        return labels.column(field)


class Keyed:
    """The events of a stream, each seen beside those with the same key."""

    def __init__(self, stream: Stream, key: str) -> None:
        self.stream, self.key = stream, key

    def __repr__(self) -> str:
        """Show stream and key."""
        return f"{self.stream.name}.by({self.key!r})"

    def last(self, span: str, *, delay: str | None = None) -> Window:
        """Return the window of the last `span` before an event, the event included; with `delay`, that much earlier."""
        return Window(self.stream, self.key, span_ms(span), duration_ms(delay, "delay") if delay else 0)

    def seconds_since_last(self, span: str = "30d") -> WindowFeature:
        """Seconds since the key's event before this one, null if there was none within the span."""
        return self.last(span).seconds_since_last()

    def recent(self, count: int, *fields: str, span: str = "30d") -> dict[str, WindowFeature]:
        """Return features of the key's `count` events before this one: age in seconds, and each field.

        Put them among the features with `**`; the MoE reads them as a sequence.
        """
        if not 1 <= count <= 32:
            raise DeclarationError(f"recent() is asked for {count} events; choose between 1 and 32")
        window = self.last(span)
        found: dict[str, WindowFeature] = {}
        for step in range(1, count + 1):
            found[f"{self.key}_recent_age_{step}"] = window.lag_seconds(step)
            for field in fields:
                found[f"{self.key}_recent_{field}_{step}"] = window.lag(field, step)
        return found


def checked_name(name: str, what: str) -> str:
    """Return a name of a stream, a task or an app.

    Raises:
        DeclarationError: it is none.
    """
    if not isinstance(name, str) or not name or not all(part.isidentifier() for part in name.split(".")):
        raise DeclarationError(f"{what} name is {name!r}; use letters, digits and _, beginning with a letter")
    return name


def _read_fields(
    stream: str, id: str, time: str, fields: Mapping[str, str | TextField | ImageField]
) -> tuple[Field, ...]:
    declared: dict[str, str | TextField | ImageField] = {id: "string", **fields}
    if time in fields:
        raise DeclarationError(
            f"stream {stream!r} declares its time field {time!r} among the fields; leave it out there"
        )
    try:
        read = [parse_field(name, kind) for name, kind in declared.items()]
    except SchemaError as error:
        raise DeclarationError(f"stream {stream!r}: {error}") from None
    for field in read:
        if not field.name.isidentifier():
            raise DeclarationError(
                f"stream {stream!r}: field {field.name!r} cannot be a name in expressions; rename it"
            )
        if field.name == id and (field.optional or field.type not in ("string", "int") or field.content is not None):
            raise DeclarationError(f"stream {stream!r}: the id {id!r} is {declared[id]!r}; it is a string or an int")
    return (*read, Field(time, "int"))
