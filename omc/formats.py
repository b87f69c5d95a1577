"""Number formats: what a code means. SxEyMz minifloats, INTn integers and FP32.

A *code* is an unsigned integer of `bits` bits. This module is the specification, in plain Python
and float64; `omc.codecs` has the fast vector form, tested against this one code by code and
against an independent implementation.

Minifloats `SxEyMz` (x sign, y exponent, z mantissa bits; notation of OMC, arXiv 2205.03494).
With exponent field e, mantissa field m and bias B = 2^(y-1) - 1:

    e = 0:  value = (-1)^s * m * 2^(1 - B - z)              (subnormals are kept)
    e > 0:  value = (-1)^s * (1 + m / 2^z) * 2^(e - B)

Ours, where the paper is silent: there are no Inf and NaN codes, so the top exponent holds ordinary
numbers; values beyond the largest saturate; ties round to the even code; -0 has a code. For y = 8
the top exponent would mean 2^128, beyond float32: those codes are never written and read as +-max.
`S0EyMz` has no sign: negative values become 0.

Integers `INTn`: two's complement, -2^(n-1) .. 2^(n-1) - 1, ties to even, saturating.

`FP32`: IEEE float32, stored as it is.

`SxEyMz+k` and `INTn+k` (ours; "S1E3M5+2", "INT4+4") have k *feedback bits*: codes have k more
mantissa bits (the integer k more bits), which updates add to and round to. A read rounds them away,
half away from zero (integers half up), and saturates at the largest value before the "+". What a
read loses is thus kept for the next update: error feedback, inside `bits`. It is also how a lower
precision is read out of stored codes (`omc.nested`): INT4+4 is what 4 of INT8's bits say.

`INT1+k` has no code for 0 (mid-rise, after AdaBits, CVPR 2020): a read rounds down and adds half a
step of what is left, which gives -2^(k-1) or 2^(k-1).

`INTn>>k` and `SxEyMz>>k` are the same codes read by a bare shift: the k bits are cut off (integers
towards minus infinity, magnitudes towards zero). It is the cheaper, worse read that others use, for
comparison.
"""

import dataclasses
import functools
import math
import re

from omc.errors import FormatError

_MINIFLOAT = re.compile(r"S([01])E(\d+)M(\d+)(?:(\+|>>)([1-9]\d*))?")
_INTEGER = re.compile(r"INT(\d+)(?:(\+|>>)([1-9]\d*))?")
_ALLOWED = (
    "'SxEyMz' with x in 0..1, y in 2..8, z in 0..23, or 'INT2'..'INT8', either with '+k' for k "
    "feedback bits (z + k up to 23, INT up to 8 in sum, from 'INT1+1'; '>>k' to cut them off), or "
    "'FP32'"
)


@dataclasses.dataclass(frozen=True)
class Format:
    """One number format; make it with `Format.parse`.

    Attributes:
        name: Canonical name, for example "S1E3M7".
        kind: "minifloat", "int" or "fp32".
        bits: Width of a code, in bits, feedback bits included.
        sign_bits: 0 or 1.
        exponent_bits: y of SxEyMz; 0 for integers.
        mantissa_bits: z + k of SxEyMz+k; bits - 1 for integers.
        feedback_bits: k, the lowest bits of a code, which reads round away.
        truncates: Whether reads cut them off instead.
    """

    name: str
    kind: str
    bits: int
    sign_bits: int
    exponent_bits: int
    mantissa_bits: int
    feedback_bits: int = 0
    truncates: bool = False

    @staticmethod
    def parse(spec):
        """Returns the `Format` that a name (or a Format) stands for; case does not matter.

        Raises:
            FormatError: `spec` is no known format.
        """
        if isinstance(spec, Format):
            return spec
        if not isinstance(spec, str):
            raise FormatError("format", f"a Format or a name: {_ALLOWED}", spec)
        return _parse_name(spec)

    @property
    def is_fp32(self):
        """Whether values are stored as they are."""
        return self.kind == "fp32"

    @property
    def bias(self):
        """Exponent bias B = 2^(y-1) - 1; 0 for integers."""
        return 2 ** (self.exponent_bits - 1) - 1 if self.exponent_bits else 0

    @property
    def max(self):
        """Largest value of the format (float)."""
        if self.kind == "int":
            return float(2 ** (self.bits - 1) - 1)
        return self._magnitude(self.max_code)

    @property
    def min(self):
        """Smallest value of the format (float): -max, -2^(n-1) for INTn, 0 for S0EyMz."""
        if self.kind == "int":
            return -self.max - 1.0
        return -self.max if self.sign_bits else 0.0

    @property
    def limit(self):
        """Magnitude from which a value no longer rounds into the range: max + half a step there."""
        if self.kind == "int":
            return self.max + 0.5
        _, exponent = math.frexp(self.max)
        return min(self.max + 2.0 ** (exponent - 2 - self.mantissa_bits), FP32.max)

    @property
    def min_normal(self):
        """Smallest normal magnitude, 2^(1 - B), of a minifloat; 1 for integers."""
        return 2.0 ** (1 - self.bias) if self.exponent_bits else 1.0

    @property
    def step(self):
        """Distance of neighbouring codes near zero: 2^(1 - B - z); 1 for integers."""
        return 2.0 ** (1 - self.bias - self.mantissa_bits) if self.exponent_bits else 1.0

    @property
    def max_code(self):
        """Code of `max`, without the sign bit."""
        if self.kind == "int":
            return 2 ** (self.bits - 1) - 1
        fields = self.exponent_bits + self.mantissa_bits
        reserved = 2**self.mantissa_bits if self.exponent_bits == 8 else 0
        return 2**fields - 1 - reserved

    def decode(self, code):
        """Value of one code (float); the scalar specification.

        Args:
            code: int in 0 .. 2^bits - 1.
        """
        if self.kind == "int":
            half = 2 ** (self.bits - 1)
            return float(self._read((code ^ half) - half))
        fields = self.exponent_bits + self.mantissa_bits
        magnitude = self._magnitude(self._read(min(code & (2**fields - 1), self.max_code)))
        return -magnitude if code >> fields else magnitude

    @property
    def read_max(self):
        """Largest code magnitude that a read gives: that of `max` without the feedback bits."""
        return self.read_offset or self.max_code >> self.feedback_bits << self.feedback_bits

    @property
    def read_offset(self):
        """What a read adds after rounding down, for INT1+k; 0 for formats that round to nearest."""
        mid_rise = self.kind == "int" and self.bits - self.feedback_bits == 1 and not self.truncates
        return 2 ** (self.feedback_bits - 1) if mid_rise else 0

    def _read(self, code):
        if not self.feedback_bits:
            return code
        if self.read_offset:
            return (code >> self.feedback_bits << self.feedback_bits) + self.read_offset
        half = 0 if self.truncates else 2 ** (self.feedback_bits - 1)
        steps = (code + half) >> self.feedback_bits
        return min(steps << self.feedback_bits, self.read_max)

    def encode(self, value):
        """Code nearest to one finite value, ties to even, saturating; the scalar specification.

        Args:
            value: float, finite.
        """
        if self.kind == "int":
            rounded = round(min(max(value, self.min), self.max))
            return rounded & (2**self.bits - 1)
        negative = math.copysign(1.0, value) < 0
        if negative and not self.sign_bits:
            return 0
        code = self._magnitude_code(min(abs(value), self.max))
        fields = self.exponent_bits + self.mantissa_bits
        return code | (int(negative) << fields)

    def _magnitude(self, code):
        exponent, mantissa = divmod(code, 2**self.mantissa_bits)
        if exponent == 0:
            return mantissa * self.step
        return (2**self.mantissa_bits + mantissa) * 2.0 ** (
            exponent - self.bias - self.mantissa_bits
        )

    def _magnitude_code(self, magnitude):
        # Within one binade codes are equally spaced, so rounding is rounding to an integer there.
        _, exponent = math.frexp(magnitude)
        exponent = max(exponent - 1, 1 - self.bias) if magnitude else 1 - self.bias
        ratio = magnitude / 2.0 ** (exponent - self.mantissa_bits)
        steps = round(ratio)
        if ratio == 1.5 and not self.mantissa_bits:  # Even is the code, not the count of steps.
            steps = 1 + (exponent + self.bias) % 2
        return min((exponent + self.bias - 1) * 2**self.mantissa_bits + steps, self.max_code)


@functools.cache
def _parse_name(spec):
    name = spec.strip().upper()
    if name == "FP32":
        return Format("FP32", "fp32", 32, 1, 8, 23)
    if match := _INTEGER.fullmatch(name):
        width, sign, feedback = int(match[1]), match[2], int(match[3] or 0)
        bits = width + feedback
        if width >= 1 and 2 <= bits <= 8:
            named, shift = _named(f"INT{width}", sign, feedback), sign == ">>"
            return Format(named, "int", bits, 1, 0, bits - 1, feedback, shift)
    if match := _MINIFLOAT.fullmatch(name):
        sign, exponent, mantissa, feedback = (int(match[group] or 0) for group in (1, 2, 3, 5))
        fine = mantissa + feedback
        if 2 <= exponent <= 8 and fine <= 23:
            named = _named(f"S{sign}E{exponent}M{mantissa}", match[4], feedback)
            bits, shift = sign + exponent + fine, match[4] == ">>"
            return Format(named, "minifloat", bits, sign, exponent, fine, feedback, shift)
    raise FormatError("format", _ALLOWED, spec, "for example 'S1E3M7' (11 bits a weight).")


def _named(name, separator, feedback_bits):
    return f"{name}{separator}{feedback_bits}" if feedback_bits else name


FP32 = _parse_name("FP32")
