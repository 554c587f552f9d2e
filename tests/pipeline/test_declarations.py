"""Mistakes in an app file are reported with the place and the fix."""

import re

import pytest

from pipeline import App, Fixed, Rule, Stream, Task, hour_of, ratio
from pipeline.errors import DeclarationError


def payments(**changes: object) -> Stream:
    fields = {"card": "card", "terminal": "string", "device": "string?", "amount": "money", "online": "bool"}
    return Stream("payments", **{"id": "event_id", "time": "ts", "fields": fields, **changes})  # type: ignore[arg-type]


def task(on: Stream, features: dict[str, object], **more: object) -> Task:
    return Task("risk", on=on, features=features, **more)  # type: ignore[arg-type]


def test_an_app_computes_each_feature_once_for_two_tasks() -> None:
    stream = payments()
    shared = {"mean": stream.by("card").last("1h").mean("amount")}
    other = Task("other", on=stream, features=shared, model=None, learner=None)
    app = App("bank", [task(stream, {"hour": hour_of(stream.ts), **shared}), other])
    plan = app.plans["payments"]
    assert plan.names == ("hour", "mean")
    assert plan.columns_of == {"risk": (0, 1), "other": (1,)}
    assert [len(group.members) for group in plan.groups] == [1]


def test_a_window_over_a_condition_that_uses_a_feature_comes_after_it() -> None:
    stream = payments()
    card = stream.by("card")
    features = {
        "share": card.last("1d").rate("amount > 3 * mean"),
        "mean": card.last("30d").mean("amount"),
        "relative": ratio("share", "mean"),
    }
    plan = App("bank", [task(stream, features)]).plans["payments"]
    assert dict(zip(plan.names, plan.levels, strict=True)) == {"share": 1, "mean": 0, "relative": 1}


MISTAKES = {
    "a field that is not there": (
        lambda s: s.amont,
        "stream 'payments' has no field 'amont'; did you mean 'amount'?",
    ),
    "a key that is not there": (lambda s: s.by("crd"), "stream 'payments' has no field 'crd'; did you mean 'card'?"),
    "a key that is money": (lambda s: s.by("amount"), "key 'amount' is a money; a key is a string, an int or a bool"),
    "a span without a unit": (lambda s: s.by("card").last("60"), "span is '60'; write a whole number and a unit"),
    "a span too long": (lambda s: s.by("card").last("91d"), "span is '91d'; a window spans from 1ms to 90d"),
    "a quantile out of range": (
        lambda s: s.by("card").last("1h").quantile("amount", 2),
        "quantile is asked for q = 2; choose between 0 and 1",
    ),
    "a delay that makes no sense": (
        lambda s: s.by("card").last("1h", delay="1d").zscore("amount"),
        "a delay makes no sense there",
    ),
    "a label that leaks": (
        lambda s: task(s, {"amt": s.amount}, label=s.online),
        "its label is a field of the event itself; use payments.label('online', known_after='7d')",
    ),
    "a mean of a text": (
        lambda s: App("bank", [task(s, {"m": s.by("card").last("1h").mean("terminal")})]),
        "feature 'm': mean of 'terminal', a text; ask for distinct, entropy, seen, changed or top_share",
    ),
    "a name that is not there": (
        lambda s: App("bank", [task(s, {"m": s.by("card").last("1h").rate("amuont > 3")})]),
        "feature 'm' uses 'amuont', neither a field nor a feature; did you mean 'amount'?",
    ),
    "a circle": (
        lambda s: App("bank", [task(s, {"a": "b + 1", "b": "a + 1"})]),
        "feature 'a' depends on itself: a -> b -> a",
    ),
    "a rule that decides nothing": (lambda s: Rule("r", "amount > 3", "stop"), "it is one of allow, review, block"),
    "a rule with an unknown name": (
        lambda s: App("bank", [task(s, {"amt": s.amount}, rules=[Rule("r", "amnt > 3", "block")])]),
        "rule 'r' uses 'amnt', neither a field nor a feature; did you mean 'amt'?",
    ),
    "an expression that is none": (lambda s: Rule("r", "amount >", "block"), "'amount >' cannot be read"),
    "a call to something else": (lambda s: Rule("r", "open('x')", "block"), "calls open; there are abs, floor"),
    "no feature": (lambda s: task(s, {}), "task 'risk' has no features"),
    "two tasks of one name": (
        lambda s: App("bank", [task(s, {"amt": s.amount}), task(s, {"amt": s.amount})]),
        "two tasks named 'risk'",
    ),
    "too many events of a key": (
        lambda s: App("bank", [task(s, {"amt": s.amount})], events_per_key=10**6),
        "events_per_key is 1000000; choose between 1 and 65536",
    ),
    "a type that is none": (
        lambda s: payments(fields={"amount": "monney"}),
        "field 'amount' has type 'monney'; use one of string, bool, int",
    ),
    "a time field among the fields": (
        lambda s: payments(fields={"ts": "int"}),
        "declares its time field 'ts' among the fields; leave it out there",
    ),
    "a field whose name an expression cannot hold": (
        lambda s: payments(fields={"card number": "string"}),
        "field 'card number' cannot be a name in expressions; rename it",
    ),
    "a median over facts": (
        lambda s: s.by("card").last("7d").quantile(payments(fields={"fraud": "bool"}).fraud, 0.5),
        "facts joined later can be asked for count, sum, mean, rate",
    ),
    "a model that is none": (lambda s: task(s, {"amt": s.amount}, model="xgb"), "model is 'moe' or None"),
    "an entity that is not there": (lambda s: task(s, {"amt": s.amount}, entity="crd"), "did you mean 'card'?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_the_place_and_the_fix(name: str) -> None:
    make, problem = MISTAKES[name]
    with pytest.raises(DeclarationError, match=re.escape(problem)) as caught:
        make(payments())
    assert re.match(rf"{re.escape(__file__)}:\d+: ", str(caught.value)), str(caught.value)


def test_thresholds_are_checked_where_they_are_declared() -> None:
    with pytest.raises(ValueError, match=r"review is 0\.9 and block is 0\.5"):
        Fixed(review=0.9, block=0.5)
