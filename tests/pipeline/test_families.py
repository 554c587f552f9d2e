"""Streams that share nothing are worked on side by side, the most urgent first; a precedence is checked."""

import pytest

from pipeline import App, DefectTask, ImageField, Rule, Stream, SupportTask, Task
from pipeline.errors import DeclarationError
from pipeline.families import families_of, levels_of
from pipeline.stages import stages_of

payments = Stream("payments", id="id", time="ts", fields={"card": "string", "terminal": "string", "amount": "money"})
frauds = Stream("frauds", id="id", time="known", fields={"is_fraud": "bool"})
messages = Stream("messages", id="id", time="ts", fields={"body": "text"})
photos = Stream("photos", id="id", time="ts", fields={"image": ImageField(size=32, channels=1)})


def risk(name="risk", on=payments, **more):
    features = {"sum": on.by("card").last("1h").sum("amount"), "more": on.by("terminal").last("1h").count()}
    return Task(name, on, features, [Rule("large", "sum > 2", "review")], **more)


def support(**more):
    return SupportTask("support", on=messages, text=messages.body, articles="articles.jsonl", **more)


def defect(**more):
    return DefectTask("defect", on=photos, image=photos.image, **more)


def test_risk_goes_before_defects_before_support_if_nobody_says_otherwise():
    app = App("shop", tasks=[support(), defect(), risk()])
    assert levels_of(app) == {"risk": 2, "defect": 1, "support": 0}
    assert [(family.groups, family.level) for family in families_of(app, stages_of(app))] == [
        (("shop.payments",), 2), (("shop.photos",), 1), (("shop.messages",), 0),
    ]  # fmt: skip
    app = App("shop", tasks=[support(precedence="high"), risk(precedence="low")])
    assert [family.groups for family in families_of(app, stages_of(app))] == [("shop.messages",), ("shop.payments",)]


def test_stages_that_feed_each_other_or_read_the_same_are_of_one_family():
    app = App("shop", tasks=[support(), risk(label=frauds.is_fraud)])
    first, second = families_of(app, stages_of(app, partitions=4))
    assert len(first.groups) >= 3  # the entrance, the terminals, where labels are joined
    assert (second.groups, second.level) == (("shop.messages",), 0)
    refunds = Stream(
        "refunds", id="id", time="ts", fields=dict.fromkeys(("card", "terminal"), "string") | {"amount": "money"}
    )
    both = App("shop", tasks=[risk(label=frauds.is_fraud), risk("refund", refunds, label=frauds.is_fraud)])
    (family,) = families_of(both, stages_of(both))  # both read the labels
    assert set(family.groups) == {"shop.payments", "shop.refunds"}


@pytest.mark.parametrize("make", [risk, support, defect])
def test_another_precedence_is_refused(make):
    with pytest.raises(DeclarationError, match=r": its precedence is 'urgent'; it is one of low, normal, high"):
        make(precedence="urgent")
