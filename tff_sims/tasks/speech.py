"""Sentences of spoken words, recognised by a Conformer with CTC; a speaker is a client."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import models
from tff_sims.speech import corpus, text
from tff_sims.speech.ctc import CtcLoss, batch, greedy, word_error_rate
from tff_sims.speech.features import MEL_BANDS
from tff_sims.speech.rooms import DOMAINS
from tff_sims.speech.splits import SPLITS
from tff_sims.speech.splits import split as share
from tff_sims.tasks.base import Task
from tff_sims.tasks.clipping import Clipped

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
        build: No-arg function that builds the Keras model anew: features to logits of the words and
            the blank, at a quarter of the frames.
        epochs: Passes of a client over its data in a round.
    """

    name: str
    num_clients: int
    utterances: Callable
    test: tuple
    vocabulary: tuple
    build: Callable
    learning_rate: float
    epochs: int = 1
    largest_client: int = 0

    def client_dataset(self, client):
        """As in `Task`. Batches hold utterances of like length, and are as long as the longest."""
        features, transcripts = self.utterances(client)
        order = np.argsort([len(utterance) for utterance in features], kind="stable")
        chunks = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
        order = np.concatenate([chunks[i] for i in _spread(len(chunks))])
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
            tf.TensorSpec([None, 1 + text.MAX_WORDS], tf.int32),
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
        """SGD with each variable's gradient clipped to norm 1; CTC's are huge at first."""
        return Clipped(super().client_optimizer(rate), 1.0)

    def _batch(self, features, transcripts):
        labels = [text.labels(transcript, self.vocabulary) for transcript in transcripts]
        return batch(features, labels, text.MAX_WORDS)


def _spread(count):
    """0 to count - 1 in an order that is not by size, the same every time."""
    return np.random.default_rng(count).permutation(count)


def _trim(x, targets):
    return x[:, : 4 * tf.reduce_max(targets[:, 0])], targets


def speech(seed=0, split=None, alpha=0.5, clients=None, domain=None):
    """Sentences of 32 words, by 100 speakers; tested on 640 sentences of 40 others.

    The corpus is the same for every seed.

    Args:
        seed: Seed of the split and of the initial weights.
        split: "speaker" (default: a speaker is a client) or "iid" (clients of the same size, of all
            speakers' utterances).
        alpha: Not used: how unlike clients are is how unlike the speakers are.
        clients: Number of clients; 100 by default, and at most.
        domain: "quiet" (default) or "noisy".

    Returns:
        `Recognition`.

    Raises:
        InputError: Unknown `split` or `domain`, or more clients than speakers.
    """
    del alpha
    specification = corpus.Specification(kind="sentences", domain=domain or DOMAINS[0])
    made = corpus.load(specification)
    parts = share(made, split or SPLITS[0], clients, seed)

    def pick(part):
        return [made.features[i] for i in part], [made.transcripts[i] for i in part]

    return Recognition(
        name="speech",
        num_clients=len(parts),
        utterances=lambda client: pick(parts[client]),
        test=pick(np.flatnonzero(made.test)),
        vocabulary=text.VOCABULARY,
        build=functools.partial(
            models.conformer,
            len(text.VOCABULARY) + 1,
            features=MEL_BANDS,
            seed=seed,
            **models.CONFORMERS["tiny"],
        ),
        learning_rate=0.1,
    )


speech.splits, speech.domains = SPLITS, DOMAINS
