"""Say in one sentence why a record does not fit its schema."""

from connectors import checks
from connectors.schema import Field, Schema
from kernels import json_tokens as tokens

SHOWN_MAX = 60  # characters of a value

_KIND_NAMES = {
    tokens.TRUE: "true or false",
    tokens.FALSE: "true or false",
    tokens.INTEGER: "a number",
    tokens.FLOAT: "a number",
    tokens.OBJECT: "an object",
    tokens.ARRAY: "an array",
}
_BETTER_TYPE = {tokens.TRUE: "bool", tokens.FALSE: "bool", tokens.INTEGER: "int", tokens.FLOAT: "number"}

_NOT_JSON = {
    tokens.CUT_OFF: "it ends too early, at byte {where}",
    tokens.SYNTAX: "what stands at byte {where} does not belong there",
    tokens.BAD_NUMBER: "the number at byte {where} is not JSON",
    tokens.NOT_FINITE: "byte {where} begins NaN or Infinity, which JSON does not have; write null",
    tokens.BAD_CONTROL: "byte {where} is a control character inside text; escape it",
    tokens.BAD_ESCAPE: "the backslash at byte {where} escapes nothing that JSON knows",
    tokens.BAD_UTF8: "byte {where} is not valid UTF-8",
    tokens.TOO_DEEP: f"at byte {{where}} it is nested deeper than {tokens.DEEPEST} levels",
    tokens.NEWLINE: "a line break at byte {where}; write each record on one line",
    tokens.OPEN_QUOTE: "a quoted cell is not closed on its line; line breaks inside cells are not supported",
}


def unframed_cause(schema: Schema, status: int, where: int, bytes_max: int, columns: int = 0) -> str:
    """Say why bytes are not one record; `where` as in `kernels.json_scan.Cells`. Shows no values."""
    if status == tokens.EMPTY:
        return "the record is empty"
    if status == tokens.NOT_AN_OBJECT:
        return 'the record is not a JSON object: it does not start with "{"'
    if status == tokens.TRAILING:
        return f"the record is more than one JSON object: something follows at byte {where}"
    if status == tokens.TOO_LONG:
        return f"the record is longer than {bytes_max} bytes"
    if status == tokens.TWICE:
        return f"{schema.names[where]} is given twice"
    if status == tokens.TOO_FEW_CELLS:
        return f"the line has {where} cells, the header {columns}"
    if status == tokens.TOO_MANY_CELLS:
        return f"the line has more cells than the header, {columns}"
    return f"the record is broken: {_NOT_JSON[status].format(where=where)}"


def field_cause(schema: Schema, field: Field, problem: int, kind: int, value: str) -> str:
    """Say why a value does not fit its field.

    Args:
        schema: the schema of the record.
        field: the field that is wrong.
        problem: one of `connectors.checks`.
        kind: what the value is, of `kernels.json_tokens`.
        value: the value as written; not shown if the field is sensitive.
    """
    shown = _shown(field, value)
    name, is_time = field.name, field.name == schema.time
    if problem == checks.ABSENT:
        advice = (
            ""
            if name in (schema.id, schema.time)
            else f'; declare it as "{field.sensitive or field.type}?" if it may be'
        )
        return f"{name} is missing or null{advice}"
    if problem == checks.EMPTY_ID:
        return f"{name} is empty; every record needs an id of its own"
    if problem == checks.BEYOND:
        return f"{name}{shown or ' is too large'}; {field.type} takes finite numbers up to {field.limit:g}"
    if problem == checks.NOT_A_TIME:
        return f"{name}{shown or ' is wrong'}: not a time such as 2018-04-01T00:00:31Z"
    if problem == checks.OUT_OF_TIME:
        return f'{name}{shown or " is wrong"}: outside the years 1970 to 9999, read as "{schema.time_unit}"'
    what = _KIND_NAMES.get(kind, "text")
    said = f"{name}{shown}, {what}" if shown else f"{name} is {what}"
    if is_time:
        expected = "text is" if schema.time_unit == "iso" else "numbers are"
        return f'{said}; {expected} expected, since its unit is "{schema.time_unit}"'
    if field.type == "int" and kind == tokens.FLOAT:
        return f'{name}{shown or " is a number"}, not a whole number; declare it as "number"'
    if field.type == "string" and not field.sensitive and kind in _BETTER_TYPE:
        return f'{said}; declare it as "{_BETTER_TYPE[kind]}"'
    return f'{said}; it is declared as "{field.sensitive or field.type}"'


def _shown(field: Field, value: str) -> str:
    if field.sensitive:
        return ""
    return f" is {value if len(value) <= SHOWN_MAX else value[:SHOWN_MAX] + '...'}"
