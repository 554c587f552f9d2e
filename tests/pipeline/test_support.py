"""What can be declared about texts, and what is refused, with the place and what to do."""

import pytest

from connectors.errors import SchemaError
from connectors.schema import TextField
from pipeline import App, Stream, SupportTask, Task
from pipeline.errors import DeclarationError
from pipeline.topics import decisions_schema

MESSAGES = Stream("messages", id="id", time="ts", fields={"customer": "string", "body": "text", "stars": "int"})
ANSWERS = Stream("answers", id="id", time="at", fields={"intent": "string", "priority": "string", "score": "int"})
NOTES = Stream("notes", id="id", time="at", fields={"priority": "string"})


def support(**changed):
    return SupportTask("support", **{"on": MESSAGES, "text": MESSAGES.body, "intent": ANSWERS.intent} | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text": MESSAGES.customer}, "reads messages.customer; give a field of 'messages' that is declared as text"),
        ({"intent": None}, "has neither intents to learn nor articles to offer"),
        ({"intent": ANSWERS.score}, "its intent is answers.score, a int; give a string of a stream of labels"),
        ({"intent": MESSAGES.customer}, "its intent is messages.customer, a string; give a string of a stream"),
        ({"priority": NOTES.priority}, "intent, priority and article come from different streams"),
        ({"intent": None, "articles": "kb", "priority": ANSWERS.priority}, "has a priority and no intent"),
        ({"entity": "custmer"}, "no field 'custmer' to report by; did you mean 'customer'"),
        ({"articles_top": 0}, "articles_top is 0; choose between 1 and 20"),
        ({"accept": 1.0}, "accept is 1.0; it is a share of messages"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_place(changed, message):
    with pytest.raises(DeclarationError, match=f"test_support.py:.*{message}"):
        support(**changed)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: MESSAGES.by("body"), "key 'body' is for a network to read; declare it as a string to group by it"),
        (
            lambda: App("a", [Task("t", on=MESSAGES, features={"body": MESSAGES.body})]),
            "'body' is messages.body, which",
        ),
        (
            lambda: App("a", [Task("t", on=MESSAGES, features={"n": MESSAGES.by("customer").last("1h").seen("body")})]),
            "seen of 'body', which is for a network that reads it; windows take no text",
        ),
    ],
)
def test_a_text_is_no_key_and_no_feature(declare, message):
    with pytest.raises(DeclarationError, match=message):
        declare()


def test_how_much_of_a_text_is_read_has_a_bound():
    with pytest.raises(SchemaError, match="max_chars is 0; choose between 1 and 100,000"):
        TextField(max_chars=0)
    stream = Stream("s", id="id", time="ts", fields={"body": TextField(max_chars=9, optional=True)})
    assert stream.body.field.content.max_chars == 9
    assert stream.body.field.optional


def test_tasks_of_several_kinds_stand_in_one_app_and_share_the_columns_of_decisions():
    task = Task("angry", on=MESSAGES, features={"stars": MESSAGES.stars}, model=None)
    names = decisions_schema(App("desk", [support(), task])).names
    assert {"intent", "articles", "stars", "moe_logit"} <= set(names)
    assert len(names) == len(set(names))


def test_a_feature_with_the_name_of_another_task_s_column_is_refused_where_the_types_differ():
    task = Task("angry", on=MESSAGES, features={"priority": MESSAGES.stars}, model=None)
    with pytest.raises(
        DeclarationError, match="column 'priority' of its decisions is a double, of another task's a str"
    ):
        decisions_schema(App("desk", [support(), task]))
