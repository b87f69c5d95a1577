"""What a task gives to training on one machine, without a federation."""

import dataclasses
from collections.abc import Callable
from typing import Optional

import numpy as np
import tensorflow as tf

from omc.errors import InputError
from tff_sims import own_pictures

_HELD_OUT = 10  # One client in so many is held out, where choices are to be made.
_STREAM = 3  # Of random numbers: tasks have their own.


@dataclasses.dataclass(frozen=True)
class Subject:
    """How a task is learned centrally.

    Attributes:
        split: The task's split; what is held out of the training data is some of its clients.
        build: Function from the `Classification` to a fresh model, with BatchNorm where it has
            norms.
        epochs, batch_size: Defaults.
        learning_rate: Default for method fp32.
        tuning_rate: Default for method nested, which starts from trained weights.
        prepare: Function from a batch of features to what the model takes, in TensorFlow; or None.
        augment: Function (features, numpy Generator) -> features of a batch; or None.
    """

    split: str
    build: Callable
    epochs: int
    batch_size: int
    learning_rate: float
    tuning_rate: float
    prepare: Optional[Callable] = None
    augment: Optional[Callable] = None


def _with_batchnorm(task):
    return task.build(norm="batch")


SUBJECTS = {
    "digits": Subject("iid", lambda task: task.build(), 20, 32, 0.05, 0.01),
    "keywords": Subject("speaker", _with_batchnorm, 20, 32, 0.05, 0.1),
    "pictures": Subject(
        "iid", _with_batchnorm, 10, 128, 0.1, 0.05, own_pictures.normalize, own_pictures.augment
    ),
}
"""Task's name -> `Subject`."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Training data in memory, and a task that measures on what was held out.

    Attributes:
        subject: `Subject`.
        task: `Classification`; its `evaluate` measures on the test or validation part.
        train: (features, labels).
    """

    subject: Subject
    task: object
    train: tuple

    def steps(self, batch_size):
        """Batches of an epoch, int; what is left over is left out."""
        return len(self.train[1]) // batch_size

    def epoch(self, number, seed, batch_size, augment):
        """Batches of one epoch, a tf.data.Dataset; the same for the same arguments.

        Args:
            number: Epoch, from 0; each has its own order and augmentation.
            seed: Seed of the run.
            batch_size: Examples of a batch.
            augment: Whether to augment, where the task knows how.
        """
        features, labels = self.train
        rng = np.random.default_rng([seed, _STREAM, number])
        order = rng.permutation(len(labels))[: self.steps(batch_size) * batch_size]

        def batches():
            for chosen in order.reshape([-1, batch_size]):
                batch = features[chosen]
                if augment and self.subject.augment:
                    batch = self.subject.augment(batch, rng)
                yield batch, labels[chosen]

        shapes = [(batch_size, *array.shape[1:]) for array in self.train]
        signature = tuple(
            tf.TensorSpec(shape, array.dtype) for shape, array in zip(shapes, self.train)
        )
        data = tf.data.Dataset.from_generator(batches, output_signature=signature)
        # Where Keras does not know the end, it begins a step beyond, which counts for schedules.
        data = data.apply(tf.data.experimental.assert_cardinality(self.steps(batch_size)))
        options = tf.data.Options()
        options.autotune.enabled = False  # Its thread sleeps up to a minute, and is waited for.
        return data.map(lambda x, y: (self.prepared(x), y)).prefetch(2).with_options(options)

    def prepared(self, features):
        """Features as the model takes them."""
        return self.subject.prepare(features) if self.subject.prepare else features

    def sample(self, count, seed):
        """Inputs of some training examples, as they are, for calibration; a float32 array."""
        return self.labelled(count, seed)[0]

    def labelled(self, count, seed):
        """(inputs, labels) of some training examples, as they are: arrays."""
        chosen = np.random.default_rng([seed, _STREAM]).permutation(len(self.train[1]))[:count]
        chosen = np.sort(chosen)
        return np.asarray(self.prepared(self.train[0][chosen])), self.train[1][chosen]


def load(task, evaluate, train_examples=None, seed=0):
    """The data of a task.

    Args:
        task: `Classification` with its `Subject`'s split.
        evaluate: "test" for the task's own test data; "validation" to hold out a tenth of the
            clients and measure on them, for choices that must not see the test data.
        train_examples: Examples to train on, drawn by the seed; None for all.
        seed: Seed.

    Returns:
        `Data`.

    Raises:
        InputError: More `train_examples` than there are.
    """
    cut = task.num_clients
    if evaluate == "validation":
        cut -= max(1, task.num_clients // _HELD_OUT)
        task = dataclasses.replace(task, test=task.training_data(range(cut, task.num_clients)))
    train = task.training_data(range(cut))
    count = len(train[1])
    if train_examples is not None:
        if train_examples > count:
            raise InputError("train_examples", f"at most {count}", train_examples)
        chosen = np.random.default_rng([seed, _STREAM, 1]).permutation(count)[:train_examples]
        train = tuple(array[chosen] for array in train)
    return Data(SUBJECTS[task.name], task, train)
