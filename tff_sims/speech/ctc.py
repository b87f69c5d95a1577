"""Connectionist temporal classification: targets, loss, greedy decoding, word error rate."""

import jiwer
import numpy as np
import tensorflow as tf

SUBSAMPLING = 4
"""Frames of features for one frame of logits, as `models.conformer` has it."""


def frames_needed(labels):
    """Fewest frames of logits that can give some labels: one each, and a blank between equal ones.

    Args:
        labels: Sequence of labels, or of words.
    """
    return len(labels) + sum(a == b for a, b in zip(labels, labels[1:]))


def batch(features, labels, words):
    """Pads utterances to one length.

    Args:
        features: List of float32 arrays [frames, bands].
        labels: List of lists of ints from 0, one an utterance, none empty (the loss refuses that).
        words: Length that labels are padded to.

    Returns:
        (x, targets): float32 [utterances, most frames rounded up to a multiple of 4, bands] with
        zero frames as padding, and int32 [utterances, 1 + words]: the number of logit frames that
        are no padding, then the labels, then -1.
    """
    frames = [-(-len(utterance) // SUBSAMPLING) for utterance in features]
    x = np.zeros([len(features), SUBSAMPLING * max(frames), features[0].shape[1]], np.float32)
    targets = np.full([len(features), 1 + words], -1, np.int32)
    for row, (utterance, own) in enumerate(zip(features, labels)):
        x[row, : len(utterance)] = utterance
        targets[row, : 1 + len(own)] = [frames[row], *own]
    return x, targets


class CtcLoss(tf.keras.losses.Loss):
    """-log p(labels | logits), mean over the batch; the blank is the last logit (Graves, 2006).

    p sums the probabilities of all paths that give the labels when repeats are merged and blanks
    dropped. An utterance too short for its labels has loss 0.

    Args:
        name: Name of the loss.

    Input: targets as from `batch`, and float32 logits [batch, frames, labels + 1].
    """

    def __init__(self, name="ctc"):
        super().__init__(name=name)

    def call(self, y_true, y_pred):
        """Loss of each utterance, float32 [batch]."""
        frames, labels = y_true[:, 0], y_true[:, 1:]
        at = tf.where(labels >= 0)
        sparse = tf.SparseTensor(at, tf.gather_nd(labels, at), tf.shape(labels, tf.int64))
        # The native kernel: several times quicker than tf.nn.ctc_loss, which is a loop in a graph.
        return tf.compat.v1.nn.ctc_loss(
            sparse, y_pred, frames, time_major=False, ignore_longer_outputs_than_inputs=True
        )


def greedy(logits, frames):
    """Decodes: the best label of each frame, repeats merged, blanks dropped.

    Args:
        logits: float array [batch, frames, labels + 1], the blank last.
        frames: int array [batch], frames that are no padding.

    Returns:
        List of lists of ints.
    """
    blank, decoded = logits.shape[-1] - 1, []
    for path, length in zip(np.argmax(logits, axis=-1), frames):
        path = path[:length]
        starts = np.flatnonzero(np.diff(path, prepend=blank))
        decoded.append([int(label) for label in path[starts] if label != blank])
    return decoded


def word_error_rate(references, hypotheses):
    """(substitutions + deletions + insertions) / words of the references, over all utterances.

    Args:
        references: List of transcripts.
        hypotheses: List of what was recognised, in the same order.

    Returns:
        float; above 1 when much is inserted.
    """
    return float(jiwer.wer(references, hypotheses))
