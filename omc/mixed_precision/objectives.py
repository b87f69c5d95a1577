"""The loss that sensitivities are about, and the batches that it is measured on."""

import contextlib
from collections.abc import Iterable

import tensorflow as tf

from omc.errors import InputError, InputTypeError, OmcError
from omc.keras.adapters import training


def mean_loss(value, batches):
    """Mean loss over all examples of batches, a float.

    Args:
        value: What `loss_function` returned.
        batches: What `checked_batches` returned.

    Raises:
        InputError: It is NaN or Inf.
    """
    sizes = [examples_of(batch) for batch in batches]
    with typed():
        total = sum(size * float(value(*batch)) for batch, size in zip(batches, sizes))
    if not abs(total) < float("inf"):
        tip = "smaller inputs, or a float32 loss from logits."
        got = f"a loss of {total / sum(sizes)}"
        raise InputError("data", "batches with a finite loss", got, tip)
    return total / sum(sizes)


def examples_of(batch):
    """Number of a batch's examples, int."""
    return int(tf.shape(tf.nest.flatten(batch[0])[0])[0])


def loss_function(model, loss):
    """(x, y, sample_weight=None) -> scalar loss, of the model as it runs in `predict`.

    Args:
        model: A built `tf.keras.Model`.
        loss: As for `omc.mixed_precision.traces`.

    Raises:
        InputError: No loss.
    """
    if loss is None:
        if not training.has_loss(model):
            tip = "model.compile(optimizer, loss) first, or pass loss."
            raise InputError(
                "loss", "a loss, to measure what widths cost", "none, nor a compiled model", tip
            )

        def compiled(x, y, weight=None):
            return model.compute_loss(x, y, model(x, training=False), weight)

        return compiled
    try:
        function = tf.keras.losses.get(loss)
    except (ValueError, TypeError) as error:
        expected = "a Keras loss, its name, or a function (y, prediction) -> losses"
        raise InputError("loss", expected, loss) from error

    def own(x, y, weight=None):
        prediction = model(x, training=False)
        if isinstance(function, tf.keras.losses.Loss):
            return tf.reduce_mean(function(y, prediction, sample_weight=weight))
        losses = function(y, prediction)
        return tf.reduce_mean(losses if weight is None else losses * tf.cast(weight, losses.dtype))

    return own


def checked_batches(data):
    """List of batches, each a tuple of tensors or of structures of them.

    Raises:
        InputError: No batches or endless ones.
        InputTypeError: `data` is no iterable of batches (x, y) or (x, y, sample_weight).
    """
    if data is None:
        tip = "data=[(x, y)]; or sensitivity='error', which needs none."
        raise InputError("data", "batches (x, y), to measure what widths cost", "none", tip)
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError("data", "a few batches", "an endless dataset", "data.take(8), say.")
    batches = list(data) if isinstance(data, Iterable) else [data]
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            got = type(batch).__name__
            tip = "for arrays: [(x, y)], or a dataset of them in batches."
            raise InputTypeError("data", "an iterable of batches (x, y)", got, tip)
    if not batches:
        raise InputError("data", "at least one batch", "none")
    with typed():
        tensors = [tf.nest.map_structure(_tensor, tuple(batch)) for batch in batches]
    for inputs, *_ in tensors:
        first = (tf.nest.flatten(inputs) or [None])[0]
        if first is None or not first.shape.rank:
            got = "no x" if first is None else "a scalar x"
            raise InputError(
                "data", "batches (x, y) of examples", got, "the first axis of x counts them."
            )
    if not sum(map(examples_of, tensors)):
        raise InputError("data", "at least one example", "empty batches")
    return tensors


@contextlib.contextmanager
def typed():
    """Context in which what Keras or TensorFlow says of a batch becomes our error, and names it.

    Raises:
        InputError: The model, or its loss, does not take the data.
    """
    try:
        yield
    except OmcError:
        raise
    except (ValueError, TypeError, tf.errors.OpError) as error:
        said = (str(getattr(error, "message", "") or error).strip().splitlines() or ["an error"])[0]
        expected = "batches (x, y) that the model and its loss take"
        tip = "model.evaluate(x, y) tells more, as does the error before this one."
        raise InputError("data", expected, said[:300], tip) from error


def _tensor(value):
    return value if value is None else tf.convert_to_tensor(value)  # As fit() hands them on.
