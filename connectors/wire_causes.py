"""Say in one sentence why bytes are not a record of a registered schema. No value is shown."""

from kernels import wire
from kernels.json_tokens import DEEPEST

_BODIES = {
    wire.BAD_VARINT: "the number at byte {where} takes more than 64 bits",
    wire.BAD_LENGTH: "the length at byte {where} is negative",
    wire.BAD_BRANCH: "byte {where} chooses a branch that the union does not have",
    wire.BAD_SYMBOL: "byte {where} chooses a symbol that the enum does not have",
    wire.BAD_BOOL: "byte {where} is neither 0 nor 1, where a boolean belongs",
    wire.LEFT_OVER: "it is done at byte {where}, and more follows",
    wire.BAD_TAG: "what stands at byte {where} is no tag of a field",
    wire.BAD_GROUP: "the group at byte {where} is not closed as it was opened",
    wire.ENDS_EARLY: "it ends too early, inside the value at byte {where}",
    wire.NOT_UTF8: "the text at byte {where} is not valid UTF-8",
    wire.NESTED_TOO_DEEP: f"at byte {{where}} it is nested deeper than {DEEPEST} levels",
}


def body_cause(status: int, where: int) -> str:
    """Say why the body of a message is broken; `where` counts from the message's first byte."""
    return f"the record is broken: {_BODIES[status].format(where=where)}"


def head_cause(status: int, format: str, bytes_max: int) -> str:
    """Say why a message has no head that names its schema."""
    if status == wire.RECORD_EMPTY:
        return "the record is empty"
    if status == wire.RECORD_TOO_LONG:
        return f"the record is longer than {bytes_max} bytes"
    if status == wire.BAD_INDEXES:
        return f"the indexes of the record's message are not what leads through at most {wire.PATH_MAX} levels"
    if status == wire.SHORT_HEAD:
        return "the record ends before the id of its schema, or right behind it"
    return f"the record does not start as {format} from a schema registry does, with a 0 and the schema's id"
