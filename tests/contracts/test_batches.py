"""What the queue in front of the models promises, for each kind of task: batches do not change a row's answer."""

import json
import threading
from itertools import pairwise

import numpy as np
import pytest

from connectors.images import pixels_of
from connectors.secrets import Tokeniser
from models.batch_queue import BatchQueue
from models.bundle import read_bundle
from ops.beside import Following
from ops.demo.stage import BUNDLES, DEMO, message_settings, photo_settings, stream_settings
from ops.inputs import open_inputs
from ops.simulate import simulate
from ops.simulate.messages import simulate_messages
from ops.simulate.photos import simulate_photos
from pipeline.dataset import collect
from pipeline.decisions import Served
from pipeline.kinds import scorer_of, submit
from pipeline.loading import load_app
from pipeline.replay import Replay

WAIT_S = 60.0
SUNDAY_MS = 1_795_305_600_000  # 2026-11-22T00:00Z


def features(app, folder):
    made = simulate(stream_settings(1, SUNDAY_MS), folder)
    plan = app.plans["payments"]
    with Replay(plan, open_inputs(app, [str(made.payments_path)]), Tokeniser(bytes(32))) as replay:
        return collect(app.task("risk"), plan, replay).features[:400]


def texts(app, folder):
    made = simulate_messages(message_settings(5, 0), folder)
    return [None, "", *(json.loads(line)["body"] for line in made.messages_path.read_bytes().splitlines())]


def pixels(app, folder):
    made = simulate_photos(photo_settings(5, 0), folder)
    sent = [json.loads(line)["image"] for line in made.photos_path.read_bytes().splitlines()]
    return np.stack([pixels_of(each, app.task("defect").image_field) for each in sent])


ROWS = {"risk": features, "support": texts, "defect": pixels}


@pytest.fixture(scope="module", params=BUNDLES)
def asked(request, tmp_path_factory):
    """A task, what serves it with a queue, and rows for it."""
    app = load_app(str(DEMO))
    task = app.task(request.param)
    scorer = scorer_of(task, app.plans[task.on.name], read_bundle(BUNDLES[request.param]), None)
    queue = BatchQueue({"other": 3, request.param: 1}, threads=2)
    yield task, Served(scorer, "b", "", queue), ROWS[request.param](app, tmp_path_factory.mktemp(request.param))
    queue.close()


def numbers(answer):
    """Return (n, k) what was said of each row."""
    if isinstance(answer, list):
        return np.array([[each.score or 0, sum(score for _, score in each.articles)] for each in answer])
    if hasattr(answer, "probability"):
        return np.column_stack([answer.probability, answer.moe_logits])
    return np.column_stack([answer.score, answer.classes, answer.evidence.reshape(len(answer.score), -1)])


def one_by_one(task, served, rows):
    alone = Served(served.scorer, queue=BatchQueue({task.name: 0}))
    found = [numbers(submit(task, alone, rows[at : at + 1]).result(WAIT_S)) for at in range(len(rows))]
    alone.queue.close()
    return np.concatenate(found)


def test_a_row_is_answered_the_same_in_whatever_batches_it_came(asked):
    task, served, rows = asked
    alone = one_by_one(task, served, rows)
    together = numbers(submit(task, served, rows).result(WAIT_S))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    random, cuts, waiting = np.random.default_rng(7), [0], []
    while cuts[-1] < len(rows):
        cuts.append(min(cuts[-1] + int(random.integers(1, 60)), len(rows)))
    for first, end in pairwise(cuts):  # some wait for others, some do not
        waiting.append(submit(task, served, rows[first:end], float(random.choice([0.0, 0.05]))))
    found = np.concatenate([numbers(each.result(WAIT_S)) for each in waiting])
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_several_threads_get_their_own_answers(asked):
    task, served, rows = asked
    alone, found = numbers(submit(task, served, rows).result(WAIT_S)), {}

    def ask(number):
        found[number] = numbers(submit(task, served, rows[number::4]).result(WAIT_S))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_allclose(found[number], alone[number::4], atol=1e-5)


def test_a_request_for_what_nobody_serves_says_so():
    app = load_app(str(DEMO))
    following = Following(app, None)
    with pytest.raises(ValueError, match=r"no model serves 'risk' yet, so nobody can be asked; make one: pelton train"):
        following.submit("risk", np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"no task 'rsk'; did you mean 'risk'"):
        following.submit("rsk", np.zeros((1, 3)))
    following.stop()
