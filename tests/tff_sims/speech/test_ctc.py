"""CTC against an enumeration of all paths; decoding and word error rate by hand."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tff_sims.speech.ctc import CtcLoss, batch, greedy, word_error_rate


def merged(path, blank):
    """Labels of a path: repeats merged, blanks dropped."""
    return [label for label, _ in itertools.groupby(path) if label != blank]


def by_enumeration(logits, labels):
    """-log of the sum over every path of frames that gives the labels."""
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    frames, classes = logits.shape
    total = 0.0
    for path in itertools.product(range(classes), repeat=frames):
        if merged(path, classes - 1) == labels:
            total += np.prod(chance[np.arange(frames), path])
    return -np.log(total)


CASES = [[0, 1], [1, 1], [2], [0], [0, 1, 0]]


@pytest.fixture
def utterances():
    rng = np.random.default_rng(0)
    frames = [4, 5, 3, 5, 5]
    logits = [rng.normal(size=(n, 4)).astype(np.float32) for n in frames]
    features = [np.ones([4 * n - n % 3, 2], np.float32) for n in frames]
    return logits, features


def padded(logits, frames, filling):
    result = np.full([len(logits), frames, 4], filling, np.float32)
    for row, own in zip(result, logits):
        row[: len(own)] = own
    return result


def test_loss_is_the_sum_over_all_paths(utterances):
    logits, features = utterances
    _, targets = batch(features, CASES, 3)
    found = CtcLoss().call(tf.constant(targets), padded(logits, 5, 0.0))
    expected = [by_enumeration(*pair) for pair in zip(logits, CASES)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mean = CtcLoss()(tf.constant(targets), padded(logits, 5, 0.0))
    np.testing.assert_allclose(mean, np.mean(expected), rtol=1e-5)


def test_padding_changes_neither_loss_nor_gradient_nor_words(utterances):
    logits, features = utterances
    results = []
    for frames, words, filling in ((5, 3, 0.0), (9, 6, 50.0)):
        _, targets = batch(features, CASES, words)
        x = tf.constant(padded(logits, frames, filling))
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = CtcLoss()(tf.constant(targets), x)
        gradient = tape.gradient(loss, x).numpy()
        for row, own in zip(gradient, logits):
            assert not row[len(own) :].any()
        results.append((loss, gradient[:, :5], greedy(x.numpy(), targets[:, 0])))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-6)
    assert results[0][2] == results[1][2]


def test_an_utterance_too_short_for_its_labels_is_left_out():
    _, targets = batch([np.ones([4, 2], np.float32)], [[0, 0, 0]], 3)
    assert CtcLoss()(tf.constant(targets), tf.zeros([1, 1, 4])) == 0.0


def test_batches_are_padded_with_zero_frames():
    features = [np.ones([5, 2], np.float32), np.ones([9, 2], np.float32)]
    x, targets = batch(features, [[3], [0, 1]], words=3)
    assert x.shape == (2, 12, 2) and x[0].any(axis=1).sum() == 5 and x[1].any(axis=1).sum() == 9
    np.testing.assert_array_equal(targets, [[2, 3, -1, -1], [3, 0, 1, -1]])


@pytest.mark.parametrize(
    "path, labels",
    [([0, 0, 3, 0, 1, 1], [0, 0, 1]), ([3, 3, 3, 3, 3, 3], []), ([2, 1, 2, 2, 3, 3], [2, 1, 2])],
)
def test_greedy_merges_repeats_and_drops_blanks(path, labels):
    logits = np.eye(4)[path][np.newaxis]
    assert greedy(logits, [6]) == [labels] == [merged(path, 3)]
    assert greedy(np.concatenate([logits, np.eye(4)[[[1, 2, 1]]]], axis=1), [6]) == [labels]


@pytest.mark.parametrize(
    "references, hypotheses, rate",
    [
        (["go left", "stop"], ["go left", "stop"], 0),
        (["go left two"], ["go right two"], 1 / 3),  # one substituted
        (["go left two", "yes please"], ["go two", ""], 3 / 5),  # three deleted
        (["one two"], ["one nine two zero"], 2 / 2),  # two inserted
        (["one"], ["two three four"], 3 / 1),
    ],
)
def test_word_error_rate_by_hand(references, hypotheses, rate):
    assert word_error_rate(references, hypotheses) == pytest.approx(rate)
