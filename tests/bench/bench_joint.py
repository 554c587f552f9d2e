"""Is one network for tasks of three kinds as good as three networks of the same active size?

Made-up payments, messages and photographs of surfaces, each judged on the newest part, which no network learns. Sizes
are equal: a task may visit as many experts alone as together, where one in eight is its own, and goes as often through
its data. Each seed is a training of its own; `--only risk` trains that task alone and nothing else, for a machine on
which long runs are unwelcome. How busy experts are is told of the tokens of the task, and of those of all tasks.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from models.expert_load import dead, overflow
from models.moe.settings import MoESettings
from ops.inputs import open_inputs
from ops.simulate import SimulationSettings, simulate
from ops.simulate.messages import MessageSettings, simulate_messages
from ops.simulate.photos import PhotoSettings, simulate_photos
from ops.training.evaluating import Days
from ops.training.found import EvaluationSettings, experts_of
from ops.training.joint_training import read_lesson
from ops.training.judging import judge
from ops.training.recipes import Recipe
from ops.training.training import TrainedBundle, TrainingSettings, train_lessons
from pipeline import App, DefectTask, ImageField, Stream, SupportTask, Task
from tests.bench.measuring import parser

TEST_SHARE = 0.3
SIZES = MoESettings(
    width=64,
    heads=4,
    experts=8,
    expert_width=64,
    shared_width=64,
    head_width=64,
    tokens_max=8,
    buckets=512,
    dropout=0.1,
)
TOLD = {
    "risk": ("average_precision", "auc"),
    "support": ("accuracy", "out_of_scope_auc"),
    "defect": ("accuracy", "auc"),
}


def declared() -> App:
    """Declare an app of three kinds of tasks."""
    payments = Stream("payments", id="event_id", time="ts", fields={
        "card": "string", "terminal": "string", "device": "string", "place": "string", "amount": "money"})  # fmt: skip
    frauds = Stream("frauds", id="event_id", time="reported_at", fields={"is_fraud": "bool"})
    card, terminal = payments.by("card"), payments.by("terminal")
    features = {
        "amount": payments.amount, "count_1h": card.last("1h").count(),
        "places_24h": card.last("24h").distinct("place"),
        "device_is_known": card.last("30d").seen("device"), "amount_zscore_30d": card.last("30d").zscore("amount"),
        "terminal_rate_3d": terminal.last("3d", delay="1d").rate(frauds.is_fraud),
    }  # fmt: skip
    messages = Stream("messages", id="message_id", time="ts", fields={"customer": "string", "body": "text"})
    answers = Stream("answers", id="message_id", time="answered_at", fields={"intent": "string", "priority": "string"})
    photos = Stream("photos", id="photo_id", time="ts", fields={"image": ImageField(size=64, channels=1)})
    inspections = Stream("inspections", id="photo_id", time="inspected_at", fields={"defect": "string"})
    return App("three", [
        Task("risk", on=payments, features=features, label=frauds.is_fraud, learner=None),
        SupportTask("support", on=messages, text=messages.body, intent=answers.intent, priority=answers.priority),
        DefectTask("defect", on=photos, image=photos.image, label=inspections.defect, quarter_turns=False),
    ])  # fmt: skip


def figures(
    app: App, made: TrainedBundle, inputs: dict, start_ms: int, out_dir: Path, baseline: bool
) -> dict[str, object]:
    """Judge a bundle by the events from `start_ms` on, and tell of its experts."""
    task = app.task(made.bundle.meta.task)
    found = judge(app, task, inputs, Days(test_start_ms=start_ms), out_dir, made.bundle,
                  EvaluationSettings(baseline=baseline))  # fmt: skip
    report = json.loads(found.report_path.read_text())["figures"]
    if isinstance(task, Task):
        by_model = {each["model"]: each for each in report}
        told = {name: by_model["blend"][name] for name in TOLD[task.name]}
        told |= {f"baseline_{name}": by_model["gradient boosting"][name] for name in TOLD[task.name] if baseline}
    else:
        told = {name: report[name]["bundle"] for name in TOLD[task.name]}
        others = {name: list(report[name].values())[1] for name in TOLD[task.name] if baseline}
        told |= {f"baseline_{name}": value for name, value in others.items()}
    experts = experts_of(made.bundle)
    assert experts is not None
    told = {name: None if value is None else round(value, 4) for name, value in told.items()}
    assert made.report_path is not None
    of_all = [np.array(each["visits"]) for each in json.loads(made.report_path.read_bytes())["loads"]]
    return told | {
        "busiest_over_mean": [round(1 + overflow(layer), 2) for layer in experts.visits],
        "busiest_over_mean_of_all": [round(1 + overflow(layer), 2) for layer in of_all],
        "dead": [dead(layer) for layer in experts.visits],
    }


def made_up(folder: Path) -> None:
    """Make up the files of all streams."""
    simulate(
        SimulationSettings(
            days=10,
            events_per_day=1200,
            cards=300,
            terminals=60,
            fraud_rate=0.04,
            drift=False,
            malformed_share=0,
            seed=5,
        ),
        folder,
    )
    simulate_messages(MessageSettings(messages=1500, outside_share=0.15, seed=5), folder)
    simulate_photos(PhotoSettings(photos=900, size=64, seed=5), folder)


def test_start(folder: Path, stream: Stream) -> int:
    """Return the moment from which on events are judged, milliseconds since the epoch."""
    lines = (folder / f"{stream.name}.jsonl").read_bytes().splitlines()
    return int(np.quantile([json.loads(line)[stream.schema.time] for line in lines], 1 - TEST_SHARE))


def trained(app: App, folder: Path, names: list[str], given: argparse.Namespace) -> None:
    """Train some tasks together, judge them, and print a line for each."""
    started, lessons = time.perf_counter(), []
    files = [str(folder / f"{each.name}.jsonl") for task in app.tasks for each in (task.on, task.label.stream)]
    for name, passes in zip(TOLD, given.passes, strict=True):
        if name in names:
            task, epochs = app.task(name), given.epochs * passes
            settings = TrainingSettings(until_ms=test_start(folder, task.on), seed=given.seed, quick=True)
            lesson = read_lesson(app, task, open_inputs(app, files), settings)
            lesson.recipe = Recipe(epochs, SIZES, epochs, average_decay=0.98)
            lessons.append(lesson)
    made = train_lessons(lessons, folder / "-".join(names))
    seconds = round(time.perf_counter() - started, 1)
    for name, its in made.items():
        start_ms = test_start(folder, app.task(name).on)
        told = figures(app, its, open_inputs(app, files), start_ms, folder / "judged", len(names) == 1)
        line = {"trained": " + ".join(names), "task": name, "seed": given.seed, **told, "seconds": seconds}
        print(json.dumps(line), flush=True)


def main() -> None:
    """Print a line of JSON per task and training."""
    asked = parser(__doc__)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--epochs", type=int, default=4)
    asked.add_argument("--passes", type=int, nargs=3, default=(1, 2, 4), help="through each task's data in an epoch")
    asked.add_argument("--only", choices=("together", *TOLD), help="this training alone")
    given, app = asked.parse_args(), declared()
    if given.quick:
        given.epochs, given.passes = 1, (1, 1, 1)
    with tempfile.TemporaryDirectory() as scratch:
        made_up(Path(scratch))
        for names in ([*TOLD], *([each] for each in TOLD)):
            if given.only in (None, "together" if len(names) > 1 else names[0]):
                trained(app, Path(scratch), names, given)


if __name__ == "__main__":
    main()
