"""One variable's buffer <-> coded segments, given the buffer of the stage before.

A buffer of codes without its transform is a matrix of bytes, one row a bit of the format and one
column for every 8 weights (`omc.packing`); an FP32 buffer is one of 8 ragged rows of weights.
So a range of columns is a buffer by itself, of a codec of its own: a *segment*. Segments are coded
(`omc.coding`), hashed and written one by one, so that little is in memory beside the buffer.

What the receiver holds predicts the codes of the next stage: each code u of the lower format says
a value v, and the code nearest to v in the next format, under the next stage's transform, is what
the coder is given,

    v = scale * value(u) + offset,    predicted(u) = nearest((v - offset') / scale')

in float64 and once for each of the 2^bits lower codes: the same on every machine.
"""

import functools
import hashlib
import json

import numpy as np
import tensorflow as tf

from omc import coding, packing
from omc.codecs import Codec
from omc.formats import FP32

SEGMENT = 1 << 14
"""Columns of a segment: 131,072 weights."""

TRAILER_BYTES = 8
"""Scale and offset, float32 each."""

_WIDEST_GIVEN = 16  # Bits of a format that may predict: there is a table of all of its codes.


def can_predict(fmt):
    """Whether a stage of this format may come before another."""
    return not fmt.is_fp32 and fmt.bits <= _WIDEST_GIVEN and not fmt.feedback_bits


def segments(codec):
    """List of (begin, end), ranges of columns."""
    columns = codec.columns
    return [(begin, min(begin + SEGMENT, columns)) for begin in range(0, columns, SEGMENT)]


def segment_codec(codec, begin, end):
    """Codec of the segment's buffer."""
    if codec.format.is_fp32:
        size = sum(stop - start for start, stop in ranges(codec, begin, end)) // 4
        return Codec(FP32, (size,), transform=False)
    return Codec(codec.format, (packing.ROWS * (end - begin),), transform=False)


def ranges(codec, begin, end):
    """List of (start, stop), where a segment's bytes stand in the buffer, not empty each."""
    columns = codec.columns
    if not codec.format.is_fp32:
        return [(row * columns + begin, row * columns + end) for row in range(codec.format.bits)]
    found = []
    for row in range(packing.ROWS):
        start, stop = row * columns + begin, min(row * columns + end, codec.count)
        if start < stop:
            found.append((4 * start, 4 * stop))
    return found


def segment(buffer, codec, begin, end):
    """The segment's buffer, uint8 array.

    Args:
        buffer: uint8 array or tensor [codec.nbytes].
        codec: `Codec`.
        begin, end: Range of columns.
    """
    return np.concatenate([np.asarray(buffer[a:b]) for a, b in ranges(codec, begin, end)])


def trailer(buffer, codec):
    """Bytes of scale and offset; empty without a transform."""
    if codec.format.is_fp32 or not codec.transform:
        return b""
    return np.asarray(buffer[codec.nbytes - TRAILER_BYTES :]).tobytes()


def encode(buffer, codec, given=None, given_codec=None):
    """Codes a buffer; yields its trailer, then a stream for each segment (bytes).

    Args:
        buffer: uint8 array [codec.nbytes].
        codec: Its `Codec`.
        given: Buffer of the stage before, array or tensor, or None for none.
        given_codec: Its codec.
    """
    last = trailer(buffer, codec)
    yield last
    table = None if given is None else _table(given, given_codec, codec, last)
    for begin, end in segments(codec):
        predicted = _predicted(given, given_codec, codec, table, begin, end)
        data = segment(buffer, codec, begin, end)
        yield coding.encode_buffer(data, segment_codec(codec, begin, end), predicted)


def decode(streams, codec, given=None, given_codec=None):
    """Restores a buffer; yields ((begin, end), uint8 array) for each segment.

    Args:
        streams: Sequence of what `encode` yielded.
        codec, given, given_codec: As for `encode`.

    Raises:
        CodingError: The streams are damaged, or were coded given something else.
    """
    table = None if given is None else _table(given, given_codec, codec, bytes(streams[0]))
    for (begin, end), data in zip(segments(codec), streams[1:]):
        predicted = _predicted(given, given_codec, codec, table, begin, end)
        yield (begin, end), coding.decode_buffer(data, segment_codec(codec, begin, end), predicted)


class Digest:
    """SHA-256 of one variable as it is stored: shape, format and bytes, segment after segment.

    Args:
        shape: Shape of the dense variable.
        kind: Name of its format, or of its dtype where it is raw.
        transform: Whether scale and offset belong to it.
    """

    def __init__(self, shape, kind, transform=False):
        head = json.dumps([list(shape), kind, bool(transform)])
        self._digest = hashlib.sha256(head.encode())

    def update(self, data):
        """Takes the next bytes (array, bytes)."""
        self._digest.update(data)

    def done(self):
        """The digest, 32 bytes."""
        return self._digest.digest()


def digest_of(buffer, codec):
    """Digest (bytes) of a packed variable.

    Args:
        buffer: uint8 array or tensor [codec.nbytes].
        codec: `Codec`.
    """
    digest = Digest(codec.shape, codec.format.name, codec.transform)
    for begin, end in segments(codec):
        digest.update(segment(buffer, codec, begin, end))
    digest.update(trailer(buffer, codec))
    return digest.done()


def digest_of_raw(value):
    """Digest (bytes) of a raw variable, an array."""
    digest = Digest(value.shape, value.dtype.name)
    digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return digest.done()


def state_digest(digests):
    """Digest (hex) of a model, of its variables' digests in `omc.keras.saving.stored_order`."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _predicted(given, given_codec, codec, table, begin, end):
    """Buffer of a segment as the stage before has it, or None."""
    if given is None:
        return None
    data, columns = segment(given, given_codec, begin, end), end - begin
    codes = packing.unpack(tf.constant(data), columns, given_codec.format.bits).numpy()
    codes = table[codes]
    if not codec.format.is_fp32:
        planes = packing.pack(tf.constant(codes.view(np.int32)), codec.format.bits)
        return tf.concat(planes, axis=0).numpy()
    lengths = [(stop - start) // 4 for start, stop in ranges(codec, begin, end)]
    kept = [row[:length] for row, length in zip(codes, lengths)]
    return np.concatenate(kept).view(np.uint8)


def _table(given, given_codec, codec, last):
    """Predicted code (uint32) of every code of the stage before."""
    before = np.frombuffer(trailer(given, given_codec), "<f4")
    scale, offset = before.astype(np.float64) if before.size else (1.0, 0.0)
    after = np.frombuffer(last, "<f4")
    new_scale, new_offset = after.astype(np.float64) if after.size else (1.0, 0.0)
    values = scale * _values(given_codec.format) + offset
    if codec.format.is_fp32:
        values = np.clip(values, -FP32.max, FP32.max)
        return values.astype(np.float32).view(np.uint32)
    with np.errstate(all="ignore"):
        units = (values - new_offset) / new_scale
    return _nearest(np.nan_to_num(units, posinf=codec.format.max, neginf=-codec.format.max), codec)


@functools.lru_cache(maxsize=32)
def _values(fmt):
    """Values (float64) of all codes of a format, as `Format.decode`."""
    codes = np.arange(1 << fmt.bits, dtype=np.int64)
    if fmt.kind == "int":
        half = 1 << (fmt.bits - 1)
        return ((codes ^ half) - half).astype(np.float64)
    fields = fmt.exponent_bits + fmt.mantissa_bits
    magnitude = np.minimum(codes & ((1 << fields) - 1), fmt.max_code)
    exponent, mantissa = magnitude >> fmt.mantissa_bits, magnitude & ((1 << fmt.mantissa_bits) - 1)
    normal = exponent > 0
    mantissa = np.where(normal, mantissa + (1 << fmt.mantissa_bits), mantissa)
    power = np.maximum(exponent, 1) - fmt.bias - fmt.mantissa_bits
    values = np.ldexp(mantissa.astype(np.float64), power)
    return np.where(codes >> fields, -values, values)


def _nearest(units, codec):
    """Codes (uint32) nearest to values in a format's own units, saturating."""
    fmt = codec.format
    if fmt.kind == "int":
        codes = np.rint(np.clip(units, fmt.min, fmt.max)).astype(np.int64)
        return (codes & ((1 << fmt.bits) - 1)).astype(np.uint32)
    magnitude = np.minimum(np.abs(units), fmt.max)
    _, exponent = np.frexp(magnitude)
    exponent = np.maximum(exponent.astype(np.int64) - 1, 1 - fmt.bias)
    steps = np.rint(np.ldexp(magnitude, fmt.mantissa_bits - exponent)).astype(np.int64)
    codes = ((exponent + fmt.bias - 1) << fmt.mantissa_bits) + steps
    codes = np.minimum(codes, fmt.max_code)
    negative = (units < 0) & (codes > 0)
    if not fmt.sign_bits:
        return np.where(units < 0, 0, codes).astype(np.uint32)
    return (codes | (negative.astype(np.int64) << (fmt.bits - 1))).astype(np.uint32)
