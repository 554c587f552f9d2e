"""Read .proto files as far as records need it: which messages there are, and the fields of each.

proto2, proto3 and editions. Services, options, extensions and reserved ranges are passed over.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from connectors.wire_plan import WireSchemaError

_TOKEN = re.compile(
    r"""\s+ | //[^\n]* | /\*.*?\*/
      | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>\.?[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)*)
      | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))
      | (?P<sign>[-{}()\[\]<>=;,:/.])""",
    re.VERBOSE | re.DOTALL,
)
_DEEPEST = 32
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


@dataclass(frozen=True)
class ProtoField:
    """A field of a message.

    Attributes:
        name, number: of the field.
        type: as written, or "map" or "group".
        label: "", "optional", "required" or "repeated".
        oneof: the group of fields one of which is set at most, from 1 on; 0 for none.
        options: what stands in its brackets, by name: words and numbers as written, texts without their quotes.
    """

    name: str
    number: int
    type: str
    label: str = ""
    oneof: int = 0
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class ProtoEnum:
    """The names of an enum, and whether it takes numbers that it does not name."""

    numbers: list[tuple[int, str]] = field(default_factory=list)
    is_open: bool = True


@dataclass
class ProtoMessage:
    """A message: its full name, its fields, the messages inside it, whether plain fields know of being set."""

    name: str
    fields: list[ProtoField] = field(default_factory=list)
    messages: list["ProtoMessage"] = field(default_factory=list)
    has_presence: bool = False


@dataclass
class ProtoFile:
    """What a .proto file declares.

    Attributes:
        messages: those of the file itself, in order.
        types: messages and enums by full name, those inside messages too.
    """

    messages: list[ProtoMessage] = field(default_factory=list)
    types: dict[str, ProtoMessage | ProtoEnum] = field(default_factory=dict)


def parse_proto(text: str) -> ProtoFile:
    """Read a .proto file.

    Raises:
        WireSchemaError: it is no such file; with the line.
    """
    return _Parser(text).file()


def find_type(types: dict[str, ProtoMessage | ProtoEnum], name: str, scope: str) -> ProtoMessage | ProtoEnum | None:
    """Return what a name means inside a message, the innermost first; None if it is defined elsewhere."""
    if name.startswith("."):
        return types.get(name[1:])
    while True:
        found = types.get(f"{scope}.{name}" if scope else name)
        if found is not None or not scope:
            return found
        scope = scope.rpartition(".")[0]


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split())
        self._at = 0
        self._file = ProtoFile()
        self._package = ""
        self._presence = True  # without a line that says otherwise it is proto2
        self._is_open = False
        self._oneofs = 0

    def _split(self) -> Iterator[tuple[str, int]]:
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                self._fail(at)
            if match.lastgroup is not None:
                yield match.group(), at
            at = match.end()

    def _fail(self, at: int) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        raise WireSchemaError(f"the schema is not a .proto file: line {line} cannot be read") from None

    def _peek(self) -> str:
        return self._look(0)

    def _look(self, ahead: int) -> str:
        return self._tokens[self._at + ahead][0] if self._at + ahead < len(self._tokens) else ""

    def _next(self, *expected: str) -> str:
        token = self._peek()
        if not token or (expected and token not in expected):
            self._fail(self._tokens[self._at][1] if token else len(self._text))
        self._at += 1
        return token

    def _integer(self) -> int:
        sign = -1 if self._peek() == "-" and self._next() else 1
        token = self._next()
        try:
            value = int(token, 8) if re.fullmatch(r"0[0-7]+", token) else int(token, 0)
        except ValueError:
            self._at -= 1
            self._fail(self._tokens[self._at][1])
        return sign * value

    def _assigned(self) -> None:
        self._next()
        self._next("=")

    def file(self) -> ProtoFile:
        while word := self._peek():
            if word in ("syntax", "edition"):
                self._assigned()
                self._dialect(word, unquoted(self._next()))
                self._next(";")
            elif word == "package":
                self._next()
                self._package = self._next()
                self._next(";")
            elif word == "message":
                self._file.messages.append(self._message(self._package, 0))
            elif word == "enum":
                self._enum(self._package)
            elif word == "option":
                self._file_option()
            else:
                self._pass_over()
        return self._file

    def _dialect(self, word: str, name: str) -> None:
        if word == "syntax" and name not in ("proto2", "proto3"):
            raise WireSchemaError(f"the schema's syntax is {name!r}; proto2, proto3 and editions can be read")
        self._presence = name != "proto3"
        self._is_open = name != "proto2"

    def _file_option(self) -> None:
        self._next("option")
        if self._peek() == "features.field_presence":
            self._assigned()
            self._presence = self._next() != "IMPLICIT"
        elif self._peek() == "features.enum_type":
            self._assigned()
            self._is_open = self._next() != "CLOSED"
        self._pass_over()

    def _pass_over(self) -> None:
        """Skip a statement: up to its semicolon, or the bracket that ends its block."""
        depth = 0
        while True:
            token = self._next()
            if token in ("{", "[", "("):
                depth += 1
            elif token in ("}", "]", ")"):
                depth -= 1
                if depth < 0:
                    self._fail(self._tokens[self._at - 1][1])
                if depth == 0 and token == "}" and self._peek() != ";":
                    return
            elif token == ";" and depth == 0:
                return

    def _message(self, scope: str, depth: int) -> ProtoMessage:
        self._next("message")
        if depth == _DEEPEST:
            raise WireSchemaError(f"the schema has messages nested deeper than {_DEEPEST} levels")
        name = self._next()
        message = ProtoMessage(f"{scope}.{name}" if scope else name, has_presence=self._presence)
        self._file.types[message.name] = message
        self._body(message, depth)
        return message

    def _body(self, message: ProtoMessage, depth: int) -> None:
        self._next("{")
        while (word := self._peek()) != "}":
            opens = self._look(2) == "{"
            if word == "message" and opens:
                message.messages.append(self._message(message.name, depth + 1))
            elif word == "enum" and opens:
                self._enum(message.name)
            elif word == "oneof" and opens:
                self._oneof(message, depth)
            elif word in ("option", "extend", "extensions", "reserved", ";"):
                self._pass_over()
            else:
                self._field(message, 0, depth)
        self._next("}")

    def _oneof(self, message: ProtoMessage, depth: int) -> None:
        self._next("oneof")
        self._next()
        self._next("{")
        self._oneofs += 1
        number = self._oneofs
        while self._peek() != "}":
            if self._peek() == "option":
                self._pass_over()
            else:
                self._field(message, number, depth)
        self._next("}")

    def _field(self, message: ProtoMessage, oneof: int, depth: int) -> None:
        label = self._next() if self._peek() in ("optional", "required", "repeated") and self._look(2) != "=" else ""
        kind = self._next()
        if kind == "map" and self._peek() == "<":
            while self._next() != ">":
                pass
        name = self._next()
        if not re.fullmatch(r"\.?[A-Za-z_][\w.]*", kind) or not re.fullmatch(r"[A-Za-z_]\w*", name):
            self._fail(self._tokens[self._at - 1][1])
        self._next("=")
        number = self._integer()
        if not 0 < number < 1 << 29:
            self._fail(self._tokens[self._at - 1][1])
        options = self._options() if self._peek() == "[" else {}
        if kind == "group":
            inner = ProtoMessage(f"{message.name}.{name}", has_presence=self._presence)
            if depth == _DEEPEST:
                raise WireSchemaError(f"the schema has messages nested deeper than {_DEEPEST} levels")
            self._file.types[inner.name] = inner
            message.messages.append(inner)
            self._body(inner, depth + 1)
        else:
            self._next(";")
        message.fields.append(ProtoField(name, number, kind, label, oneof, options))

    def _options(self) -> dict[str, str]:
        self._next("[")
        options: dict[str, str] = {}
        depth, name = 0, ""
        while depth or self._peek() != "]":
            token = self._next()
            depth += (token in "{[(") - (token in "}])")
            if depth == 0 and self._peek() == "=":
                name = token
            elif depth == 0 and token == "=" and self._peek() == "-":
                self._next()
                options[name] = "-" + self._next()
            elif depth == 0 and token == "=":
                options[name] = self._peek()
        self._next("]")
        return options

    def _enum(self, scope: str) -> None:
        self._next("enum")
        name = self._next()
        enum = ProtoEnum(is_open=self._is_open)
        self._file.types[f"{scope}.{name}" if scope else name] = enum
        self._next("{")
        while self._peek() != "}":
            if self._peek() in ("option", "reserved", ";") and self._look(1) != "=":
                self._pass_over()
                continue
            symbol = self._next()
            self._next("=")
            number = self._integer()
            if not -(1 << 31) <= number < 1 << 31:
                self._fail(self._tokens[self._at - 1][1])
            enum.numbers.append((number, symbol))
            if self._peek() == "[":
                self._options()
            self._next(";")
        self._next("}")


def unquoted(token: str) -> str:
    """Return the text between quotes, with the usual escapes resolved; other tokens as they are."""
    if token[:1] not in ("'", '"'):
        return token
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match.group(1), match.group(1)), token[1:-1])
