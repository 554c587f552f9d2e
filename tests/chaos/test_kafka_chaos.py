"""The short version of a chaos run; the long one is `python -m tests.chaos.kafka_chaos`. Run with -s to see its log."""

import pytest

from tests.chaos.kafka_site import Journal

ACTS = ("kill_worker", "stall_broker", "restart_broker", "remove_worker")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("needs_kafka")
def test_nothing_is_lost_or_double_and_every_feature_is_right(tmp_path):
    from tests.chaos.kafka_chaos import Plan, run, summary

    plan = Plan(seed=11, events=30_000, rounds=len(ACTS), acts=ACTS, round_s=4.0, sample=10, checked=2)
    outcome = run(plan, tmp_path, Journal(lambda text: print(text, flush=True)))
    print(summary(outcome))
    assert [each.act for each in outcome.rounds] == list(ACTS)
    assert outcome.events >= plan.events
