"""What both Kerases share of models that are wrapped once they are built."""

import contextlib

import tensorflow as tf

from omc.errors import ModelError

MARK = "_omc_deferred"
"""Attribute of a model that waits: what wraps it."""

_NEEDS_VALUES = (
    AttributeError,  # tensor.numpy()
    NotImplementedError,
    tf.errors.OperatorNotAllowedInGraphError,
)


def is_deferred(model):
    """Whether a model is marked to be wrapped when it is built."""
    return MARK in vars(model)


@contextlib.contextmanager
def running_on_symbols(model):
    """Context in which a model's call runs without values, so that its layers build.

    Raises:
        ModelError: The call needs values. Within a graph its own error stays, for it is the user's.
    """
    eager = tf.executing_eagerly()
    try:
        yield
    except _NEEDS_VALUES as error:
        if not eager:
            raise
        raise ModelError(
            "model",
            "an unbuilt model that can run in a graph",
            f"{model.name!r}, whose call() raised {type(error).__name__}: {error}",
            "call the model on a batch first, then wrap it.",
        ) from error
