"""Fields and features by name: what expressions are evaluated on, and what windows keep of an event."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from pipeline.plan import GroupPlan, StreamPlan
from pipeline.row_columns import RowColumns, code_of_text, to_units
from pipeline.windows import Column, Derived

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


class FeatureValues:
    """Fields and features of a batch by name, as expressions see them."""

    def __init__(self, columns: RowColumns, plan: StreamPlan | None, matrix: Float64s | None) -> None:
        self.columns, self._plan, self._matrix = columns, plan, matrix

    def __getitem__(self, name: str) -> Float64s:
        """Return (rows,) values of a field or of a feature that is already computed."""
        if name in self.columns.schema.names:
            return self.columns.number(name)
        assert self._plan is not None and self._matrix is not None
        return self._matrix[:, self._plan.names.index(name)]

    def fill(self, level: int, wanted: Set[str] | None = None) -> None:
        """Compute the features of a level that are no windows; only those that are wanted, None for all."""
        assert self._plan is not None and self._matrix is not None
        names = [n for n, each in zip(self._plan.names, self._plan.levels, strict=True) if each == level]
        names = names if wanted is None else [name for name in names if name in wanted]
        done: set[str] = set()
        while len(done) < len(names):
            for name in names:
                node = self._plan.nodes[self._plan.names.index(name)]
                if name in done:
                    continue
                if isinstance(node, Derived):
                    expression = self._plan.expressions[node.text]
                    if any(each in names and each not in done and each != name for each in expression.names):
                        continue
                    result = expression.evaluate(self, code_of_text, len(self.columns))  # type: ignore[arg-type]  # asked by name
                    self._matrix[:, self._plan.names.index(name)] = result
                elif isinstance(node, Column):
                    self._matrix[:, self._plan.names.index(name)] = self.columns.number(node.name)
                done.add(name)


def input_matrix(group: GroupPlan, inputs_wanted: int, rows: int, values: FeatureValues) -> Int64s:
    """Return (rows, inputs): what the windows of a group keep of each event."""
    inputs = np.zeros((rows, max(inputs_wanted, 1)), np.int64)
    place = 0
    for each in group.inputs:
        if each.hashed:
            inputs[:, place] = values.columns.hashes(each.name).view(np.int64)
        else:
            if each.expression is None:
                numbers = values[each.name]
            else:
                numbers = each.expression.evaluate(values, code_of_text, rows)  # type: ignore[arg-type]  # asked by name
            units, weights = to_units(numbers, each.decimals)
            inputs[:, place] = units
            if each.weighted:
                inputs[:, place + 1] = weights
        place += 1 + int(each.weighted)
    return inputs
