"""The name of an app, from its file or as it is."""

from __future__ import annotations

from pathlib import Path


def app_name(where: str) -> str:
    """Return the name of an app: `bank.py` is loaded, `bank` is its name already.

    Raises:
        DeclarationError: the file is not there, or holds no app.
    """
    if where.isidentifier() and not Path(where).exists():
        return where
    from pipeline.loading import load_app

    return load_app(where).name
