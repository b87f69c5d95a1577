"""What a part's entries decode to: buffers, raw values, digests."""

import numpy as np
import tensorflow as tf

from omc import coding
from omc.codecs import Codec
from omc.formats import FP32
from omc.keras import nesting
from omc.keras.variable import CompressedVariable
from omc.progressive import streams

_ALIGNED = 64  # Bytes, to which TensorFlow aligns tensors.


def buffer_of(part, entry, given=None, given_codec=None):
    """The buffer that an entry leads to, uint8 array [entry.codec.nbytes].

    Args:
        part: `Part`.
        entry: One of its packed entries.
        given: Buffer of the stage before; None for an entry of a base or an update.
        given_codec: Its codec.

    Raises:
        CodingError: The streams are damaged, or were coded given something else.
    """
    codec, data = entry.codec, part.streams(entry)
    # Aligned, TensorFlow takes it as it is; otherwise it would make a copy of its own first.
    buffer = np.empty(codec.nbytes + _ALIGNED, np.uint8)
    begin = -buffer.ctypes.data % _ALIGNED
    buffer = buffer[begin : begin + codec.nbytes]
    for where, piece in streams.decode(data, codec, given, given_codec):
        at = 0
        for start, stop in streams.ranges(codec, *where):
            buffer[start:stop] = piece[at : at + stop - start]
            at += stop - start
    if len(data[0]):
        buffer[codec.nbytes - len(data[0]) :] = np.frombuffer(data[0], np.uint8)
    return buffer


def decoded_digest(part, entry, given=None, given_codec=None):
    """Digest (bytes) of what `buffer_of` returns, without all of it in memory."""
    data, codec = part.streams(entry), entry.codec
    digest = streams.Digest(codec.shape, codec.format.name, codec.transform)
    for _, piece in streams.decode(data, codec, given, given_codec):
        digest.update(piece)
    digest.update(data[0])
    return digest.done()


def raw_values(part):
    """Dict of place -> array of a part's raw variables."""
    found, values, at = {}, {}, {}
    counts = {}
    for entry in part.entries:
        if entry.codec is None:
            count = int(np.prod(entry.shape, dtype=np.int64))
            counts[entry.dtype] = counts.get(entry.dtype, 0) + count
    for dtype, count in counts.items():
        data, coded = part.raw(dtype)
        if coded:
            data = coding.decode_buffer(data, Codec(FP32, (count,), transform=False)).tobytes()
        kind = tf.as_dtype(dtype).as_numpy_dtype
        values[dtype], at[dtype] = np.frombuffer(data, np.uint8).view(kind), 0
        if values[dtype].size != count:
            raise ValueError("raw variables of another length")
    for entry in part.entries:
        if entry.codec is None:
            start, count = at[entry.dtype], int(np.prod(entry.shape, dtype=np.int64))
            at[entry.dtype] += count
            chosen = values[entry.dtype][start : start + count]
            found[entry.place] = chosen.reshape(entry.shape)
    return found


def held(buffer):
    """What a buffer (tf.Variable) holds, without the copy that `read_value` makes."""
    return tf.raw_ops.ReadVariableOp(resource=buffer.handle, dtype=tf.uint8)


def digest_of(variable):
    """Digest (bytes) of a model's variable as it is now."""
    if isinstance(variable, CompressedVariable):
        return streams.digest_of(held(variable.buffer), nesting.stored_codec(variable))
    return streams.digest_of_raw(variable.numpy())
