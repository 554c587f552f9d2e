"""What an engine's state is a state of: two plans with the same fingerprint can take each other's snapshots."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from pipeline.plan import GroupPlan, StreamPlan

DIGITS = 16


def fingerprint_of(plan: StreamPlan) -> str:
    """Hash everything that decides what the state holds; rules and thresholds change nothing."""
    streams = {stream.name: stream for stream in (plan.stream, *plan.others, *([plan.facts] if plan.facts else []))}
    said = {
        "streams": {name: _stream(stream) for name, stream in streams.items()},
        "groups": [_group(group) for group in plan.groups],
        "expressions": {name: expression.text for name, expression in plan.expressions.items()},
        "facts": plan.fact_field,
        "horizon_ms": plan.horizon_ms,
        "rows_per_key": plan.rows_per_key,
    }
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()[:DIGITS]


def _stream(stream: Any) -> dict[str, Any]:
    fields = [[field.name, field.type, field.decimals, field.sensitive or ""] for field in stream.schema.fields]
    return {"fields": fields, "id": stream.schema.id, "time": stream.schema.time, "lateness_ms": stream.lateness_ms}


def _group(group: GroupPlan) -> dict[str, Any]:
    kernel = [] if group.kernel is None else [array.tolist() for array in group.kernel]
    inputs = [[each.name, each.hashed, each.weighted, each.decimals] for each in group.inputs]
    return {"kind": group.kind, "source": group.source.name, "key": group.key, "inputs": inputs, "kernel": kernel}
