"""StackFAQ (Karan, Snajder 2018): 125 threads of Stack Exchange as articles, their rephrasings as messages.

    python -m tests.apps.stackfaq stackExchange-FAQ.json OUT    # writes this app, too: articles lie beside it
    pelton evaluate OUT/stackfaq.py --data OUT/questions.jsonl OUT/answers.jsonl

Nothing is learned: the articles are all there is. A rephrasing that is "*" or null is left out.
"""

import json
import shutil
import sys
from pathlib import Path

from pipeline import App, Stream, SupportTask

questions = Stream("questions", id="id", time="ts", fields={"body": "text"})
answers = Stream("answers", id="id", time="answered_at", fields={"article": "string"})
faq = SupportTask("faq", on=questions, text=questions.body, article=answers.article, articles="articles.jsonl")
app = App("stackfaq", tasks=[faq])
START_MS = 1_767_571_200_000


def write(source: Path, out: Path) -> None:
    """Write articles, questions and which article answers them."""
    out.mkdir(parents=True, exist_ok=True)
    articles, sent, said = [], [], []
    for number, thread in enumerate(json.loads(source.read_text())["root"]["qapair"]):
        answers = thread["answer"] if isinstance(thread["answer"], list) else [thread["answer"]]
        body = " ".join(answer for answer in answers if answer)
        articles.append({"id": f"t{number}", "title": thread["question"], "body": body})
        asked = thread["rephr"] if isinstance(thread["rephr"], list) else [thread["rephr"]]
        for text in (each for each in asked if each and each.strip() != "*"):
            name, at_ms = f"q{len(sent)}", START_MS + 1000 * len(sent)
            sent.append({"id": name, "ts": at_ms, "body": text})
            said.append({"id": name, "answered_at": at_ms + 1, "article": f"t{number}"})
    for name, rows in (("articles", articles), ("questions", sent), ("answers", said)):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(__file__, out / "stackfaq.py")
    print(f"{len(articles)} articles and {len(sent)} questions in {out}")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
