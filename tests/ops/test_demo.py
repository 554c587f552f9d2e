"""The demo: its streams, its producer, its models, and the command as a new user sees it in a pipe."""

import json
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from connectors.images import decode_image, pixels_of
from connectors.secrets import Tokeniser
from connectors.sqlite_log import SqliteLog
from models.bundle import BundleError, read_bundle
from models.metrics import roc_auc
from models.scorer import Scorer
from ops.demo.playing import what_next
from ops.demo.stage import (
    APP,
    BUNDLE,
    BUNDLES,
    DAY_MS,
    DEMO,
    STREAMS,
    DemoError,
    message_settings,
    photo_settings,
    set_up,
    stream_settings,
)  # fmt: skip
from ops.inputs import open_inputs
from ops.producer import Producer, read_script
from ops.simulate import simulate
from ops.simulate.messages import simulate_messages
from ops.simulate.photos import simulate_photos
from ops.views.plan import lines as plan_lines
from pipeline.dataset import collect
from pipeline.kinds import scorer_of
from pipeline.loading import load_app
from pipeline.manifest import decode
from pipeline.replay import Replay

SUNDAY_MS = 1_795_305_600_000  # 2026-11-22T00:00Z
BYTES_MAX = {"risk": 9_000_000, "support": 1_500_000, "defect": 600_000}


def test_the_stream_is_two_whole_weeks_that_are_over():
    for now_ms in (SUNDAY_MS, SUNDAY_MS + DAY_MS - 1, SUNDAY_MS + DAY_MS):
        made = stream_settings(60, now_ms)
        assert made.end_ms <= now_ms < made.end_ms + 7 * DAY_MS
        assert (made.start_ms // DAY_MS) % 7 == 4  # a Monday: the epoch began on a Thursday
    assert stream_settings(60, SUNDAY_MS).events == 48_000
    assert stream_settings(20, SUNDAY_MS).cards == 160


def test_messages_and_photographs_come_in_the_same_two_weeks(tmp_path):
    start_ms = stream_settings(5, SUNDAY_MS).start_ms
    end_ms = start_ms + 14 * DAY_MS
    simulate_messages(message_settings(5, start_ms), tmp_path)
    simulate_photos(photo_settings(5, start_ms), tmp_path)
    for name, count in (("messages", 100), ("photos", 40)):
        times = [json.loads(line)["ts"] for line in (tmp_path / f"{name}.jsonl").read_bytes().splitlines()]
        assert len(times) == count
        assert start_ms <= min(times) < start_ms + DAY_MS
        assert end_ms - 3 * DAY_MS < max(times) < end_ms + 3 * DAY_MS  # messages come by chance


def test_the_app_has_three_tasks_on_streams_of_their_own():
    app = load_app(str(DEMO))
    assert [task.name for task in app.tasks] == list(BUNDLES)
    assert list(app.streams) == list(STREAMS)
    assert list(app.plans) == ["payments", "messages", "photos"]
    said = "\n".join(text for _, text in plan_lines(app))
    for part in ("customer string, body text", "line string, image image", "task risk", "task support", "task defect"):
        assert part in said


@pytest.mark.parametrize("task", BUNDLES)
def test_a_bundle_is_whole_small_and_says_how_it_was_made(task, tmp_path):
    app, bundle = load_app(str(DEMO)), read_bundle(BUNDLES[task])
    declared = app.task(task)
    assert bundle.meta.task == task
    assert sum(map(len, bundle.parts.values())) < BYTES_MAX[task]
    assert scorer_of(declared, app.plans[declared.on.name], bundle, None).rung.startswith("moe")
    provenance = bundle.meta.provenance
    assert provenance["command"] in (APP.parent / "README.md").read_text()
    assert {"seed", "events", "torch", "python"} <= provenance.keys()
    assert bundle.meta.metrics
    for part in bundle.parts:
        (tmp_path / part).write_bytes(bundle.part(part))
    (tmp_path / "bundle.json").write_bytes((BUNDLES[task] / "bundle.json").read_bytes())
    changed = bytearray(bundle.part("moe.onnx"))
    changed[len(changed) // 2] ^= 1
    (tmp_path / "moe.onnx").write_bytes(changed)
    with pytest.raises(BundleError, match=r"moe\.onnx"):
        read_bundle(tmp_path)


def test_together_they_leave_the_repository_small():
    assert sum(path.stat().st_size for folder in BUNDLES.values() for path in folder.iterdir()) < 15_000_000


def test_it_finds_most_fraud_of_a_stream_it_has_never_seen(tmp_path):
    simulate(stream_settings(60, SUNDAY_MS), tmp_path)
    app = load_app(str(APP))
    task, plan = app.tasks[0], app.plans["payments"]
    inputs = open_inputs(app, [str(tmp_path / "payments.jsonl"), str(tmp_path / "frauds.jsonl")])
    with Replay(plan, inputs, Tokeniser(bytes(32))) as replay:
        data = collect(task, plan, replay)
    known = data.where((data.labels == 1) | ((data.labels == 0) & (np.arange(len(data)) % 10 == 0)))
    scores = Scorer(read_bundle(BUNDLE), None, known.specs).score(known.features).probability
    assert roc_auc(scores, known.labels) > 0.9


def test_it_reads_messages_that_it_has_never_seen(tmp_path):
    made = simulate_messages(message_settings(15, 0), tmp_path)
    sent = [json.loads(line) for line in made.messages_path.read_bytes().splitlines()]
    said = {each["message_id"]: each for each in map(json.loads, made.labels_path.read_bytes().splitlines())}
    app = load_app(str(DEMO))
    scorer = scorer_of(app.task("support"), app.plans["messages"], read_bundle(BUNDLES["support"]), None)
    read = scorer.read([each["body"] for each in sent], 1)
    told = [(said[each["message_id"]]["intent"], found) for each, found in zip(sent, read, strict=True)
            if each["message_id"] in said]  # fmt: skip
    right = [found.is_out_of_scope if intent == "out_of_scope" else found.intents[0][0] == intent
             for intent, found in told]  # fmt: skip
    assert np.mean(right) > 0.95
    assert np.mean([found.is_out_of_scope for intent, found in told if intent != "out_of_scope"]) < 0.1


def test_it_finds_defects_that_it_has_never_seen(tmp_path):
    made = simulate_photos(photo_settings(25, 0), tmp_path)
    app = load_app(str(DEMO))
    task = app.task("defect")
    scorer = scorer_of(task, app.plans["photos"], read_bundle(BUNDLES["defect"]), None)
    said = {each["photo_id"]: each["defect"] for each in map(json.loads, made.labels_path.read_bytes().splitlines())}
    sent = [json.loads(line) for line in made.photos_path.read_bytes().splitlines()]
    pixels = np.stack([pixels_of(each["image"], task.image_field) for each in sent])
    rejected = scorer.score(pixels).score >= scorer.card.threshold
    defective = np.array([said[each["photo_id"]] != "none" for each in sent])
    assert rejected[defective].mean() >= 0.95
    assert defective[rejected].mean() >= 0.9


@pytest.fixture
def stage(tmp_path):
    made = set_up(tmp_path / "demo", seconds=5)
    yield made
    made.close()


def test_the_producer_appends_what_is_due(stage):
    producer, log = stage.producer, stage.log
    assert producer.speed == pytest.approx(14 * 86_400 / 5)
    half_ms = producer.event_ms(2.5)
    appended = dict(producer.append_until(half_ms))
    assert appended == {name: log.end(name, 0) for name in STREAMS}
    assert all(appended.values())
    last = log.read("payments", 0, appended["payments"] - 1, 1).values[0].as_py()
    ts = msgspec.json.decode(last)["ts"]
    assert half_ms - DAY_MS < ts <= half_ms
    producer.start()
    producer.stop()
    assert producer.is_done
    assert producer.problem is None


def test_a_record_without_time_is_due_with_its_neighbour(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'oops\n{"ts":1767571200100}\nbroken\n{"ts":1767571200050}\n{"ts":1767571200200}\n')
    script = read_script("x", file, "ts")
    assert (script.due_ms - 1767571200000).tolist() == [100, 100, 100, 100, 200]
    file.write_bytes(b"oops\n")
    with pytest.raises(ValueError, match="has no record with a time 'ts'"):
        read_script("x", file, "ts")


def test_a_log_that_refuses_is_the_producers_problem(stage):
    lines = [b'{"ts":1767571200100}\n']
    script = read_script("payments", stage.folder / "payments.jsonl", "ts")
    producer = Producer(stage.log, [type(script)("nowhere", lines, script.due_ms[:1])], 1.0, lambda: 0)
    producer.start()
    producer.wait()
    assert "there is no topic 'nowhere'" in str(producer.problem)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DemoError, match=r"is not empty; name a new folder"):
        set_up(tmp_path, 5)


WITHOUT = ("torch", "faust", "aiokafka", "matplotlib", "onnx", "sklearn")  # importing one of them fails


def pelton(*arguments, timeout_s=110):
    blocked = f"import sys; sys.modules.update(dict.fromkeys({WITHOUT}))"
    command = [sys.executable, "-c", f"{blocked}; from ops.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """What the command said, and the folder that it kept."""
    kept = tmp_path_factory.mktemp("demo") / "kept"
    return pelton("demo", "--seconds", 8, "--keep", kept), kept


def test_without_a_terminal_it_prints_lines_and_ends(played):
    done, _ = played
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    for part in (
        "events/s", "p99", "AUC", "card_", "snapshots passed the gate", "out of scope", "with a label since",
        "recall", "heat map and mask are in", "What next:",
    ):  # fmt: skip
        assert part in done.stdout
    for task in BUNDLES:
        assert f"{task:<8} 00:" in done.stdout
        assert f"task {task}\n" in done.stdout
    assert "problem" not in done.stdout


def test_every_record_of_every_stream_is_accounted_for(played):
    done, kept = played
    assert done.stdout.count(": closed") == len(STREAMS)
    assert "NOT CLOSED" not in done.stdout
    with SqliteLog(kept / "log.db") as log:
        for task, stream in zip(BUNDLES, ("payments", "messages", "photos"), strict=True):
            manifest = decode(log.manifest(f"demo.{stream}", 0)[1])
            counts = manifest.ledgers[stream]
            assert counts["taken"] == log.end(stream, 0) == sum(counts.values()) - counts["taken"]
            assert manifest.decided == {task: counts["applied"]}
            assert counts["applied"] > 50


def test_heat_maps_are_kept_as_pictures(played):
    _, kept = played
    pictures = sorted((kept / "heat-maps").glob("*.png"))
    assert len(pictures) > 10
    photo, heat, mask = np.hsplit(decode_image(pictures[0].read_bytes(), 392, 1)[:, :, 0], [132, 264])
    assert photo.std() > 0
    assert heat.max() > 100
    assert mask.shape[1] == 128


@pytest.mark.parametrize("number", range(3))
def test_what_it_says_to_do_next_works(played, number):
    _, kept = played
    line = what_next(kept)[number]
    said = pelton(*line.split()[1:])
    assert said.returncode == 0, f"{line}: {said.stderr}"
