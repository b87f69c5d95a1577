"""The normalisation of convolutional models, by name."""

import tensorflow as tf

NORMS = ("group", "batch")


def normalization(norm, groups=8):
    """A fresh normalisation layer.

    Args:
        norm: "group" for GroupNorm (arXiv 1803.08494), which depends on the example alone and so
            suits clients whose data differ; "batch" for BatchNorm, whose moving statistics are
            variables that a federated process has to carry.
        groups: Groups of channels; divides their number.

    Returns:
        `tf.keras.layers.Layer`.

    Raises:
        ValueError: Unknown `norm`.
    """
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of {NORMS}, got {norm!r}.")
    if norm == "batch":
        return tf.keras.layers.BatchNormalization()
    return tf.keras.layers.GroupNormalization(groups)
