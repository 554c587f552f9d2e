"""Snapshots are taken by plans that mean the same, and by no others."""

import pytest

from pipeline import App, Rule, Stream, Task
from pipeline.engine import Engine
from pipeline.fingerprint import fingerprint_of


def plan_of(what="amount", span="1h", lateness="5s", decimals=2, cap=100, rules=(), key="card"):
    fields = {"card": "string", "shop": "string", "amount": f"number({decimals})", "tip": f"number({decimals})"}
    pays = Stream("pays", id="id", time="ts", lateness=lateness, fields=fields)
    window = pays.by(key).last(span)
    features = {"usual": window.mean(what), "much": window.rate("amount > 3 * usual")}
    task = Task("risk", on=pays, features=features, rules=list(rules), model=None, learner=None)
    return App("bank", tasks=[task], events_per_key=cap).plans["pays"]


def test_rules_change_no_state():
    assert fingerprint_of(plan_of()) == fingerprint_of(plan_of(rules=[Rule("large", "usual > 5", "review")]))


@pytest.mark.parametrize(
    "changed", [{"what": "tip"}, {"span": "2h"}, {"lateness": "9s"}, {"decimals": 3}, {"cap": 50}, {"key": "shop"}]
)
def test_what_decides_the_state_changes_the_fingerprint(changed):
    assert fingerprint_of(plan_of(**changed)) != fingerprint_of(plan_of())


def test_a_snapshot_of_another_field_of_the_same_shape_is_refused():
    saved = Engine(plan_of()).save()
    Engine(plan_of()).restore(saved)
    with pytest.raises(ValueError, match="belongs to other streams or features"):
        Engine(plan_of(what="tip")).restore(saved)
