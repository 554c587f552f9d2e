"""Support of a bank: what a message wants, how urgent it is, which articles answer it; see `pelton simulate`."""

from pipeline import App, Stream, SupportTask

messages = Stream("messages", id="message_id", time="ts", lateness="5s", fields={"customer": "string", "body": "text"})
answers = Stream("answers", id="message_id", time="answered_at", fields={"intent": "string", "priority": "string"})

support = SupportTask(
    "support",
    on=messages,
    text=messages.body,
    intent=answers.intent,
    priority=answers.priority,
    articles="articles.jsonl",
    entity="customer",
)
app = App("support", tasks=[support])
