"""Tasks that read or look, in words: what they decided, and how right that was."""

from __future__ import annotations

import math

from ops.views.live_kinds import Message, SupportTold, Surface, Told
from pipeline.support import OUT_OF_SCOPE


def share(part: int, whole: int) -> str:
    """Say a share: 9.8 %, "–" of nothing.

    >>> share(1, 3), share(12, 12), share(0, 0)
    ('33.3 %', '100 %', '–')
    """
    if not whole:
        return "–"
    return "100 %" if part == whole else f"{100 * part / whole:.1f} %"


def decided(told: Told) -> str:
    """Say what was decided: 9.8 % out of scope; or 48.1 % rejected."""
    if isinstance(told, SupportTold):
        return f"{share(told.outside, told.messages)} out of scope"
    return f"{share(told.rejected, told.photos)} rejected"


def quality(told: Told) -> str:
    """Say what labels that came since say of it."""
    if not told.labelled:
        return "how right that is, is known when the first labels have come"
    if isinstance(told, SupportTold):
        return f"right {share(told.right, told.labelled)} of {told.labelled:,} with a label since"
    found = f"recall {share(told.found, told.defects)} of {told.defects:,} defects"
    return f"{found}, precision {share(told.found, told.found + told.false_alarms)}"


def example(told: Told) -> str | None:
    """Say the newest example in one line; None before the first."""
    if isinstance(told, SupportTold):
        return message(told.latest[0]) if told.latest else None
    return surface(told.latest[0]) if told.latest else None


def message(each: Message) -> str:
    """Say what became of a message: card_arrival 0.98, normal, kb-card_arrival: "Where is my card"."""
    return f'{read(each)}: "{each.text}"'


def read(each: Message) -> str:
    """Say what was read in a message; of one that is out of scope, why.

    >>> read(Message("Is my card here?", "card_arrival", 0.98, 0.9, "normal", "kb-1"))
    'card_arrival 0.98, normal, kb-1'
    >>> read(Message("Tell me a joke", "out_of_scope", 0.9951, 0.9983, "low", ""))
    'out of scope: likeliest intent 0.995, of 0.998 wanted, low'
    """
    intent = each.intent or "not read"
    if intent == OUT_OF_SCOPE:
        intent = f"out of scope: likeliest intent {each.score:.3f}, of {each.least:.3f} wanted"
    elif math.isfinite(each.score):
        intent = f"{intent} {each.score:.2f}"
    return ", ".join(part for part in (intent, each.priority, each.article) if part)


def surface(each: Surface) -> str:
    """Say what became of a photograph: block s00000012 1.00 scratch at 40 % left, 12 % top"""
    return f"{each.decision} {seen(each)}"


def seen(each: Surface) -> str:
    """Say what was seen on a photograph: s00000012 1.00 scratch at 40 % left, 12 % top."""
    score = f" {each.score:.2f}" if math.isfinite(each.score) else ""
    where = each.reason.replace(", most of all", " at").replace(" from the left and", " left,")
    return f"{each.photo}{score} {where.replace(' from the top', ' top')}"


def totals(told: Told) -> list[tuple[str, str]]:
    """Say at the end what was decided and how right it was, as names and values."""
    if isinstance(told, SupportTold):
        return [("scope", f"{told.outside:,} of {told.messages:,} messages, {decided(told)}"),
                ("intents", quality(told))]  # fmt: skip
    return [
        ("rejected", f"{told.rejected:,} of {told.photos:,} photographs, {share(told.rejected, told.photos)}"),
        ("quality", quality(told)),
    ]
