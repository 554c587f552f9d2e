"""Messages are made up, learned, judged and decided: the whole way of a support task, with a small network."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import json as arrow_json

from connectors.json_text import json_objects
from connectors.sqlite_log import SqliteLog
from models.bundle import Bundle, BundleError, read_bundle
from models.registry import Registry
from models.sentences.card import CARD, MODEL, TOKENIZER
from models.text.scorer import LINEAR, NONE_READ, PASSAGES, SupportScorer
from ops.inputs import open_inputs
from ops.runner import AppRunner
from ops.simulate.messages import MessageSettings, simulate_messages
from ops.training.contents import read_contents
from ops.training.evaluating import Days
from ops.training.found import EvaluationSettings
from ops.training.inspecting import inspect_bundle
from ops.training.joint_training import train_together
from ops.training.judging import judge
from ops.training.training import TrainingError, TrainingSettings, train_lessons
from ops.views.network import show
from pipeline.live import create_topics
from pipeline.loading import load_app
from pipeline.replay import Replay
from pipeline.support_decisions import SCHEMA
from pipeline.verify import verify
from tests.models.sentences.tiny_encoder import TOKENS_MAX, WIDTH, write_graph_encoder

ROOT = Path(__file__).resolve().parents[2]
MESSAGES, TRAINED = 700, 560


def train(app, inputs, settings, out_dir):
    return train_together(app, app.tasks, inputs, settings, out_dir)[app.task().name]


@pytest.fixture(scope="module", params=["alone", "with an encoder"])
def desk(tmp_path_factory, request):
    """An app, its files, and a bundle that learned what was known when the last fifth began; also with an encoder."""
    folder = tmp_path_factory.mktemp("desk")
    simulate_messages(MessageSettings(messages=MESSAGES, outside_share=0.15, seed=3), folder)
    shutil.copy(ROOT / "ops/demo/support.py", folder / "desk.py")
    desk = load_app(str(folder / "desk.py"))
    desk.folder = folder
    desk.data = [str(folder / "messages.jsonl"), str(folder / "answers.jsonl")]
    lines = (folder / "messages.jsonl").read_bytes().splitlines()
    desk.lines, desk.until_ms = lines, json.loads(lines[TRAINED])["ts"]
    encoder = None
    if request.param == "with an encoder":
        encoder = str(
            write_graph_encoder(folder / "tiny", [json.loads(line)["body"] or "" for line in lines[:TRAINED]])
        )
    wanted = TrainingSettings(until_ms=desk.until_ms, quick=True, epochs=8, encoder=encoder)
    desk.encoder = encoder
    desk.rung = "encoder+moe+articles" if encoder else "moe+articles"
    desk.trained = train(desk, open_inputs(desk, desk.data), wanted, folder / "bundles")
    return desk


def truth_of(desk):
    labels = map(json.loads, (desk.folder / "answers.jsonl").read_bytes().splitlines())
    return {label["message_id"]: label for label in labels}


def test_decisions_of_a_run_are_what_the_bundle_reads_in_each_message(desk, tmp_path):
    registry = Registry.open(None, tmp_path / "registry")
    registry.promote("support", registry.add_bundle("support", desk.trained.folder, "test", 0), "test", 0)
    with SqliteLog(tmp_path / "log.db") as log:
        create_topics(desk, log)
        log.append("messages", 0, [*desk.lines[TRAINED:], b'{"message_id":"old","ts":1,"body":" "}'], 1 << 42)
        answers = (desk.folder / "answers.jsonl").read_bytes().splitlines()
        log.append("answers", 0, answers, 1 << 42)
        with AppRunner(desk, log, registry, tmp_path) as runner:
            runner.run(until_idle=True)
            labels = runner.workers[0].engine.join.counts()
        stored = [rows for _, rows in log.read_rows("support.decisions", 0, 0, 1 << 30)]
    registry.close()
    rows = pa.Table.from_batches(stored).to_pylist()
    sent = {each["message_id"]: each["body"] for each in map(json.loads, desk.lines[TRAINED:])}
    assert [row["event_id"] for row in rows] == list(sent)  # the last one is too old: a dead letter
    assert labels["joined"] == len({json.loads(each)["message_id"] for each in answers} & sent.keys())
    scorer, truth = SupportScorer(desk.trained.bundle), truth_of(desk)
    right = []
    for row in rows:
        (read,) = scorer.read([sent[row["event_id"]]], 3)  # one by one, unlike the worker
        assert row["score"] == pytest.approx(read.score, abs=1e-5)
        assert row["is_out_of_scope"] == (row["score"] < row["threshold"])
        assert row["decision"] == ("review" if row["is_out_of_scope"] else "allow")
        assert row["intent"] == ("out_of_scope" if row["is_out_of_scope"] else row["intent_scores"][0]["intent"])
        assert [each["id"] for each in row["articles"]] == [id for id, _ in read.articles]
        assert (row["priority"], row["bundle"], row["rung"]) == (read.priority, desk.trained.bundle.id, desk.rung)
        label = truth.get(row["event_id"])
        right += [row["intent"] == label["intent"]] if label is not None else []
    assert np.mean(right) > 0.75  # of 13: always the same one would be right for 1 in 7


def test_decisions_come_back_whole_from_json(desk):
    scorer = SupportScorer(desk.trained.bundle)
    common = {name: None for name in SCHEMA.names} | {"reasons": ['say "no"'], "is_out_of_scope": True}
    rows = [
        {**common, "intent_scores": [{"intent": name, "score": score} for name, score in read.intents],
         "articles": [{"id": id, "score": score} for id, score in read.articles]}
        for read in scorer.read(["where is my card", "xyzzy ☂", None], 3)
    ]  # fmt: skip
    text = json_objects(pa.RecordBatch.from_pylist(rows, SCHEMA), end="\n")
    parsing = arrow_json.ParseOptions(explicit_schema=SCHEMA)
    read = arrow_json.read_json(pa.BufferReader("".join(text.to_pylist()).encode()), parse_options=parsing)
    assert read.to_pylist() == rows


def test_without_a_bundle_every_message_is_reviewed(desk, tmp_path):
    with SqliteLog(tmp_path / "log.db") as log:
        create_topics(desk, log)
        log.append("messages", 0, desk.lines[:20], 1 << 42)
        with AppRunner(desk, log, None, tmp_path) as runner:
            runner.run(until_idle=True)
        rows = pa.Table.from_batches([each for _, each in log.read_rows("support.decisions", 0, 0, 1 << 30)])
    assert rows.column("decision").to_pylist() == ["review"] * 20
    assert rows.column("intent").null_count == rows.column("is_out_of_scope").null_count == 20


def test_texts_without_a_word_tell_nothing_and_disturb_no_other(desk):
    scorer = SupportScorer(desk.trained.bundle)
    read = scorer.read([None, "", " \n", "where is my card", "?!"], 3)
    assert read[:3] == [NONE_READ] * 3
    assert read[3].intents[0][1] == pytest.approx(scorer.read(["where is my card"], 3)[0].intents[0][1], abs=1e-5)


def test_the_evaluation_judges_the_same_messages_beside_tf_idf(desk, tmp_path):
    found = judge(
        desk, desk.task(), open_inputs(desk, desk.data), Days(test_start_ms=desk.until_ms), tmp_path,
        desk.trained.bundle, EvaluationSettings(),
    )  # fmt: skip
    scorer, truth = SupportScorer(desk.trained.bundle), truth_of(desk)
    inside = [each for each in map(json.loads, desk.lines[TRAINED:])
              if truth.get(each["message_id"], {}).get("intent", "out_of_scope") != "out_of_scope"]  # fmt: skip
    hits = [scorer.read([each["body"]], 1)[0].intents[0][0] == truth[each["message_id"]]["intent"] for each in inside]
    assert found.figures["accuracy"][0] == pytest.approx(np.mean(hits))
    assert found.figures["accuracy"][1] > 0.8
    assert found.figures["out_of_scope_auc"][0] > 0.7
    assert all(path.stat().st_size > 1000 for path in found.plots.values())
    assert json.loads(found.report_path.read_text())["figures"]["accuracy"]["bundle"] == pytest.approx(np.mean(hits))


def test_nothing_known_later_is_learned(desk):
    known = read_contents(desk, desk.task(), open_inputs(desk, desk.data)).known(None, desk.until_ms)
    assert desk.trained.events == len(known) < TRAINED
    assert known.times_ms.max() < desk.until_ms
    assert known.known_ms.max() < desk.until_ms


def test_what_was_held_back_is_learned_once_it_has_chosen_epoch_and_line(desk):
    first, everything = (
        json.loads((desk.folder / "bundles/network" / where / "training_report.json").read_bytes())
        for where in (".", "everything")
    )
    trained = desk.trained
    learned = {
        "training": trained.events - trained.held_back,
        "validation": first["tasks"]["support"]["messages"]["validation"],
    }
    assert first["tasks"]["support"]["messages"] == learned
    assert everything["tasks"]["support"]["messages"]["training"] == trained.events
    assert (
        everything["training"]["last_epoch"]
        == first["best_epoch"]
        == trained.bundle.meta.provenance["epochs_of_everything"]
    )
    judged = first["validation"]["support"]["accuracy"]  # of the network that did not learn them
    alone = "held_back.accuracy_of_the_network" if desk.encoder else "held_back.accuracy"
    assert trained.metrics[alone] == pytest.approx(judged, abs=1e-4)


def test_verification_finds_nothing_wrong(desk):
    plan = desk.plans["messages"]
    with Replay(plan, open_inputs(desk, desk.data)) as replay:
        found = verify(plan, replay, 50)
    assert (found.events, found.events_checked, found.mismatches, found.misjudged) == (MESSAGES, 50, 0, 0)


def test_an_inspection_tells_of_the_encoder(desk, capsys):
    found = inspect_bundle(desk.trained.bundle)
    show(found)
    told = capsys.readouterr().out
    if desk.encoder is None:
        assert found.encoder is None
        assert "sentence encoder" not in told
        return
    assert re.search(rf"sentence encoder +tiny: {WIDTH} numbers of the first {TOKENS_MAX} tokens, mean", told)
    assert msgspec.json.decode(found.to_json())["sentence_encoder"]["files"]["tokenizer.json"]


def test_a_bundle_holds_its_encoder_and_is_refused_if_that_is_damaged_or_missing(desk, tmp_path):
    bundle = desk.trained.bundle
    parts = {name for name in bundle.parts if name.startswith("encoder.")}
    assert parts == ({CARD, MODEL, TOKENIZER} if desk.encoder else set())
    for name in parts:
        folder = tmp_path / name
        shutil.copytree(desk.trained.folder, folder)
        (folder / name).write_bytes(bundle.parts[name][:-1] + b"?")
        with pytest.raises(BundleError, match=rf"{name} is damaged: expected SHA-256 \w+, found \w+; copy it again"):
            read_bundle(folder)
        (folder / name).unlink()
        with pytest.raises(BundleError, match=rf"{name} cannot be read .*; copy the bundle again from its source"):
            read_bundle(folder)
        rest = {other: data for other, data in bundle.parts.items() if other != name}
        with pytest.raises(
            BundleError, match=r"has no 'encoder|reads 24 numbers of a sentence encoder, and its encoder g"
        ):
            SupportScorer(Bundle(bundle.id, bundle.meta, {}, rest))


def test_messages_are_read_the_same_alone_and_among_others(desk):
    scorer = SupportScorer(desk.trained.bundle)
    texts = [json.loads(line)["body"] for line in desk.lines[TRAINED : TRAINED + 40]]
    texts += ["card " * 3000, "☂", "x" * 5000]  # longer than what is read, unknown, one endless word
    for one, among in zip((scorer.read([text], 3)[0] for text in texts), scorer.read(texts, 3), strict=True):
        assert one.score == pytest.approx(among.score, abs=1e-5)
        assert dict(one.intents) == pytest.approx(dict(among.intents), abs=1e-5)
        assert dict(one.articles) == pytest.approx(dict(among.articles), abs=1e-5)
        assert one.priority == among.priority


def test_an_encoder_for_tasks_that_read_no_texts_is_refused(tmp_path):
    lesson = SimpleNamespace(task=SimpleNamespace(name="risk"), settings=TrainingSettings(encoder="tiny"))
    with pytest.raises(
        TrainingError, match=r"no task to train reads texts \(risk\), so a sentence encoder is of no use"
    ):
        train_lessons([lesson], tmp_path)


def test_linear_readers_stand_beside_the_network_of_an_encoder(desk):
    bundle, network = desk.trained.bundle, "held_back.accuracy_of_the_network"
    assert (LINEAR in bundle.parts) == (network in desk.trained.metrics) == (desk.encoder is not None)
    if desk.encoder is not None:
        text, rest = ["my card was stolen"], {name: data for name, data in bundle.parts.items() if name != LINEAR}
        alone = SupportScorer(Bundle(bundle.id, bundle.meta, {}, rest)).probabilities(text)[0]
        assert abs(SupportScorer(bundle).probabilities(text)[0] - alone).max() > 1e-3


def test_articles_alone_need_no_labels_and_no_network(desk, tmp_path):
    (tmp_path / "kb.jsonl").write_bytes((desk.folder / "articles.jsonl").read_bytes())
    (tmp_path / "faq.py").write_text(
        "from pipeline import App, Stream, SupportTask\n"
        'questions = Stream("questions", id="id", time="ts", fields={"text": "text"})\n'
        'app = App("faq", tasks=[SupportTask("faq", on=questions, text=questions.text, articles="kb.jsonl")])\n'
    )
    faq = load_app(str(tmp_path / "faq.py"))
    (tmp_path / "questions.jsonl").write_text('{"id":"q","ts":1,"text":"lost card"}\n')
    wanted = TrainingSettings(encoder=desk.encoder)
    made = train(faq, open_inputs(faq, [str(tmp_path / "questions.jsonl")]), wanted, tmp_path / "bundles")
    scorer = SupportScorer(made.bundle)
    asked = "someone stole my card" if desk.encoder is None else "Report a lost or stolen card"  # a table of chance
    (read,) = scorer.read([asked], 2)
    assert read.articles[0][0] == "kb-card_lost_or_stolen"
    assert read.is_out_of_scope is None
    assert scorer.rung == ("encoder+articles" if desk.encoder else "articles")
    assert LINEAR not in made.bundle.parts
    assert (PASSAGES in made.bundle.parts) == (desk.encoder is not None)


def test_too_few_messages_of_an_intent_are_named(desk, tmp_path):
    wanted = TrainingSettings(until_ms=json.loads(desk.lines[40])["ts"], quick=True)
    with pytest.raises(TrainingError, match=r"task 'support' has \d+ labelled messages, only [1-4] of '\w+'; at least"):
        train(desk, open_inputs(desk, desk.data), wanted, tmp_path)


def test_a_bundle_of_another_kind_is_refused(desk):
    other = Bundle(desk.trained.bundle.id, desk.trained.bundle.meta, {}, {"blend.json": b"{}"})
    with pytest.raises(ValueError, match="was not made for a support task; train one: pelton train APP"):
        SupportScorer(other)


def test_the_articles_of_the_demo_are_those_that_go_with_the_messages(desk):
    assert (ROOT / "ops/demo/articles.jsonl").read_bytes() == (desk.folder / "articles.jsonl").read_bytes()


def test_the_same_seed_makes_the_same_messages(tmp_path):
    made = [simulate_messages(MessageSettings(messages=50, seed=seed), tmp_path / str(at)).sha256
            for at, seed in enumerate((1, 1, 2))]  # fmt: skip
    assert made[0] == made[1] != made[2]
