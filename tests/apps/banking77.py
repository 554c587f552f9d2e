"""BANKING77 (Casanueva et al. 2020) as messages and their intents, in the files of the app below.

    python -m tests.apps.banking77 FOLDER_OF_THE_CSVS OUT
    pelton evaluate tests/apps/banking77.py --data OUT/messages.jsonl OUT/answers.jsonl --test-start 2026-02-01

Messages of the training part come first, in an order of chance: what is held back is then of all intents.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

from pipeline import App, Stream, SupportTask

messages = Stream("messages", id="id", time="ts", fields={"body": "text"})
answers = Stream("answers", id="id", time="answered_at", fields={"intent": "string"})
app = App("banking77", tasks=[SupportTask("intents", on=messages, text=messages.body, intent=answers.intent)])
STARTS_MS = {"train": 1_767_571_200_000, "test": 1_769_904_000_000}  # 2026-01-05 and 2026-02-01
EVERY_MS = 60_000


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    sent, said = [], []
    for part, start_ms in STARTS_MS.items():
        with (source / f"{part}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for place, row in enumerate(chance.permutation(len(rows)).tolist()):
            name, at_ms = f"{part}-{row}", start_ms + place * EVERY_MS
            sent.append(json.dumps({"id": name, "ts": at_ms, "body": rows[row]["text"]}))
            said.append(json.dumps({"id": name, "answered_at": at_ms + 1, "intent": rows[row]["category"]}))
    (out / "messages.jsonl").write_text("\n".join(sent) + "\n")
    (out / "answers.jsonl").write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
