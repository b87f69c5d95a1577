"""encode() and decode(): integers of any shape <-> coded bytes, natively where that may be."""

import contextlib
import math

import numpy as np
import tensorflow as tf

from omc import checks, kernels
from omc.coding import stream
from omc.errors import InputError, InputTypeError

LIMIT = 1 << 26
"""Symbols that `decode` accepts unless it is told otherwise: 256 MB of int32."""


def encode(symbols, context=None):
    """Codes integers without loss, in about as many bits as they carry.

    Small ones, ones that are mostly the same, and ones that their context tells much about come
    out short. The same symbols give the same bytes on every machine.

    Args:
        symbols: Array of integers, -2^31 .. 2^31 - 1; codes, or differences of codes.
        context: Array of integers 0 .. 255 of the same shape: what the decoder knows too and what
            makes a symbol more or less likely, such as the size of the weight that it belongs to.
            Each context gets a model of its own, so a few dozen that matter serve best.

    Returns:
        bytes; see docs/coding.md.

    Raises:
        InputTypeError: Not integers.
        InputError: Outside of those ranges, a context of another shape, or over 8 dimensions.
    """
    symbols, context = as_symbols(symbols), as_context(context)
    if context is not None and context.shape != symbols.shape:
        raise InputError("context", f"the shape of the symbols, {symbols.shape}", context.shape)
    if kernels.usable():
        given = np.empty(0, np.uint8) if context is None else context
        return kernels.encode_codes(symbols, given).numpy().tobytes()
    return stream.encode(symbols, context)


def decode(data, context=None, shape=None, limit=LIMIT):
    """Restores the integers of `encode`.

    Args:
        data: bytes or uint8 array.
        context: As for `encode`, and the same.
        shape: Shape that the symbols must have; None for the one that the bytes say.
        limit: Most symbols, where there is no `shape`. Whatever the bytes say, no more is ever
            allocated than some ten bytes for each, and what `data` takes.

    Returns:
        int32 array.

    Raises:
        CodingError: The bytes are damaged, newer, of another shape, of too many symbols, or were
            coded given another context.
        InputTypeError: `data` is no bytes, `context` no integers, `shape` or `limit` none either.
        InputError: `context`, `shape` or `limit` outside of its range.
    """
    data, context = as_data(data), as_context(context)
    limit = checks.integer("limit", limit, "a count of symbols, an int from 0", 0, 2**62)
    shape = None if shape is None else _as_shape(shape)
    head, contexts = stream.opened(data, context, limit if shape is None else None, shape)
    if not kernels.usable():
        return stream.decode(data, head, contexts)
    given = np.empty(0, np.uint8) if contexts is None else contexts
    with native_errors():
        octets = np.frombuffer(data, np.uint8)
        limit = limit if shape is None else int(np.prod(shape, dtype=np.int64))
        return kernels.decode_codes(octets, given, head.shape, limit).numpy()


@contextlib.contextmanager
def native_errors():
    """Context in which what a native op finds wrong with a stream is a CodingError."""
    try:
        yield
    except tf.errors.DataLossError as error:
        what = error.message.partition("the coded stream is ")[2].partition(" [Op:")[0]
        raise stream.damaged(what) from error


def as_symbols(symbols):
    """int32 array of what a user gave as symbols."""
    array = _as_array(symbols, "symbols")
    if array.ndim > stream.LARGEST_RANK:
        raise InputError("symbols", f"at most {stream.LARGEST_RANK} dimensions", array.ndim)
    _check_extents("symbols", array.shape)
    if array.dtype.itemsize > 2 and array.dtype != np.int32 and array.size:
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            raise InputError("symbols", "integers of 32 bits", f"{low} .. {high}")
    return np.ascontiguousarray(array, np.int32).reshape(array.shape)


def _as_array(values, argument):
    """Array of integers of what a user gave."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # Rows of unequal length.
        raise InputTypeError(argument, "integers, no ragged rows", str(error)) from error
    if array.dtype.kind not in "iub":
        raise InputTypeError(argument, "integers", f"an array of dtype {array.dtype}")
    return array


def _as_shape(shape):
    """Tuple of ints of what a user gave as a shape."""
    expected = "a sequence of sizes, ints from 0"
    if isinstance(shape, str) or not hasattr(shape, "__iter__"):
        raise InputTypeError("shape", expected, shape)
    return _check_extents("shape", [checks.integer("shape", n, expected, 0) for n in shape])


def _check_extents(argument, shape):
    """Raises for sizes that a stream, or a tensor of TensorFlow's, cannot have."""
    if max(shape, default=0) > 2**31 or math.prod(max(size, 1) for size in shape) >= 2**62:
        expected = "sizes of at most 2^31, with a product below 2^62"
        raise InputError(argument, expected, tuple(shape))
    return tuple(shape)


def as_context(context):
    """uint8 array of what a user gave as contexts; None for None."""
    if context is None:
        return None
    array = _as_array(context, "context")
    if array.dtype != np.uint8 and array.size and (array.min() < 0 or array.max() > 255):
        raise InputError("context", "integers 0 .. 255", f"{array.min()} .. {array.max()}")
    return np.ascontiguousarray(array, np.uint8).reshape(array.shape)


def as_data(data):
    """bytes of what a user gave as coded bytes."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    array = np.asarray(data)
    if array.dtype != np.uint8 or array.ndim != 1:
        got = type(data).__name__ if array.dtype.kind in "OUS" else f"{array.dtype} {array.shape}"
        raise InputTypeError("data", "bytes, or a uint8 array of one dimension", got)
    return array.tobytes()
