"""Which client is which: a fingerprint of its data."""

import tensorflow as tf

from omc.learning import models

MAX_CLIENT = 2**31 - 1
"""Largest client id, exclusive; ids are int32 and not negative."""


def fingerprint(batch):
    """Id of the client whose first batch this is, an int32 scalar.

    Args:
        batch: Structure of tensors.
    """
    parts = [tf.io.serialize_tensor(tensor) for tensor in tf.nest.flatten(batch)]
    hashed = tf.strings.to_hash_bucket_fast(tf.strings.join(parts), MAX_CLIENT)
    return tf.cast(hashed, tf.int32)


def id_of(dataset):
    """Id (int32 scalar) of the client that has this dataset, in TensorFlow ops.

    Ours: a `LearningProcess` knows no client names, and partial quantization needs something that
    tells clients apart and is the same in every run. Clients with equal data share an id, 0 those
    without any; a dataset that shuffles anew each time has no fixed one.

    Args:
        dataset: tf.data.Dataset of batches.
    """
    first = models.untuned(dataset).take(1)
    return first.reduce(tf.constant(0, tf.int32), lambda _, batch: fingerprint(batch))


def client_id(dataset):
    """Id (int) of the client that has this dataset, as in all processes here.

    Args:
        dataset: tf.data.Dataset of batches, in an order that does not change.
    """
    for batch in models.untuned(dataset):
        return int(fingerprint(batch))
    return 0
