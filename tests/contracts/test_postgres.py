"""What works on SQLite works on PostgreSQL: the sink's upsert and the registry, on a real server."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from connectors.errors import ConnectorError
from connectors.sinks import open_sink
from models.bundle import BundleMeta, write_bundle
from models.registry import Registry
from tests import postgres

pytestmark = pytest.mark.skipif(
    postgres.binaries() is None or importlib.util.find_spec("psycopg") is None, reason=postgres.MISSING
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres.running() as url:
        yield url


def decisions(decision: str, numbers: range) -> pa.RecordBatch:
    rows = [
        {
            "event_id": f"e{n}",
            "task": "risk",
            "time_ms": n,
            "decision": decision,
            "reasons": ['it\'s "odd"'],
            "x": n / 4,
        }
        for n in numbers
    ]
    return pa.RecordBatch.from_pylist(rows)


def test_decisions_that_come_twice_are_there_once(url: str) -> None:
    for decision, numbers in (("allow", range(3000)), ("block", range(2000, 4000))):
        sink = open_sink(url)
        sink.write(decisions(decision, numbers))
        sink.close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM decisions ORDER BY time_ms")).mappings().all()
    engine.dispose()
    assert [row["event_id"] for row in rows] == [f"e{n}" for n in range(4000)]
    assert [row["decision"] for row in rows] == ["allow"] * 2000 + ["block"] * 2000
    assert json.loads(rows[7]["features"]) == {"x": 1.75}
    assert json.loads(rows[7]["reasons"]) == ['it\'s "odd"']


def test_a_server_that_is_away_is_told_without_the_password() -> None:
    with pytest.raises(ConnectorError, match=r"postgresql\+psycopg://u:\*\*\*@127\.0\.0\.1:1/x") as caught:
        open_sink("postgresql+psycopg://u:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_bundles_are_promoted_and_rolled_back_and_another_process_sees_it(url: str, tmp_path: Path) -> None:
    ours, theirs = Registry.open(url, tmp_path / "files"), Registry.open(url, tmp_path / "files")
    ids = []
    for number in range(2):
        folder = tmp_path / f"bundle{number}"
        write_bundle(folder, {"part.txt": bytes([number])}, BundleMeta(f"b{number}", "risk", number))
        ids.append(ours.add_bundle("risk", folder, "me", number))
        ours.promote("risk", ids[-1], "me", 10 + number)
    generation = theirs.generation("risk")
    assert theirs.live("risk").bundle.part("part.txt") == b"\x01"
    ours.rollback("risk", "me", 20)
    assert theirs.generation("risk") > generation
    assert theirs.live("risk").bundle.id == ids[0]
    assert [entry.what for entry in theirs.audit("risk")]
    ours.close()
    theirs.close()
