"""The data that quantizers and BatchNorm statistics are fitted to: batches of inputs, tried out."""

import itertools
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from omc.errors import InputError, InputTypeError
from omc.keras.batchnorm_sets import still, unchanged
from omc.keras.readings import eagerly

_BATCH = 128
_MOST_BATCHES = 4096
_MOST_TEXT = 400  # Characters of what Keras says.


def checked_batches(data, argument, layers=()):
    """Batches of inputs, to be gone through more than once.

    Args:
        data: As `calibration` of `omc.nest`.
        argument: Its name.
        layers: BatchNormalization layers whose statistics they are to be estimated from.

    Returns:
        List of what a model takes for a batch.

    Raises:
        InputTypeError: It is neither an array nor batches.
        InputError: No batches or too many, one without examples, NaN or Inf, nothing but zeros, or
            one example where BatchNorm needs two.
    """
    if isinstance(data, (np.ndarray, tf.Tensor, tf.RaggedTensor)):
        count = 0 if not isinstance(data, tf.RaggedTensor) and not data.ndim else len_of(data)
        found = [data[i : i + _BATCH] for i in range(0, count, _BATCH)]
    elif isinstance(data, tf.SparseTensor):
        found = [data]
    elif isinstance(data, (str, dict)) or not isinstance(data, Iterable):
        tip = "a batch of several inputs is a list or dict of arrays, in a list of batches."
        raise InputTypeError(argument, "an array or batches of inputs", type(data).__name__, tip)
    else:  # In a list, for a generator could not be gone through twice.
        found = list(itertools.islice(data, _MOST_BATCHES + 1))
        found = [batch[0] if isinstance(batch, tuple) else batch for batch in found]
    if not 0 < len(found) <= _MOST_BATCHES:
        got = f"more than {_MOST_BATCHES}" if found else "none"
        tip = "take a part of it: dataset.take(8)." if found else ""
        raise InputError(argument, f"1 to {_MOST_BATCHES} batches of inputs", got, tip)
    zeros = [_all_zeros(tensor, argument) for batch in found for tensor in tf.nest.flatten(batch)]
    if zeros and all(zeros):
        tip = "take examples as the model will meet them."
        raise InputError(argument, "inputs that are not all 0", "zeros alone", tip)
    # Of one example each feature of a dense layer has variance 0.
    flat = [layer for layer in layers if getattr(layer.input_spec, "ndim", None) == 2]
    if flat and max(map(examples, found)) < 2:
        expected = f"two examples or more in a batch, for the statistics of {flat[0].name!r}"
        raise InputError(argument, expected, "one", "a few hundred are better.")
    return found


def _all_zeros(tensor, argument):
    """Whether floating values are all 0; raises for none, NaN and Inf."""
    if not len_of(tensor) or not (np.size(_values(tensor)) or _is_composite(tensor)):
        raise InputError(argument, "batches with examples", "an empty one")
    tensor = _values(tensor)
    dtype = getattr(tensor, "dtype", None)
    if dtype is None or not tf.as_dtype(dtype).is_floating:
        return False
    if not tf.reduce_all(tf.math.is_finite(tensor)):
        raise InputError(argument, "finite inputs", "NaN or Inf in a batch")
    return not np.any(tensor)


def _is_composite(tensor):
    return isinstance(tensor, (tf.RaggedTensor, tf.SparseTensor))


def _values(tensor):
    """The values of a tensor, also of a ragged or sparse one."""
    if isinstance(tensor, tf.RaggedTensor):
        return tensor.flat_values
    return tensor.values if isinstance(tensor, tf.SparseTensor) else tensor


def examples(batch):
    """Number of examples of a batch, int."""
    return len_of(tf.nest.flatten(batch)[0])


def len_of(tensor):
    """Length of the first axis of a tensor or array, also of a ragged or sparse one, int."""
    if isinstance(tensor, tf.RaggedTensor):
        return int(tensor.nrows())
    if isinstance(tensor, tf.SparseTensor):
        return int(tensor.dense_shape[0])
    return len(tensor) if np.ndim(tensor) else 1


def try_out(model, batches, argument, layers=()):
    """Calls a model as calibration does, with nothing changed by it.

    Args:
        model: A built `tf.keras.Model`.
        batches: List of batches, or None.
        argument: Name of what they were given for.
        layers: The model's BatchNormalization layers; where there are any, it is called as in
            training.

    Raises:
        InputError: The model does not take a batch, or gives NaN or Inf.
    """
    for batch in batches or ():
        try:
            with eagerly(), still(layers), unchanged(layers):
                outputs = model(batch, training=True if layers else None)
        except Exception as error:  # Whatever Keras or the model makes of it.
            tip = "a batch is what model(batch) takes; labels go into pairs (x, y) of each batch."
            got = _message(error)
            raise InputError(argument, f"batches that {model.name!r} takes", got, tip) from error
        for tensor in map(_values, tf.nest.flatten(outputs)):
            floating = tf.is_tensor(tensor) and tensor.dtype.is_floating
            if floating and not tf.reduce_all(tf.math.is_finite(tensor)):
                expected = f"batches of which {model.name!r} makes finite outputs"
                raise InputError(argument, expected, "NaN or Inf in an output")


def _message(error):
    """What an error of Keras says: which layer it was, and what was wrong, in one line."""
    text = str(error).split("Call arguments received")[0]
    return " ".join(text.split())[:_MOST_TEXT]
