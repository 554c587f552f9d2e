"""Expressions over fields and features: what rules, derived features and conditions are written in.

A small, safe part of Python's syntax, evaluated on whole columns. Null is NaN: arithmetic with null is null, a
comparison with null is false, division by zero is null.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DeclarationError

Float64s = NDArray[np.float64]
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000

_FUNCTIONS: dict[str, tuple[int, Callable[..., Float64s]]] = {
    "abs": (1, np.abs),
    "log": (1, lambda x: np.where(x > 0, np.log(np.where(x > 0, x, 1.0)), np.nan)),
    "log1p": (1, lambda x: np.where(x > -1, np.log1p(np.where(x > -1, x, 0.0)), np.nan)),
    "sqrt": (1, lambda x: np.where(x >= 0, np.sqrt(np.where(x >= 0, x, 0.0)), np.nan)),
    "floor": (1, np.floor),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "is_null": (1, lambda x: np.where(np.isnan(x), 1.0, 0.0)),
    "if_null": (2, lambda x, y: np.asarray(np.where(np.isnan(x), y, x))),
    "hour": (1, lambda t: np.floor(np.mod(t, _DAY_MS) / _HOUR_MS)),
    "weekday": (1, lambda t: np.mod(np.floor(t / _DAY_MS) + 3, 7)),
}
_COMPARE: dict[type[ast.cmpop], Callable[..., NDArray[np.bool_]]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def _divide(a: Float64s, b: Float64s) -> Float64s:
    return np.where(b != 0, a / np.where(b != 0, b, 1.0), np.nan)


_ARITHMETIC: dict[type[ast.operator], Callable[..., Float64s]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: _divide,
    ast.Mod: lambda a, b: np.where(b != 0, np.mod(a, np.where(b != 0, b, 1.0)), np.nan),
    ast.Pow: lambda a, b: np.power(a, b),
}


@dataclass(frozen=True)
class Expression:
    """A checked expression: its text, the names it uses, and the texts it compares names with.

    Attributes:
        text: as written.
        names: the fields and features it refers to, in order of appearance.
        literals: texts compared with `==` or `!=`; the caller turns them into numbers the way it does its text fields.
    """

    text: str
    names: tuple[str, ...]
    literals: tuple[str, ...]
    _tree: ast.expr

    def evaluate(self, columns: Mapping[str, Float64s], code_of: Callable[[str], float], rows: int) -> Float64s:
        """Return one value per row.

        Args:
            columns: (rows,) float64 for every name; NaN is null, categories are their codes.
            code_of: the code of a text, as in `columns`.
            rows: how many.
        """
        with np.errstate(all="ignore"):
            result = np.asarray(_evaluate(self._tree, columns, code_of), np.float64)
        result = np.broadcast_to(result, (rows,)).copy()
        result[~np.isfinite(result)] = np.nan
        return result


def parse(text: str, what: str = "expression") -> Expression:
    """Check an expression.

    Raises:
        DeclarationError: it is not one, or uses something that expressions do not have.

    >>> parse("amount > 3 * mean and channel == 'web'").names
    ('amount', 'mean', 'channel')
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        where = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise DeclarationError(
            f'{what} {text!r} cannot be read{where}; write it like "amount > 3 * mean_30d"'
        ) from None
    names: list[str] = []
    literals: list[str] = []
    _check(tree, text, what, names, literals)
    return Expression(text, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(literals)), tree)


def _check(node: ast.expr, text: str, what: str, names: list[str], literals: list[str]) -> None:
    children: list[ast.expr] = []
    if isinstance(node, ast.Name):
        names.append(node.id)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            literals.append(node.value)
        elif not isinstance(node.value, int | float) or not math.isfinite(node.value):
            raise DeclarationError(f"{what} {text!r} has {node.value!r}; numbers, True, False and texts can be used")
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        children = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        children = [node.operand]
    elif isinstance(node, ast.BoolOp):
        children = node.values
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        children = [node.left, *node.comparators]
    elif isinstance(node, ast.IfExp):
        children = [node.test, node.body, node.orelse]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise DeclarationError(f"{what} {text!r} calls {node.func.id}; there are {', '.join(sorted(_FUNCTIONS))}")
        wanted = _FUNCTIONS[node.func.id][0]
        if len(node.args) != wanted:
            raise DeclarationError(f"{what} {text!r} gives {node.func.id} {len(node.args)} values; it takes {wanted}")
        children = node.args
    else:
        part = ast.unparse(node)
        raise DeclarationError(f"{what} {text!r} contains {part!r}, which expressions do not have")
    for child in children:
        _check(child, text, what, names, literals)


def _evaluate(node: ast.expr, columns: Mapping[str, Float64s], code_of: Callable[[str], float]) -> Float64s:
    def value(child: ast.expr) -> Float64s:
        return _evaluate(child, columns, code_of)

    if isinstance(node, ast.Name):
        return columns[node.id]
    if isinstance(node, ast.Constant):
        number: Any = code_of(node.value) if isinstance(node.value, str) else node.value
        constant: Any = np.float64(number)  # stands for all rows
        return constant
    if isinstance(node, ast.BinOp):
        return _ARITHMETIC[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.UnaryOp):
        operand = value(node.operand)
        return -operand if isinstance(node.op, ast.USub) else (~_truth(operand)).astype(np.float64)
    if isinstance(node, ast.BoolOp):
        combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return combine.reduce(np.broadcast_arrays(*[_truth(value(each)) for each in node.values])).astype(np.float64)
    if isinstance(node, ast.Compare):
        left, holds = value(node.left), None
        for operator, right_node in zip(node.ops, node.comparators, strict=True):
            right = value(right_node)
            this = _COMPARE[type(operator)](left, right) & ~(np.isnan(left) | np.isnan(right))
            holds, left = this if holds is None else holds & this, right
        return np.asarray(holds).astype(np.float64)
    if isinstance(node, ast.IfExp):
        return np.asarray(np.where(_truth(value(node.test)), value(node.body), value(node.orelse)))
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return _FUNCTIONS[node.func.id][1](*[value(each) for each in node.args])


def _truth(values: Float64s) -> NDArray[np.bool_]:
    return (values != 0) & ~np.isnan(values)
