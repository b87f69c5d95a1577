"""Speech recognition by CTC over federated clients: what `speech` and `recordings` share."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import models
from tff_sims.speech import splits, text
from tff_sims.speech.ctc import CtcLoss, batch, greedy, word_error_rate
from tff_sims.tasks.base import Task
from tff_sims.tasks.normalized import NormalizedSgd

_BATCH = 8
_TEST_BATCH = 80


@dataclasses.dataclass(frozen=True)
class Recognition(Task):
    """A task of speech recognition by CTC.

    Attributes:
        name, num_clients, learning_rate, largest_client: As in `Task`.
        utterances: Function from a client to its (features, transcripts): a list of float32
            arrays [frames, bands] and a list of str.
        test: Held-out (features, transcripts), of no client.
        vocabulary: Tuple of words.
        words: Most words of a transcript.
        build: No-arg function that builds the Keras model anew: features to logits of the words and
            the blank, at a quarter of the frames.
        epochs: Passes of a client over its data in a round.
    """

    name: str
    num_clients: int
    utterances: Callable
    test: tuple
    vocabulary: tuple
    words: int
    build: Callable
    learning_rate: float = 0.002
    epochs: int = 1
    largest_client: int = 0

    def client_dataset(self, client):
        """As in `Task`. Batches hold utterances of like length, and are as long as the longest."""
        features, transcripts = self.utterances(client)
        order = np.argsort([len(utterance) for utterance in features], kind="stable")
        chunks = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
        full = len(order) // _BATCH  # One that is not stays last: the others remain whole so.
        order = np.concatenate([*(chunks[i] for i in _spread(full)), *chunks[full:]])
        x, targets = self._batch([features[i] for i in order], [transcripts[i] for i in order])
        data = tf.data.Dataset.from_tensor_slices((x, targets)).batch(_BATCH)
        return data.map(_trim).repeat(self.epochs)

    def build_model(self):
        """As in `Task`."""
        return self.build()

    def model_fn(self):
        """As in `Task`."""
        bands = self.test[0][0].shape[1]
        spec = (
            tf.TensorSpec([None, None, bands], tf.float32),
            tf.TensorSpec([None, 1 + self.words], tf.int32),
        )
        return tff.learning.models.from_keras_model(
            self.build_model(), input_spec=spec, loss=CtcLoss()
        )

    def evaluate(self, model):
        """Word error rate on the test speakers, as "wer"; "accuracy" is 1 - wer."""
        features, transcripts = self.test
        order = np.argsort([len(utterance) for utterance in features], kind="stable")
        heard = {}
        for start in range(0, len(order), _TEST_BATCH):
            chunk = order[start : start + _TEST_BATCH]
            x, targets = self._batch(*([part[i] for i in chunk] for part in self.test))
            for i, labels in zip(chunk, greedy(model.predict_on_batch(x), targets[:, 0])):
                heard[i] = " ".join(self.vocabulary[label] for label in labels)
        wer = word_error_rate(transcripts, [heard[i] for i in range(len(transcripts))])
        return {"accuracy": 1.0 - wer, "wer": wer}

    def client_optimizer(self, rate):
        """SGD with normalised gradients: plain SGD stays for long where CTC hears nothing."""
        return NormalizedSgd(rate)

    def _batch(self, features, transcripts):
        labels = [text.labels(transcript, self.vocabulary) for transcript in transcripts]
        return batch(features, labels, self.words)


def _spread(count):
    """0 to count - 1 in an order that is not by size, the same every time."""
    return np.random.default_rng(count).permutation(count)


def _trim(x, targets):
    return x[:, : 4 * tf.reduce_max(targets[:, 0])], targets


def recognition(name, corpus, vocabulary, split=None, clients=None, seed=0, size="tiny"):
    """The task of recognising a corpus with a Conformer.

    Args:
        name: Name of the task.
        corpus: `tff_sims.speech.corpus.Corpus`.
        vocabulary: Tuple of the words that occur.
        split: One of `splits.SPLITS`; None for by speaker.
        clients: Number of clients; None for the training speakers.
        seed: Seed of an iid split and of the initial weights.
        size: Key of `models.CONFORMERS`.

    Returns:
        `Recognition`.

    Raises:
        InputError: As `splits.split`.
    """
    parts = splits.split(corpus, split or splits.SPLITS[0], clients, seed)

    def pick(part):
        return [corpus.features[i] for i in part], [corpus.transcripts[i] for i in part]

    return Recognition(
        name=name,
        num_clients=len(parts),
        utterances=lambda client: pick(parts[client]),
        test=pick(np.flatnonzero(corpus.test)),
        vocabulary=vocabulary,
        words=max(len(transcript.split()) for transcript in corpus.transcripts),
        build=functools.partial(
            models.conformer,
            len(vocabulary) + 1,
            features=corpus.features[0].shape[1],
            seed=seed,
            **models.CONFORMERS[size],
        ),
        largest_client=int(
            np.argmax([sum(len(corpus.features[i]) for i in part) for part in parts])
        ),
    )
