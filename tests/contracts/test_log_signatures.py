"""What is said of `Log` is true of each log by its signatures too; `test_log.py` runs them."""

import inspect

import pytest

from connectors.kafka.log import KafkaLog
from connectors.kafka.transaction import KafkaTransaction
from connectors.log import Log, Transaction
from connectors.memory_log import MemoryLog
from connectors.sqlite_log import SqliteLog


def told(method):
    """Return names, kinds and defaults of what a method takes."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]


@pytest.mark.parametrize(
    ("kind", "promise"),
    [(MemoryLog, Log), (SqliteLog, Log), (KafkaLog, Log), (KafkaTransaction, Transaction)],
)
def test_methods_take_what_the_protocol_says(kind, promise):
    methods = [name for name, member in vars(promise).items() if inspect.isfunction(member) and name[0] != "_"]
    assert methods
    for name in methods:
        assert told(getattr(kind, name)) == told(getattr(promise, name)), name
