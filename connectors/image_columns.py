"""Columns of images: broken ones are found with everything else that is wrong with a record, bytes become text."""

from __future__ import annotations

import base64

import numpy as np
import pyarrow as pa

from connectors import checks
from connectors.checks import Findings
from connectors.images import ImageError, ImageField, check_value
from connectors.schema import Schema


def broken_images(schema: Schema, columns: list[pa.Array], findings: Findings) -> dict[int, str]:
    """Note the records whose images are broken, among those without another problem; return the cause of each.

    Args:
        schema: of the records.
        columns: as decoded, one per field.
        findings: what is wrong with each record so far.
    """
    causes: dict[int, str] = {}
    for place, field in enumerate(schema.fields):
        if not isinstance(field.content, ImageField):
            continue
        broken = np.zeros(len(findings.problems), np.bool_)
        for row in np.flatnonzero(findings.problems == checks.FINE):
            value = columns[place][int(row)].as_py()
            if value is None:
                continue
            try:
                check_value(value, field.content)
            except ImageError as cause:
                broken[row] = True
                causes[int(row)] = f"{field.name}: {cause}"
        findings.report(broken, checks.BROKEN_IMAGE, place)
    return causes


def is_bytes(arrow: pa.DataType) -> bool:
    """Whether a column holds bytes."""
    return bool(pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow) or pa.types.is_fixed_size_binary(arrow))


def as_base64(column: pa.Array) -> pa.Array:
    """Return bytes as base64 text."""
    return pa.array(
        [None if each is None else base64.b64encode(each).decode() for each in column.to_pylist()], pa.string()
    )
