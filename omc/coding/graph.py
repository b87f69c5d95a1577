"""The coder as TensorFlow ops, for graphs: what omc.coding does on arrays, on tensors.

Natively inside one op. Where the native ops may not be used, numpy does the work through
`tf.numpy_function`, which serves in this process and in no other: not in a SavedModel, and not in
TFF's worker unless it has the native ops. Errors are TensorFlow's (`DataLossError` for damaged
bytes), for a graph has no others.
"""

import numpy as np
import tensorflow as tf

from omc import kernels
from omc.coding import buffers, symbols
from omc.errors import CodingError


def encode(values, context=None):
    """As `omc.coding.encode`: uint8 tensor [None] of an int32 tensor."""
    given = _or_none(context)
    if kernels.usable():
        return kernels.encode_codes(values, given)
    return _in_python(lambda v, c: symbols.encode(v, _present(c)), [values, given], tf.uint8)


def decode(data, shape, context=None):
    """As `omc.coding.decode`: int32 tensor of a shape that is known (tuple of ints)."""
    given, count = _or_none(context), int(np.prod(shape, dtype=np.int64))
    if kernels.usable():
        return kernels.decode_codes(data, given, shape, count)
    values = _in_python(lambda d, c: symbols.decode(d, _present(c), shape), [data, given], tf.int32)
    return tf.reshape(values, shape)


def try_decode(data, shape, context=None):
    """As `decode`, for data that may be anything: (int32 tensor, bool scalar whether it is right).

    What cannot be decoded gives zeros.
    """
    given, count = _or_none(context), int(np.prod(shape, dtype=np.int64))
    if kernels.usable():
        return kernels.try_decode_codes(data, given, shape, count)

    def run(array, contexts):
        with kernels.pure():
            try:
                return symbols.decode(array, _present(contexts), shape), True
            except CodingError:
                return np.zeros(shape, np.int32), False

    values, right = tf.numpy_function(run, [data, given], (tf.int32, tf.bool), stateful=False)
    return tf.reshape(values, shape), tf.ensure_shape(right, [])


def encode_buffer(buffer, codec, given=None):
    """As `omc.coding.encode_buffer`: uint8 tensor [None] of a uint8 tensor."""
    given = _or_none(given)
    if kernels.usable():
        return kernels.encode_buffer(buffer, given, codec)
    return _in_python(
        lambda b, g: buffers.encode_buffer(b, codec, _present(g)), [buffer, given], tf.uint8
    )


def decode_buffer(data, codec, given=None):
    """As `omc.coding.decode_buffer`: uint8 tensor [codec.nbytes] of a uint8 tensor."""
    given = _or_none(given)
    if kernels.usable():
        return kernels.decode_buffer(data, given, codec)
    buffer = _in_python(
        lambda d, g: buffers.decode_buffer(d, codec, _present(g)), [data, given], tf.uint8
    )
    return tf.ensure_shape(buffer, [codec.nbytes])


def _or_none(tensor):
    return tf.zeros([0], tf.uint8) if tensor is None else tensor


def _present(array):
    return array if array.size else None


def _in_python(function, tensors, dtype):
    def run(*arrays):
        with kernels.pure():
            result = function(*arrays)
        return np.frombuffer(result, np.uint8) if isinstance(result, bytes) else result

    result = tf.numpy_function(run, tensors, dtype, stateful=False)
    return tf.ensure_shape(result, [None]) if dtype == tf.uint8 else result
