"""What README.md says about Kafka in figures is what runs."""

import inspect
from pathlib import Path

import pytest

from connectors.kafka.connection import AWAY_S
from ops.app_topics import DAY_MS, KEPT_MS
from ops.commands.run import run
from ops.kafka.faust import HEARTBEATS, SESSION_S
from pipeline.key_sample import ROWS_MAX
from pipeline.parity import COMMITS_MAX, READ_MAX
from tests import kafka_jars

ROOT = Path(__file__).parents[3]
README = " ".join((ROOT / "connectors" / "kafka" / "README.md").read_text(encoding="utf-8").split())
IN_WORDS = {0.5: "half a second", 1 / 10: "a tenth"}


@pytest.mark.parametrize(
    "said",
    [
        f"All is tested with Kafka {kafka_jars.VERSION}",
        f"Streams are kept for {KEPT_MS // DAY_MS} days",
        f"the session, then up to {IN_WORDS[1 / HEARTBEATS]} of it until the others are told",
        f"wait longer each time, up to {IN_WORDS[AWAY_S]}",
        f"the last {COMMITS_MAX} commits of each stage",
        f"at most {READ_MAX // 1_000_000} million records of a topic, and keeps at most {ROWS_MAX:,} of them",
        f"keeps its partitions, seconds; {SESSION_S:.0f} if not set",
    ],
)
def test_a_figure_is_that_of_the_code(said):
    assert said in README


def test_the_command_and_the_worker_have_the_same_session():
    assert inspect.signature(run).parameters["session_s"].default == SESSION_S
