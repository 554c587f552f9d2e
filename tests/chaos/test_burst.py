"""A burst of support messages, in real processes: payments are decided meanwhile; a kill loses and doubles nothing."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ops.demo.stage import set_up
from ops.simulate.messages import MessageSettings, simulate_messages
from pipeline.live import decisions_topic

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
PELTON = [sys.executable, "-c", "from ops.cli import main; main()"]
TOPIC = decisions_topic("demo")
MESSAGES, PAYMENTS = 1_500, 15
NOW_MS = 1_800_000_000_000
WAIT_S = 30.0


@pytest.fixture
def stage(tmp_path):
    made = set_up(tmp_path / "demo", seconds=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def burst(tmp_path_factory):
    made = simulate_messages(MessageSettings(messages=MESSAGES, seed=5), tmp_path_factory.mktemp("burst"))
    return made.messages_path.read_bytes().splitlines()


def running(stage, *more):
    command = [*PELTON, "run", str(stage.folder / "all_tasks.py"), "--data-folder", str(stage.folder), "--plain", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def payments(stage):
    """Payments of one hour, each of its own id."""
    for number in range(PAYMENTS):
        yield json.dumps({
            "event_id": f"p{number}", "ts": NOW_MS - 3_600_000 + number, "card": f"card {number}", "terminal": "t",
            "device": f"d {number}", "place": "here", "merchant_category": "food", "channel": "web", "amount": 9.5,
        }).encode()  # fmt: skip


def decided(stage):
    """The tasks and ids of all decisions, in the order of the log."""
    stored = [rows for _, rows in stage.log.read_rows(TOPIC, 0, 0, 1 << 30)]
    return [
        pair for rows in stored for pair in zip(rows["task"].to_pylist(), rows["event_id"].to_pylist(), strict=True)
    ]


def wait_for(stage, process, holds):
    """Wait until something holds of the decisions; return them."""
    while not holds(found := decided(stage)):
        assert process.poll() is None, process.stderr.read().decode()
        assert stage.log.wait({(TOPIC, 0): len(found)}, WAIT_S), f"no more than {Counter(each for each, _ in found)}"
    return found


def end(process):
    process.kill()
    process.wait()
    process.stderr.close()


def test_payments_are_decided_while_a_burst_of_messages_is_read(stage, burst):
    process = running(stage)
    try:
        stage.log.append("messages", 0, burst[:1], NOW_MS)
        wait_for(stage, process, len)  # it runs
        stage.log.append("messages", 0, burst[1:], NOW_MS)
        for number, line in enumerate(payments(stage)):  # each when the one before is decided
            stage.log.append("payments", 0, [line], NOW_MS)
            wait_for(stage, process, lambda found, number=number: ("risk", f"p{number}") in found)
        order = [task for task, _ in wait_for(stage, process, lambda found: len(found) == MESSAGES + PAYMENTS)]
    finally:
        end(process)
    last = len(order) - 1 - order[::-1].index("risk")
    assert order[last:].count("support") > MESSAGES / 4, "the last payment waited for most of the burst"


def test_kill_9_during_a_burst_loses_and_doubles_nothing(stage, burst):
    lines = list(payments(stage))
    stage.log.append("messages", 0, burst, NOW_MS)
    for kill, line in enumerate(lines[:3]):
        process = running(stage)
        try:
            before = len(decided(stage))
            stage.log.append("payments", 0, [line], NOW_MS)
            found = wait_for(stage, process, lambda found, before=before: len(found) > before + 40)
            assert len(found) < MESSAGES, f"kill {kill} came when all was over"
            process.send_signal(signal.SIGKILL)
        finally:
            end(process)
    stage.log.append("payments", 0, lines[3:], NOW_MS)
    with running(stage, "--until-idle") as last:
        assert last.wait(WAIT_S * 2) == 0, last.stderr.read().decode()
    counted = Counter(decided(stage))
    wanted = {("support", json.loads(line)["message_id"]) for line in burst}
    wanted |= {("risk", json.loads(line)["event_id"]) for line in lines}
    assert set(counted) == wanted
    assert set(counted.values()) == {1}
