"""encode_buffer() and decode_buffer(): one variable's buffer (omc.codecs) <-> coded bytes.

Codes become ordinals, integers in the order of the values (u: code, n: bits of a code):

    integers:    u as two's complement
    minifloats:  magnitude(u), or -1 - magnitude(u) under a sign; FP32 is one of 32 bits

Padding is coded with the codes, and scale and offset go along as they are. *Given* another buffer
of the same codec, which both ends hold, the difference d of ordinals (modulo 2^32) is coded, in the
context c of the given ordinal g:

    integers:    d = v - g,    c = (g + 2^(n-1)) >> max(n - 4, 0)
    minifloats:  d = v - g, or g - v where g < 0: away from zero is up,
                 c = min(E - exponent(g), 15),    E = the largest exponent in the given buffer

and the checksum begins with the given buffer's. Scale and offset that are equal are left out. The
given buffer may be an older version of the variable, whose transform was kept, or what a coarser
version of it says in this codec.
"""

import zlib

import numpy as np
import tensorflow as tf

from omc import kernels, packing
from omc.codecs import Codec
from omc.coding import stream
from omc.coding.symbols import as_data, native_errors
from omc.errors import CodingError, InputError, InputTypeError


def encode_buffer(buffer, codec, given=None):
    """Codes a variable's buffer without loss.

    Args:
        buffer: uint8 [codec.nbytes], array or tensor.
        codec: `omc.codecs.Codec` that wrote it.
        given: Buffer of the same codec that the decoder has, or None.

    Returns:
        bytes; see docs/coding.md.

    Raises:
        InputError: A buffer of another length.
        InputTypeError: A buffer that is no array of uint8.
    """
    _check_codec(codec)
    if buffer is None:
        raise InputTypeError("buffer", "a uint8 array of one dimension", None)
    buffer, given = _as_buffer(buffer, codec, "buffer"), _as_buffer(given, codec, "given")
    if kernels.usable():
        return kernels.encode_buffer(buffer, given, codec).numpy().tobytes()
    return _encode(buffer, codec, given)


def decode_buffer(data, codec, given=None):
    """Restores the buffer of `encode_buffer`.

    Args:
        data: bytes or uint8 array.
        codec: As for `encode_buffer`; what it says of the length is all that is ever allocated.
        given: As for `encode_buffer`, and the same.

    Returns:
        uint8 array [codec.nbytes].

    Raises:
        CodingError: The bytes are damaged, newer, of a codec of another shape or another number of
            bits (they do not say which of several formats of as many bits it was), or coded given
            another buffer.
        InputError, InputTypeError: As `encode_buffer`.
    """
    _check_codec(codec)
    data, given = as_data(data), _as_buffer(given, codec, "given")
    head, contexts = _opened(data, codec, given)
    if not kernels.usable():
        return _decode(data, codec, given, head, contexts)
    with native_errors():
        return kernels.decode_buffer(np.frombuffer(data, np.uint8), given, codec).numpy()


def _check_codec(codec):
    if not isinstance(codec, Codec):
        raise InputTypeError("codec", "an omc.codecs.Codec", type(codec).__name__)


def _encode(buffer, codec, given):
    symbols, contexts, start = ordinals(buffer, codec), None, 0
    trailer = buffer[codec.nbytes - _trailer(codec) :].tobytes()
    if given.size:
        predicted = ordinals(given, codec)
        contexts, start = contexts_of(predicted, codec.format), zlib.crc32(given.tobytes())
        symbols = difference(symbols, predicted, codec.format)
        if trailer == given[codec.nbytes - _trailer(codec) :].tobytes():
            trailer = b""
    return stream.encode(symbols, contexts, trailer, start)


def _opened(data, codec, given):
    """(Head, contexts or None) of a stream that fits the codec and what is given."""
    shape = (codec.count,) if codec.format.is_fp32 else (8 * codec.columns,)
    contexts = np.zeros(shape, np.uint8) if given.size else None
    try:
        head, contexts = stream.opened(data, contexts, shape=shape)
    except CodingError as error:
        if error.argument != "context":
            raise
        expected = "None, as it was coded" if given.size else "the buffer that it was coded given"
        raise CodingError("given", expected, "a buffer" if given.size else "none") from error
    if len(head.attachment) != _trailer(codec) and not (given.size and not head.attachment):
        raise stream.damaged("without its transform")
    return head, contexts


def _decode(data, codec, given, head, contexts):
    trailer, start = head.attachment, 0
    if given.size:
        predicted = ordinals(given, codec)
        trailer = trailer or given[codec.nbytes - _trailer(codec) :].tobytes()
        start = zlib.crc32(given.tobytes())
        if contexts is not None:
            contexts = contexts_of(predicted, codec.format)
    symbols = stream.decode(data, head, contexts, start)
    if given.size:
        symbols = restored(symbols, predicted, codec.format)
    return np.concatenate([to_planes(symbols, codec), np.frombuffer(trailer, np.uint8)])


def ordinals(buffer, codec):
    """Ordinals of a buffer's codes, int32, padding included.

    Args:
        buffer: uint8 [codec.nbytes].
        codec: `omc.codecs.Codec`.
    """
    fmt = codec.format
    if fmt.is_fp32:
        codes = buffer.view(np.uint32)
    else:
        codes = packing.unpack(tf.constant(buffer), codec.columns, fmt.bits)
        codes = codes.numpy().reshape(-1).view(np.uint32)
    if fmt.kind == "int":
        half = np.uint32(1 << (fmt.bits - 1))
        return ((codes ^ half) - half).view(np.int32)
    if not fmt.sign_bits:
        return codes.view(np.int32)
    magnitude = codes & np.uint32((1 << (fmt.bits - 1)) - 1)
    return np.where(codes >> np.uint32(fmt.bits - 1), ~magnitude, magnitude).view(np.int32)


def difference(ordinals, given, fmt):
    """What is coded of ordinals (int32) given others."""
    moved = ordinals.view(np.uint32) - given.view(np.uint32)
    return _turned(moved, given, fmt).view(np.int32)


def restored(moved, given, fmt):
    """Ordinals of differences given the same others; the inverse of `difference`."""
    return (given.view(np.uint32) + _turned(moved.view(np.uint32), given, fmt)).view(np.int32)


def _turned(moved, given, fmt):
    """Differences with a sign by which away from zero is up, and back (uint32)."""
    return moved if fmt.kind == "int" else np.where(given < 0, np.uint32(0) - moved, moved)


def contexts_of(ordinals, fmt):
    """Contexts (uint8) of codes that are coded given these ordinals."""
    if fmt.kind == "int":
        return ((ordinals + (1 << (fmt.bits - 1))) >> max(fmt.bits - 4, 0)).astype(np.uint8)
    mantissa_bits = fmt.bits - fmt.sign_bits - fmt.exponent_bits
    exponents = np.where(ordinals < 0, ~ordinals, ordinals) >> mantissa_bits
    below = exponents.max(initial=0) - exponents
    return np.minimum(below, 15).astype(np.uint8)


def to_planes(ordinals, codec):
    """Bytes of codes of these ordinals, the inverse of `ordinals`."""
    fmt = codec.format
    signed = fmt.kind == "int" or fmt.sign_bits
    limit = 1 << (fmt.bits - 1 if signed else fmt.bits)
    if ordinals.size and (ordinals.min() < (-limit if signed else 0) or ordinals.max() >= limit):
        raise stream.damaged("of codes that the format has not")
    if fmt.kind == "int":
        codes = ordinals & (2 * limit - 1)
    else:
        sign = np.uint32(1 << (fmt.bits - 1))
        codes = ordinals.view(np.uint32)
        codes = np.where(ordinals < 0, ~codes | sign, codes).view(np.int32)
    if fmt.is_fp32:
        return codes.view(np.uint8)
    planes = packing.pack(tf.constant(codes.reshape(packing.ROWS, -1)), fmt.bits)
    return tf.concat(planes, axis=0).numpy()


def _trailer(codec):
    return codec.nbytes - (
        4 * codec.count
        if codec.format.is_fp32
        else packing.packed_nbytes(codec.count, codec.format.bits)
    )


def _as_buffer(buffer, codec, argument):
    if buffer is None:
        return np.empty(0, np.uint8)
    array = np.asarray(buffer)
    if array.dtype != np.uint8 or array.ndim != 1:
        got = f"an array of dtype {array.dtype} and shape {array.shape}"
        raise InputTypeError(argument, "a uint8 array of one dimension", got)
    if array.size != codec.nbytes:
        expected = f"{codec.nbytes} bytes, as its codec says"
        raise InputError(argument, expected, f"{array.size}")
    return np.ascontiguousarray(array)
