"""The data that quantizers and BatchNorm statistics are fitted to: batches of inputs."""

import itertools
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from omc.errors import InputError, InputTypeError

_BATCH = 128
_MOST_BATCHES = 4096


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
    if not len_of(tensor) or not (np.size(values(tensor)) or _is_composite(tensor)):
        raise InputError(argument, "batches with examples", "an empty one")
    tensor = values(tensor)
    dtype = getattr(tensor, "dtype", None)
    if dtype is None or not tf.as_dtype(dtype).is_floating:
        return False
    if not tf.reduce_all(tf.math.is_finite(tensor)):
        tip = "leave such examples out."
        raise InputError(argument, "finite inputs", "NaN or Inf in a batch", tip)
    return not np.any(tensor)


def _is_composite(tensor):
    return isinstance(tensor, (tf.RaggedTensor, tf.SparseTensor))


def values(tensor):
    """The values of a tensor, also of a ragged or sparse one, a tensor or array."""
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
