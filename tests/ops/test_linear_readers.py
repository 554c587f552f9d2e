"""The readers beside a network serve what scikit-learn fitted, and count as much as held-back messages say."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from models.text.inputs import TextInputs
from models.text.linear import LinearReaders
from ops.training.linear_readers import Shares, choose_shares, fit_readers

ROWS, WIDTH, MESSAGES = 60, 6, 90
CHANCE = np.random.default_rng(0)
CLASSES = np.arange(MESSAGES) % 3


def table(most):
    """Draw distinct grams, mostly of those that go with a message's intent; 0 behind the end."""
    made = np.zeros((MESSAGES, most), np.int64)
    for message, intent in enumerate(CLASSES):
        own = CHANCE.integers(1, ROWS // 3, most) * 3 + np.where(CHANCE.random(most) < 0.6, intent, 0)
        own = np.unique(own)
        made[message, : len(own)] = own
    return made


SENTENCES = (CHANCE.normal(0, 1, (MESSAGES, WIDTH)) + np.eye(WIDTH)[CLASSES]).astype(np.float32)
INPUTS = TextInputs(table(8), table(12), np.ones((MESSAGES, 1), np.int64), SENTENCES)


def dense(rows):
    found = np.zeros((MESSAGES, ROWS))
    for message, own in enumerate(rows):
        found[message, own[own > 0]] = 1
    return found


def by_scikit_learn():
    holders = (dense(INPUTS.words) + dense(INPUTS.letters)).sum(axis=0)
    rare = np.log((1 + MESSAGES) / (1 + np.minimum(holders, MESSAGES))) + 1
    blocks = [each * rare / np.linalg.norm(each * rare, axis=1, keepdims=True) for each in
              (dense(INPUTS.words), dense(INPUTS.letters))]  # fmt: skip
    both = blocks[0] + blocks[1]
    svm = LinearSVC(random_state=0).fit(both, CLASSES).decision_function(both)
    logistic = LogisticRegression(C=20, max_iter=300).fit(SENTENCES, CLASSES).decision_function(SENTENCES)
    return svm, logistic


def test_they_serve_what_was_fitted():
    fitted, network = fit_readers(INPUTS, CLASSES, 3, ROWS), CHANCE.normal(0, 1, (MESSAGES, 3))
    svm, logistic = by_scikit_learn()
    found = fitted.readers(Shares(0.5, 2.0, 3.0)).logits(INPUTS, network)
    np.testing.assert_allclose(found, 0.5 * network + 2 * svm + 3 * logistic, atol=2e-2)
    alone = fitted.readers(Shares(1, 0, 0)).logits(INPUTS, network)
    np.testing.assert_allclose(alone, network, atol=1e-12)


def test_they_come_back_from_a_bundle():
    readers, network = fit_readers(INPUTS, CLASSES, 3, ROWS).readers(Shares(0.5, 2.0, 3.0)), np.zeros((MESSAGES, 3))
    back = LinearReaders.from_part(readers.to_part())
    np.testing.assert_allclose(back.logits(INPUTS, network), readers.logits(INPUTS, network), atol=1e-2)


def test_messages_are_read_by_themselves():
    readers, network = fit_readers(INPUTS, CLASSES, 3, ROWS).readers(Shares(1, 1, 1)), np.zeros((MESSAGES, 3))
    one = readers.logits(INPUTS.rows(np.array([7])), network[:1])
    np.testing.assert_allclose(one[0], readers.logits(INPUTS, network)[7], atol=1e-9)


def test_a_reader_that_knows_nothing_counts_nothing():
    fitted = fit_readers(INPUTS, CHANCE.permutation(CLASSES), 3, ROWS)  # learned wrong labels
    network = 4.0 * np.eye(3)[CLASSES] + CHANCE.normal(0, 1, (MESSAGES, 3))
    shares = choose_shares(fitted, INPUTS, network, CLASSES)
    assert shares.network > 0.3
    assert max(shares.grams, shares.sentences) < 0.2 * shares.network


def test_two_intents_and_one_that_was_not_learned_have_a_column_each():
    network = np.zeros((MESSAGES, 3))
    fitted = fit_readers(INPUTS, np.where(CLASSES == 1, -2, CLASSES), 3, ROWS)
    found = fitted.readers(Shares(0, 1, 1)).logits(INPUTS, network)
    assert found.shape == (MESSAGES, 3)
    told = CLASSES != 1
    assert (found[told][:, [0, 2]].argmax(axis=1) * 2 == CLASSES[told]).mean() > 0.9


def test_a_message_without_grams_has_the_bias_and_its_sentence():
    readers = fit_readers(INPUTS, CLASSES, 3, ROWS).readers(Shares(0, 1, 1))
    none = np.zeros((MESSAGES, 1), np.int64)
    found = readers.logits(INPUTS._replace(words=none, letters=none), np.zeros((MESSAGES, 3)))
    np.testing.assert_allclose(found, SENTENCES @ readers.sentences + readers.bias, atol=1e-5)
