"""Which errors are the user's, and how they are put."""

import errno
import sqlite3

import pytest

from connectors.errors import ConnectorError
from ops.mistakes import in_a_sentence


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectorError("x.csv: no such column"), "x.csv: no such column"),
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"),
         "out.csv: no space left on device; free some space there, or choose another place"),
        (OSError(errno.EROFS, "Read-only file system", "out.csv"),
         "out.csv: read-only file system; choose a place that can be written"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"),
         "torch is not installed; training needs it: pip install 'pelton[train]'"),
        (sqlite3.DatabaseError("disk image is malformed"),
         "the database cannot be used: disk image is malformed; check its file or server, or restore it from a copy"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_sentence(error, sentence):
    assert in_a_sentence(raised(error)) == sentence


@pytest.mark.parametrize("error", [KeyError("rows"), TypeError("no"), AssertionError(), ValueError("from elsewhere")])
def test_a_bug_keeps_its_stack_trace(error):
    assert in_a_sentence(raised(error)) is None
