"""Nested precision: every lower width of a tensor, read out of its stored codes.

A stored code q of h bits holds a code of each width l < h, by the second rounding of Double
Rounding (arXiv 2502.01199), with D = h - l:

    integers      q_l = clip((q + 2^(D-1)) >> D, -2^(l-1), 2^(l-1) - 1),   value = s * 2^D * q_l + b
    one bit       q_1 = (q >> (h-1)) + 1/2                       (mid-rise, as it has no code for 0)
    minifloats    D mantissa bits fewer, magnitudes to nearest, half away from zero, saturating

with the scale s and offset b that are stored: the integers' rounding is the paper's, the other two
are ours. Nothing is copied: the same buffer is read under another format, INT4+4 for 4 of INT8's
bits (`omc.formats`), so that all h bits are there to switch back to and to train.
"""

import dataclasses
import functools

import tensorflow as tf

from omc import checks, kernels, packing
from omc.codecs import in_chunks
from omc.compressed import CompressedTensor
from omc.errors import InputError, InputTypeError
from omc.formats import Format

_SEPARATORS = {"nearest": "+", "shift": ">>"}  # Between width and rest in a format's name.
_CHUNK = 1 << 16  # Columns that are narrowed at a time; what that takes is ten times their size.


def stored_format(fmt):
    """The format of all bits that a buffer stores: INT8 for INT4+4.

    Args:
        fmt: `Format` or its name.
    """
    return format_at(fmt, Format.parse(fmt).bits)


def format_at(fmt, bits, rounding="nearest"):
    """The format under which stored codes are read at a width.

    >>> format_at("INT8", 4).name, format_at("S1E3M7", 7).name
    ('INT4+4', 'S1E3M3+4')

    Args:
        fmt: `Format` of the codes, at whatever width it is read now, or its name.
        bits: Width, in bits: from 1 (integers), or sign and exponent alone (minifloats), up to
            what is stored.
        rounding: "nearest", or "shift" to cut bits off, which is worse, for comparison.

    Returns:
        `Format`.

    Raises:
        FormatError: Unknown format.
        InputError: Another width, or FP32, which has one width only; unknown `rounding`.
        InputTypeError: `bits` is no integer.
    """
    fmt = Format.parse(fmt)
    bits = checks.integer("bits", bits)
    checks.choice("rounding", rounding, _SEPARATORS)
    if fmt.is_fp32:
        raise InputError("bits", "codes to read at fewer bits", "FP32", "compress to 'INT8' first.")
    integer = fmt.kind == "int"
    least = 1 if integer else fmt.sign_bits + fmt.exponent_bits
    if not least <= bits <= fmt.bits:
        tip = "bits that were never stored cannot be read." if bits > fmt.bits else ""
        raise InputError("bits", f"{least} to {fmt.bits}, what {fmt.name} stores", bits, tip)
    if integer:
        name = f"INT{bits}"
    else:
        name = f"S{fmt.sign_bits}E{fmt.exponent_bits}M{bits - least}"
    left = fmt.bits - int(bits)
    return Format.parse(f"{name}{_SEPARATORS[rounding]}{left}" if left else name)


def codec_at(codec, bits, rounding="nearest"):
    """The codec that reads a codec's buffers at a width; arguments as `format_at`."""
    return dataclasses.replace(codec, format=format_at(codec.format, bits, rounding))


def full_codec(codec):
    """The codec that reads all bits that a codec's buffers store, whatever it reads itself."""
    return dataclasses.replace(codec, format=stored_format(codec.format))


@functools.singledispatch
def switch(target, bits):
    """Reads a compressed tensor, or a nested model, at another width; all stored bits stay.

    A tensor comes back as another view of the same buffer. A model (see `omc.nest`) is switched in
    place, and returned: its weights, their activations' quantizers and BatchNorm sets.

    Args:
        target: `CompressedTensor`, or a model that `omc.nest` has prepared.
        bits: Width, as in `format_at`. For a model also an allocation, a width for each layer: the
            policy that `omc.allocate` gives, or a dict of names of variables or layers, or glob
            patterns of them (the first that matches counts), -> width; what it does not name is
            read at the highest. What `omc.nest` keeps fixed keeps all bits.

    Returns:
        `CompressedTensor`, or the model.

    Raises:
        InputError: A width that is not stored; for a model, also one that it has not been prepared
            for, a name that it does not have, and the policy of another model.
        InputTypeError: Another kind of `target`, or `bits` is no integer.
        ModelError: A model that is not nested.
    """
    raise InputTypeError(
        "target", "a CompressedTensor or a nested model", type(target).__name__, "see omc.nest."
    )


@switch.register
def _(target: CompressedTensor, bits):
    return CompressedTensor(target.buffer, codec_at(target.codec, bits))


def extract(compressed, bits):
    """A tensor that stores the codes of a lower width and nothing else.

    It decodes to what `switch` to that width gives, bit for bit; what a device of that width
    downloads.

    Args:
        compressed: `CompressedTensor`, at whatever width it is read.
        bits: Width, as in `format_at`; integers from 2.

    Returns:
        `CompressedTensor` in INT4, say.

    Raises:
        InputError: As `format_at`; one bit, which no format stores by itself; integers without a
            transform, whose steps could not become wider.
        InputTypeError: As `format_at`, or `compressed` is none.
    """
    if not isinstance(compressed, CompressedTensor):
        raise InputTypeError("compressed", "a CompressedTensor", type(compressed).__name__)
    codec = extracted_codec(compressed.codec, bits)
    return CompressedTensor(extract_buffer(compressed.buffer, compressed.codec, bits), codec)


def extracted_codec(codec, bits):
    """The codec of what `extract_buffer` gives."""
    name = format_at(codec.format, bits).name.partition("+")[0]
    if name == "INT1":
        raise InputError("bits", "2 or more, to be stored by themselves", 1)
    if not codec.transform and codec.format.kind == "int" and bits < codec.format.bits:
        tip = "compress with transform='pvt'."
        raise InputError("compressed", "integers with a scale to widen", "bare codes", tip)
    return dataclasses.replace(codec, format=Format.parse(name))


def extract_buffer(buffer, codec, bits, centred=False):
    """As `extract`, on a buffer, in TensorFlow ops.

    The second rounding takes ties up: over all codes of integers the values that are read are half
    a stored step too large in the mean, in every weight alike. Training at the width and BatchNorm
    make up for that; a model that is read without either loses points by it. Centred, the offset
    is half a stored step lower (ours), at no cost.

    Args:
        buffer: uint8 [codec.nbytes].
        codec: `Codec` of the buffer.
        bits: Width.
        centred: Whether integers are read without that bias; weights of 0 are then not quite 0.

    Returns:
        uint8 [extracted_codec(codec, bits).nbytes].
    """
    narrow, stored = extracted_codec(codec, bits), stored_format(codec.format)
    read = format_at(codec.format, bits)
    planes = _recoded(
        buffer, codec.columns, stored.bits, bits, lambda c: _narrowed(c, read, codec.transform)
    )
    shift = -0.5 if centred and read.feedback_bits else 0.0
    return _joined(planes, buffer, codec, narrow, 2.0**read.feedback_bits, shift)


def widen_buffer(buffer, narrow, codec):
    """Buffer of a wider codec with the values of a narrower one's, bit for bit; in TensorFlow ops.

    What a device does that downloads few bits and trains on more: the inverse of `extract_buffer`
    but for the bits that were left out, which become 0.

    Args:
        buffer: uint8 [narrow.nbytes].
        narrow: `Codec` of the buffer, as `extracted_codec` gives it.
        codec: `Codec` of integers or of minifloats alike, of as many bits or more.

    Returns:
        uint8 [codec.nbytes].
    """
    more = codec.format.bits - narrow.format.bits
    if not more:
        return buffer
    if kernels.usable():
        return kernels.widen_buffer(buffer, [narrow], codec)
    planes = _recoded(
        buffer,
        codec.columns,
        narrow.format.bits,
        codec.format.bits,
        lambda codes: tf.bitwise.left_shift(codes, more),
    )
    return _joined(planes, buffer, narrow, codec, 2.0**-more)


def _recoded(buffer, columns, bits, new_bits, function):
    """Planes (list of uint8, flat) of other codes of new_bits; little is in memory at once."""
    planes, start = [], 0
    for width in packing.plane_widths(bits):
        end = start + width * columns
        planes.append(tf.reshape(buffer[start:end], [width, columns]))
        start = end

    def chunk(begin, size):
        parts = [tf.reshape(plane[:, begin : begin + size], [-1]) for plane in planes]
        codes = function(packing.unpack(tf.concat(parts, axis=0), size, bits))
        return [tf.reshape(plane, [-1, size]) for plane in packing.pack(codes, new_bits)]

    return [tf.reshape(plane, [-1]) for plane in in_chunks(columns, _CHUNK, chunk)]


def _joined(planes, buffer, codec, new_codec, factor, shift=0.0):
    """Buffer of planes under a buffer's transform: of integers the scale is wider by a factor, and
    the offset moved by a share of the scale.
    """
    if not codec.transform:
        return tf.concat(planes, axis=0)
    scale, offset = codec.transform_of(buffer)
    if codec.format.kind == "int":
        offset += shift * scale
        scale *= factor  # A power of two: the product is exact.
    trailer = tf.reshape(tf.bitcast(tf.stack([scale, offset]), tf.uint8), [-1])
    return tf.ensure_shape(tf.concat([*planes, trailer], axis=0), [new_codec.nbytes])


def _narrowed(codes, read, transform):
    """Codes (int32) of the width that a format with feedback bits reads, from those stored."""
    dropped, fields = read.feedback_bits, read.bits - read.sign_bits
    if not dropped:
        return codes
    half = 2 ** (dropped - 1)
    if read.kind == "int":
        shift = 32 - read.bits
        codes = tf.bitwise.right_shift(tf.bitwise.left_shift(codes, shift), shift)
        rounded = tf.bitwise.right_shift(codes + half, dropped)
        return tf.minimum(rounded, read.read_max >> dropped)
    magnitude = tf.bitwise.bitwise_and(codes, 2**fields - 1)
    rounded = tf.minimum(magnitude + half, read.read_max | half)
    rounded = tf.bitwise.right_shift(rounded, dropped)
    sign = tf.bitwise.right_shift(codes, fields)
    if transform:  # Where -0 has no code of its own.
        sign = tf.where(rounded > 0, sign, 0)
    signed = tf.bitwise.left_shift(sign, fields - dropped) if read.sign_bits else 0
    return tf.bitwise.bitwise_or(rounded, signed)
