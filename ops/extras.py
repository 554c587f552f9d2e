"""What the extra `train` brings: looked for before the work that needs it, not after."""

from __future__ import annotations

from importlib.util import find_spec

NETWORK = ("torch", "onnx", "onnxscript")
BASELINE = ("sklearn",)
SEARCH = ("optuna",)
PLOTS = ("matplotlib",)
QUANTIZER = ("onnx",)


class ExtraError(ValueError):
    """A package of the extra `train` is not installed."""


def need(packages: tuple[str, ...], why: str) -> None:
    """Refuse to begin without some packages.

    Raises:
        ExtraError: one is missing; with the command that brings it.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ExtraError(f"{', '.join(missing)} not installed, and {why}; run: pip install 'pelton[train]'")
