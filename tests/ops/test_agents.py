"""An app's own agents on the embedded log: every decision after its commit, and again what failed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.memory_log import MemoryLog
from ops.runner import AppRunner
from pipeline import App, Stream, Task
from pipeline.live import create_topics
from tests.ops.witnesses import witnesses

START_MS = 1_767_571_200_000
PELTON = str(Path(sys.executable).with_name("pelton"))
ACTING = """
from pathlib import Path
from pipeline import App, Stream, Task
payments = Stream("payments", id="id", time="ts", lateness="5s", fields={"amount": "money"})
app = App("bank", [Task("fraud", payments, {"amount": payments.amount}, model=None, learner=None)])

@app.agent
async def note(decision):
    with Path("noted").open("a") as file:
        print(decision["event_id"], decision["decision"], decision["amount"], file=file)
"""


@pytest.fixture
def app():
    payments = Stream("payments", id="id", time="ts", lateness="5s", fields={"amount": "money"})
    return App("bank", [Task("fraud", payments, {"amount": payments.amount}, model=None, learner=None)])


def payments(first, count):
    return [json.dumps({"id": f"p{i}", "ts": START_MS + i, "amount": i}).encode() for i in range(first, first + count)]


def run(app, log, folder):
    with AppRunner(app, log, None, folder) as runner:
        runner.run(until_idle=True)
    return runner


def test_agents_get_every_decision_once_the_run_ends_well_and_again_what_failed(app, tmp_path):
    log = MemoryLog()
    create_topics(app, log)
    got, batches = witnesses(app, fails_at="p7")
    for first in (0, 150):
        log.append("payments", 0, payments(first, 150), START_MS)
        assert run(app, log, tmp_path).problems == []
    assert got == [(f"p{i}", "allow") for i in range(300)]  # the failed one too, in its place
    assert batches == [[f"p{i}" for i in range(150)], [f"p{i}" for i in range(150, 300)]]


def test_what_an_agent_cannot_do_is_told_and_done_by_the_next_run(app, tmp_path):
    log, got, is_away = MemoryLog(), [], [True]
    create_topics(app, log)

    @app.agent
    async def block(decision):
        if is_away[0] and decision["event_id"] == "p3":
            raise ConnectionRefusedError("no bank")
        got.append(decision["event_id"])

    log.append("payments", 0, payments(0, 5), START_MS)
    (problem,) = run(app, log, tmp_path).problems
    assert problem == "agent 'block', event 'p3': no bank; trying again"
    assert log.end("bank.decisions", 0) == 5  # decisions wait for no agent
    assert got == ["p0", "p1", "p2"]
    is_away[0] = False
    assert run(app, log, tmp_path).problems == []
    assert got == ["p0", "p1", "p2", "p0", "p1", "p2", "p3", "p4"]  # at least once


def test_the_command_runs_agents(tmp_path):
    (tmp_path / "bank.py").write_text(ACTING)
    (tmp_path / "payments.jsonl").write_bytes(b"\n".join(payments(0, 3)))
    for line in ("append bank.py payments.jsonl", "run bank.py --until-idle --plain"):
        subprocess.run([PELTON, *line.split()], cwd=tmp_path, check=True, timeout=60, capture_output=True)
    assert (tmp_path / "noted").read_text().splitlines() == ["p0 allow 0.0", "p1 allow 1.0", "p2 allow 2.0"]
