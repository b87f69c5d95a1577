"""Rounding values to codes, and the per-variable transform (PVT) around it.

A variable v is stored as codes of u = (v - offset) / scale, and read back as

    v' = scale * u' + offset,         u' = the format's value nearest to u.

A whole variable's (scale, offset) are fitted: `prescale` maps its largest magnitude onto the
format's largest value, then `least_squares` is the closed form for v ~ s*u' + b (OMC, arXiv
2205.03494):

    s = (n*Sum(v u') - Sum(v) Sum(u')) / (n*Sum(u'^2) - Sum(u')^2),    b = (Sum(v) - s*Sum(u')) / n

and s = prescale, b = mean(v - s*u') where the denominator is zero. The prescale is ours: without it
weights of usual size fall below the range of narrow formats.

Between fits the transform is *kept* (`stretch`): it changes only when a value leaves the range, and
then a minifloat's scale doubles, which moves exponents and re-rounds nothing; or when an update
leaves the whole variable far below the range, and then the scale is halved until it fits, which
re-rounds nothing in any format. Fitting anew at every step would re-round every weight and let the
errors pile up (ours).

Arrays are float32 or int32 tensors of any shape; everything is TensorFlow ops that XLA compiles.
No step builds a subnormal float: TensorFlow's CPU kernels flush them to zero.
"""

import numpy as np
import tensorflow as tf

from omc.formats import FP32

_MAX_TARGET = 2.0**16  # Wide exponent ranges need no more; scale stays a normal float.
MIN_SCALE = 2.0**-100
"""Smallest scale; below it 1/scale or a product could leave float32."""

_INT_HEADROOM = 1.25  # Room that a growing integer variable gets, against refitting every step.
_SPARE = 8.0  # A moved variable narrows its transform below this part, 1/x, of the range.


def round_to_codes(values, fmt, noise=None, symmetric=False):
    """Codes of values already in the format's range (u above); beyond it they saturate.

    Args:
        values: float32 tensor, finite.
        fmt: Format, not FP32.
        noise: None for round-to-nearest-even, or an int32 tensor of uniform random bits for
            stochastic rounding, which is unbiased inside the range: E[u'] = u.
        symmetric: Whether to use codes that come in pairs only: neither the code of -0, nor an
            integer's lowest, which lies beyond `limit`.

    Returns:
        int32 codes; bits above `fmt.bits` are not cleared where the value is negative.
    """
    if fmt.kind == "int":
        values = tf.clip_by_value(values, -fmt.max if symmetric else fmt.min, fmt.max)
        if noise is None:
            return tf.cast(tf.round(values), tf.int32)
        return _round_up_or_down(values, noise)

    bits = tf.bitcast(values, tf.int32)
    magnitude = tf.bitwise.bitwise_and(bits, 0x7FFFFFFF)
    codes = _round_normal(magnitude, fmt, noise)
    if fmt.exponent_bits < 8:  # With 8, float32's own subnormals have the code's structure.
        size = tf.bitcast(magnitude, tf.float32)
        codes = tf.where(size < fmt.min_normal, _round_subnormal(size, fmt, noise), codes)
    codes = tf.minimum(codes, fmt.max_code)
    if not fmt.sign_bits:
        return tf.where(bits < 0, 0, codes)
    sign = tf.bitwise.left_shift(tf.bitwise.right_shift(bits, 31), fmt.bits - 1)
    signed = tf.bitwise.bitwise_or(codes, sign)
    return tf.where(codes > 0, signed, 0) if symmetric else signed


def _round_normal(magnitude, fmt, noise):
    # Rounding a float's bit pattern at the kept mantissa; a carry runs on into the exponent.
    dropped = 23 - fmt.mantissa_bits
    if dropped and noise is None:
        even = tf.bitwise.bitwise_and(tf.bitwise.right_shift(magnitude, dropped), 1)
        magnitude = magnitude + (even + (2 ** (dropped - 1) - 1))
    elif dropped:
        magnitude = magnitude + tf.bitwise.bitwise_and(noise, 2**dropped - 1)
    if dropped:
        magnitude = tf.bitwise.right_shift(magnitude, dropped)
    return magnitude - ((127 - fmt.bias) << fmt.mantissa_bits)


def _round_subnormal(size, fmt, noise):
    # Adding 2^23 steps aligns the mantissa's last bit with one step, so the float adder rounds.
    if noise is None:
        aligner = 2.0**23 * fmt.step
        return tf.bitcast(size + aligner, tf.int32) - _bits_of(aligner)
    steps = tf.minimum(size, fmt.min_normal) * (1.0 / fmt.step)
    return _round_up_or_down(steps, noise)


def _round_up_or_down(steps, noise):
    # Not floor(steps + random): that sum is rounded in float32, up to a step too far.
    below = tf.floor(steps)
    up = _unit_interval(noise) < steps - below
    return tf.cast(below, tf.int32) + tf.cast(up, tf.int32)


def _unit_interval(noise):
    # 23 random bits as the mantissa of a float in [1, 2).
    mantissa = tf.bitwise.bitwise_and(noise, 0x7FFFFF)
    return tf.bitcast(tf.bitwise.bitwise_or(mantissa, 0x3F800000), tf.float32) - 1.0


def _bits_of(value):
    """Bit pattern (int) of a float32."""
    return int(np.float32(value).view(np.int32))


def values_of_codes(codes, fmt, stored=False):
    """Values u' of codes, in the format's own range.

    Args:
        codes: int32 tensor.
        fmt: Format, not FP32.
        stored: Whether feedback bits count, as in an update, or are rounded away, as in a read.

    Returns:
        float32 tensor.
    """
    read = _without_feedback if fmt.feedback_bits and not stored else lambda code, fmt: code
    if fmt.kind == "int":  # Sign extension: the code's top bit goes to the integer's.
        shift = 32 - fmt.bits
        extended = tf.bitwise.right_shift(tf.bitwise.left_shift(codes, shift), shift)
        return tf.cast(read(extended, fmt), tf.float32)

    fields = fmt.exponent_bits + fmt.mantissa_bits
    magnitude = read(tf.bitwise.bitwise_and(codes, 2**fields - 1), fmt)
    normal = tf.bitwise.left_shift(magnitude, 23 - fmt.mantissa_bits)
    if fmt.exponent_bits == 8:
        bits = tf.minimum(normal, fmt.max_code << (23 - fmt.mantissa_bits))
    else:
        normal = normal + ((127 - fmt.bias) << 23)
        subnormal = tf.bitcast(tf.cast(magnitude, tf.float32) * fmt.step, tf.int32)
        bits = tf.where(magnitude < 2**fmt.mantissa_bits, subnormal, normal)
    if fmt.sign_bits:
        sign = tf.bitwise.left_shift(tf.bitwise.right_shift(codes, fields), 31)
        bits = tf.bitwise.bitwise_or(bits, sign)
    return tf.bitcast(bits, tf.float32)


def _without_feedback(codes, fmt):
    half, low = 2 ** (fmt.feedback_bits - 1), 2**fmt.feedback_bits - 1
    if fmt.truncates:
        return tf.bitwise.bitwise_and(codes, ~low)
    if fmt.read_offset:
        return tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(codes, ~low), half)
    return tf.minimum(tf.bitwise.bitwise_and(codes + half, ~low), fmt.read_max)


def prescale(lowest, highest, fmt):
    """(scale, offset) that map a variable onto the format's range; scale 1 where all is equal.

    Args:
        lowest: float32 [], the variable's least value.
        highest: float32 [], its largest.
        fmt: Format, not FP32.
    """
    if fmt.sign_bits:
        return prescales(lowest, highest, [fmt])[0], tf.constant(0.0)
    # Halves first: the distance of 1e38 and -3e38 is beyond float32.
    largest = 2.0 * tf.minimum(highest / 2 - lowest / 2, 2.0**126)
    return _onto_targets(largest, [fmt])[0], lowest


def prescales(lowest, highest, formats):
    """The scales of `prescale`, float32 [formats], for formats with a sign.

    Args:
        lowest, highest: As of `prescale`.
        formats: Sequence of Formats.
    """
    return _onto_targets(tf.maximum(-lowest, highest), formats)


def _onto_targets(largest, formats):
    targets = np.array([1.0 / _target(fmt) for fmt in formats], np.float32)
    most = np.array([_max_scale(fmt) for fmt in formats], np.float32)
    scales = tf.clip_by_value(largest * targets, MIN_SCALE, most)
    return tf.where(largest > 0.0, scales, 1.0)


def moments(units, rounded):
    """What `least_squares` needs to know of some of a variable's weights; sums add up.

    Args:
        units: float32 tensor, u of the weights.
        rounded: float32 tensor, u' that their codes stand for.

    Returns:
        float64 [4]: the sums of u', u'^2, r = u - u', and u' r.
    """
    residual = tf.cast(units - rounded, tf.float64)
    rounded = tf.cast(rounded, tf.float64)
    terms = (rounded, rounded * rounded, residual, rounded * residual)
    return tf.stack([tf.reduce_sum(term) for term in terms])


def least_squares(scale, offset, sums, count, fmt):
    """The transform under which a variable's codes say most, from the one they were rounded under.

    Args:
        scale: float32 [], the prescale.
        offset: float32 [].
        sums: float64 [4], `moments` of the whole variable.
        count: Number of its weights, above 0.
        fmt: Format, not FP32.

    Returns:
        (scale, offset), float32 scalars.
    """
    mean, square, mean_residual, product = tf.unstack(sums / count)
    variance = square - mean * mean
    # Equal values leave nothing but the rounding of sums: a zero denominator.
    degenerate = variance <= 1e-12 * mean * mean
    gain = tf.where(degenerate, tf.zeros_like(mean), (product - mean * mean_residual) / variance)
    # The line may leave float32 where no value does; a constant's (gain 0) does not.
    huge = (scale * _target(fmt) >= 2.0**126) & (gain != 0.0)
    intercept = tf.cast(mean_residual - gain * mean, tf.float32)
    slope = 1.0 + tf.cast(gain, tf.float32)
    slope, intercept = tf.where(huge, 1.0, slope), tf.where(huge, 0.0, intercept)
    return scale * slope, offset + scale * intercept


def to_units(values, scale, offset):
    """u = (v - offset) / scale, by products so that no difference of large values overflows."""
    inverse = 1.0 / scale
    return values * inverse - offset * inverse


def stretch(values, scale, moved, fmt):
    """Factor by which a kept transform's scale must change to suit moved values; usually 1.

    Above 1 it widens, to hold them. A minifloat's factor is then a power of two: codes that did not
    move are re-rounded only where they reach the subnormals. An integer's factor leaves 25 % of
    headroom and re-rounds.

    Below 1 it narrows, where all of them lie below an eighth of the range: an update that is small
    beside the range would otherwise be rounded away, for ever where the variable is zero. The
    factor is a power of two that puts the largest between half the range and the whole of it, so
    every code that did not move stands for the very same value. What has not moved stays as it is.

    Args:
        values: float32, u of the variable after an update, in units of `scale`.
        scale: float32 [].
        moved: bool [], whether the update was any but zero.
        fmt: Format, not FP32.

    Returns:
        float32 [], above 0.
    """
    if values.shape.num_elements() == 0:
        return tf.constant(1.0)
    constants = stretch_constants(fmt)
    largest = tf.reduce_max(tf.abs(values))
    excess = largest * constants["inverse_limit"]
    if fmt.kind == "int":  # To 8 bits, so that XLA's last bits of `values` make no difference.
        factor = tf.bitcast(largest * constants["headroom"], tf.int32) + 0xFFFF
        factor = tf.bitcast(tf.bitwise.bitwise_and(factor, -0x10000), tf.float32)
    else:
        factor = _power_of_two_above(excess)
    wide = tf.maximum(tf.minimum(factor, constants["widest"] / scale), 1.0)
    # At most 2^79 at a time, so that nothing here is subnormal; the next update goes on.
    narrow = _power_of_two_above(tf.maximum(largest * constants["inverse_target"], 2.0**-80))
    narrow = tf.minimum(tf.maximum(narrow, _power_of_two_above(MIN_SCALE / scale)), 1.0)
    spare = moved & (largest > 0.0) & (largest < constants["spare_below"])
    return tf.where(excess > 1.0, wide, tf.where(spare, narrow, 1.0))


def _power_of_two_above(size):
    # The exponent field plus one, without the mantissa.
    exponent = tf.bitwise.bitwise_and(tf.bitcast(size, tf.int32), 0x7F800000)
    return tf.bitcast(exponent + (1 << 23), tf.float32)


SPARE, FITS, OUTSIDE = 0, 1, 2
"""Where a moved value lies in the range of a kept transform, see `place`."""


def place(values, fmt):
    """Where values lie in the range of a kept transform; the largest place is the variable's.

    Args:
        values: float32, u after an update.
        fmt: Format, not FP32.

    Returns:
        int32 tensor. OUTSIDE: the transform has to change (`stretch` is above 1, or a format
        without a sign goes below 0). SPARE: it may, if that is so for all values.
    """
    constants, size = stretch_constants(fmt), tf.abs(values)
    outside = size * constants["inverse_limit"] > 1.0
    if not fmt.sign_bits:
        outside |= values < -fmt.step / 2
    used = outside | (size >= constants["spare_below"])
    return tf.cast(used, tf.int32) + tf.cast(outside, tf.int32)


def stretch_constants(fmt):
    """Constants of `stretch` for a format, a dict of floats."""
    return {
        "inverse_limit": 1.0 / fmt.limit,
        "headroom": _INT_HEADROOM / fmt.limit,
        "widest": min(FP32.max / (2.0 * max(fmt.max, 1.0)), 2.0**126),  # Keeps values finite.
        "inverse_target": 1.0 / _target(fmt),
        "spare_below": _target(fmt) / _SPARE,
    }


def random_bits(index, key):
    """32 random bits for each weight of a variable: what stochastic rounding draws from.

    A hash of (index, key), so that every weight's bits can be had without the others' ("lowbias32"
    by C. Wellons, public domain, with the key added in two places). Neighbouring keys give shifted
    streams: take keys from a generator, as `tf.random.experimental.stateless_fold_in`.

    Args:
        index: int32 tensor, the weights' positions in their variable.
        key: int32 [2].

    Returns:
        int32 tensor of the shape of `index`.
    """
    first, second = tf.unstack(tf.bitcast(key, tf.uint32))
    bits = tf.bitcast(index, tf.uint32) + first
    bits = _xor_shifted(bits, 16) * tf.constant(0x7FEB352D, tf.uint32)
    bits = (_xor_shifted(bits, 15) + second) * tf.constant(0x846CA68B, tf.uint32)
    return tf.bitcast(_xor_shifted(bits, 16), tf.int32)


def _xor_shifted(bits, shift):
    shifted = tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32))
    return tf.bitwise.bitwise_xor(bits, shifted)


def _max_scale(fmt):
    # Above 2^126 the inverse is a subnormal; scale * target must not round up to Inf.
    return min(2.0**126, FP32.max * (1 - 2.0**-22) / _target(fmt))


def _target(fmt):
    """Magnitude onto which the prescale maps a variable's largest magnitude."""
    return min(fmt.max, _MAX_TARGET * (2 - 2.0**-fmt.mantissa_bits))
