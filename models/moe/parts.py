"""The parts of the network by the names of its arrays: in torch, in a checkpoint and in the exported graph alike."""

PARTS = ("encoder", "attention", "routers", "routed experts", "shared experts", "norms", "head")
_MARKS = (
    ("norms", ("_norm.gain", ".norm.gain")), ("routers", (".router.",)), ("shared experts", (".shared_",)),
    ("routed experts", (".experts.",)), ("attention", (".attention.",)), ("encoder", ("encoder.", "encoders.")),
)  # fmt: skip


def part_of(name: str) -> str:
    """Return the part that an array belongs to.

    >>> part_of("encoder.to_tokens.0.weight"), part_of("blocks.1.experts.up"), part_of("blocks.0.experts.router.bias")
    ('encoder', 'routed experts', 'routers')
    >>> part_of("blocks.0.attention_norm.gain"), part_of("committee.w")
    ('norms', 'head')
    """
    return next((part for part, marks in _MARKS if any(mark in f".{name}" for mark in marks)), "head")
