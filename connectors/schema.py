"""What a record of a stream looks like: its fields, their types and classes."""

import re
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from connectors.errors import SchemaError
from connectors.images import ImageField

PLAIN_TYPES = ("string", "bool", "int", "number", "money")
SENSITIVE_CLASSES = ("card", "email", "iban", "ip", "name", "phone")
TIME_UNITS = ("ms", "s", "us", "iso")
FORMATS = ("json", "avro", "protobuf")  # of messages

_DECIMALS = {"int": 0, "money": 4, "number": 6}
_MAX_UNITS = 1 << 46  # a window of 2**16 events of this size still sums within 63 bits
_ARROW = {"bool": pa.bool_(), "int": pa.int64(), "number": pa.float64(), "money": pa.float64()}


TEXT_CHARS_MAX = 100_000


@dataclass(frozen=True)
class TextField:
    """A long text in a field of a stream, for a network that reads it: `fields={"body": TextField(max_chars=1000)}`.

    Attributes:
        max_chars: how many characters of it are read, from its begin; the record keeps all of them.
        optional: missing and null are both accepted.
    """

    max_chars: int = 4000
    optional: bool = False

    def __post_init__(self) -> None:
        """Refuse what reads nothing, or has no bound."""
        if not 1 <= self.max_chars <= TEXT_CHARS_MAX:
            raise SchemaError(f"max_chars is {self.max_chars}; choose between 1 and {TEXT_CHARS_MAX:,}")


@dataclass(frozen=True)
class Field:
    """One field of a record.

    Attributes:
        name: the key in JSON, the column in CSV and Parquet.
        type: one of PLAIN_TYPES; sensitive classes are strings that are tokenised before anything is written.
        optional: missing and null are both accepted, and are the same.
        sensitive: the class of the field (`card`, `email`, ...), or None.
        decimals: digits after the point that windows keep: sums are exact integers of 10**-decimals.
        content: how a network reads it, for a string that is neither compared nor counted.
    """

    name: str
    type: str
    optional: bool = False
    sensitive: str | None = None
    decimals: int = 0
    content: TextField | ImageField | None = None

    @property
    def is_number(self) -> bool:
        """Whether windows can add it up."""
        return self.type in _DECIMALS

    @property
    def limit(self) -> float:
        """Return the largest magnitude a numeric field can hold, in the field's own unit."""
        return _MAX_UNITS / 10**self.decimals

    @property
    def arrow_type(self) -> pa.DataType:
        """Return the Arrow type of the decoded column."""
        return _ARROW.get(self.type, pa.string())


@dataclass(frozen=True)
class Schema:
    """The fields of a stream, which of them is the id and which the event time.

    `fields` holds id and time too. Decoded columns: every field as `Field.arrow_type`, the time as int64 milliseconds.
    """

    fields: tuple[Field, ...]
    id: str
    time: str
    time_unit: str = "ms"

    @property
    def has_sensitive(self) -> bool:
        """Whether any field must be tokenised, and dead letters encrypted."""
        return any(field.sensitive for field in self.fields)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of the fields in declared order."""
        return tuple(field.name for field in self.fields)

    def field(self, name: str) -> Field:
        """Return the field of that name; KeyError if there is none."""
        return next(field for field in self.fields if field.name == name)

    @cached_property
    def arrow(self) -> pa.Schema:
        """Return the Arrow schema of decoded rows."""
        return pa.schema([(f.name, pa.int64() if f.name == self.time else f.arrow_type) for f in self.fields])


def parse_field(name: str, declared: str | TextField | ImageField) -> Field:
    """Read a declaration such as "money", "string?", "number(3)", "card", "text" or `TextField(max_chars=500)`.

    A trailing `?` makes the field optional; a number in brackets sets the decimals that windows keep.

    Raises:
        SchemaError: the type is unknown or the decimals are out of range.

    >>> parse_field("amount", "money?")
    Field(name='amount', type='money', optional=True, sensitive=None, decimals=4, content=None)
    """
    if isinstance(declared, TextField | ImageField):
        return Field(name, "string", declared.optional, content=declared)
    if declared in ("text", "text?"):
        return Field(name, "string", declared.endswith("?"), content=TextField())
    if declared in ("image", "image?"):
        return Field(name, "string", declared.endswith("?"), content=ImageField())
    match = re.fullmatch(r"([a-z]+)(?:\((\d+)\))?(\?)?", declared)
    kind = match.group(1) if match else ""
    if not match or kind not in PLAIN_TYPES + SENSITIVE_CLASSES:
        known = ", ".join((*PLAIN_TYPES, "text", "image", *SENSITIVE_CLASSES))
        raise SchemaError(f"field {name!r} has type {declared!r}; use one of {known}, with ? at the end if optional")
    if kind in SENSITIVE_CLASSES:
        return Field(name, "string", bool(match.group(3)), sensitive=kind)
    decimals = int(match.group(2)) if match.group(2) else _DECIMALS.get(kind, 0)
    if decimals > 9 or (match.group(2) and kind not in ("number", "money")):
        raise SchemaError(f"field {name!r} has type {declared!r}; number and money take 0 to 9 decimals, no other does")
    return Field(name, kind, bool(match.group(3)), decimals=decimals)
