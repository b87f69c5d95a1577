"""Every code of every format up to 16 bits against gfloat, an oracle that shares no code with ours.

Three things must agree: the scalar specification (`Format.decode`, `Format.encode`), the product
(`omc.compress` without a transform) and the oracle. Wider formats are sampled.
"""

import dataclasses

import gfloat
import numpy as np
import pytest
import tensorflow as tf

from omc import packing
from omc.codecs import Codec
from omc.compressed import CompressedTensor, compress, decompress
from omc.errors import FormatError, OmcError
from omc.formats import FP32, Format

INTEGERS = [f"INT{bits}" for bits in range(2, 9)]
# Every format up to 16 bits, by family: to start a test costs more than to run it.
FAMILIES = {"INT": INTEGERS}
for sign in (0, 1):
    for exponent in range(2, 9):
        family = f"S{sign}E{exponent}"
        FAMILIES[family] = [f"{family}M{mantissa}" for mantissa in range(17 - sign - exponent)]
MINIFLOATS = [name for family, names in FAMILIES.items() if family != "INT" for name in names]
WIDE = ["S1E4M14", "S0E2M20", "S1E3M20", "S1E2M23", "S0E6M23", "S1E8M15", "S0E8M23", "S1E8M23"]
FLOAT32_MAX = float(np.finfo(np.float32).max)
SPEC_CODES = 4096  # The scalar specification is slow: larger formats are sampled for it.


def oracle(fmt):
    """gfloat's description of a format, written from the notation alone."""
    if fmt.name.startswith("INT"):
        bits = int(fmt.name[3:])
        fields = {"k": bits, "precision": bits, "bias": 2 - bits, "is_signed": True}
    else:
        sign, exponent, mantissa = (int(part) for part in fmt.name[1:].replace("M", "E").split("E"))
        fields = {
            "k": sign + exponent + mantissa,
            "precision": mantissa + 1,
            "bias": 2 ** (exponent - 1) - 1,
            "is_signed": sign == 1,
        }
    integer = fmt.name.startswith("INT")
    return gfloat.FormatInfo(
        fmt.name,
        **fields,
        domain=gfloat.Domain.Finite,
        has_nz=fields["is_signed"] and not integer,
        num_high_nans=0,
        has_subnormals=True,
        is_twos_complement=integer,
    )


def clipped(fmt, values):
    """With an exponent of 8 bits, 2^128 and above are no float32: our format ends before them."""
    return np.clip(values, -fmt.max, fmt.max) if fmt.exponent_bits == 8 else values


def oracle_values(fmt, codes):
    return clipped(fmt, gfloat.decode_ndarray(oracle(fmt), codes))


def oracle_rounded(fmt, values):
    values = np.asarray(values, np.float64)
    if fmt.name.startswith("S0"):
        values = np.where(values > 0, values, 0.0)
    return clipped(fmt, gfloat.round_ndarray(oracle(fmt), values, sat=True))


def same(got, expected, fmt):
    """Equal as numbers and in the sign of zero."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_array_equal(got, expected, fmt.name)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(expected), fmt.name)


def product_decode(fmt, codes):
    codec = Codec(fmt, (len(codes),), transform=False)
    padded = np.pad(codes, (0, -len(codes) % 8)).astype(np.uint32).view(np.int32)
    buffer = tf.concat(packing.pack(tf.constant(padded.reshape(8, -1)), fmt.bits), 0)
    return decompress(CompressedTensor(buffer, codec)).numpy()


def product_encode(fmt, values):
    stored = compress(values, fmt, transform=None)
    assert stored.nbytes == -(-len(values) // 8) * fmt.bits
    return stored.codes.numpy().view(np.uint32)


def written_codes(fmt):
    """All codes that are ever written: with y = 8 the top exponent is reserved."""
    codes = np.arange(2**fmt.bits)
    if fmt.exponent_bits < 8:
        return codes
    return codes[(codes >> fmt.mantissa_bits) % 256 < 255]


def positions(values, wanted, fmt):
    """Where each wanted value stands in `values`: codes by look-up, without our own decode."""
    order = np.lexsort((~np.signbit(values), values))  # -0 before +0.
    keys = values[order]
    found = np.searchsorted(keys, wanted)
    found += (wanted == 0) & ~np.signbit(wanted) & np.signbit(keys[found])
    same(keys[found], wanted, fmt)
    return order[found]


def hard_values(fmt, values):
    """Where rounding can go wrong: ties, their neighbours, the ends, both signs (float32)."""
    ties = (values[1:] + values[:-1]) / 2
    assert np.array_equal(ties, ties.astype(np.float32)), "a tie must be exact to be a tie"
    ties = ties.astype(np.float32)
    top, step = np.float32(values[-1]), np.float32(values[values > 0][0])
    ends = np.array([fmt.limit, 1.5 * top, 4 * top, 1e30, FLOAT32_MAX])
    ends = np.minimum(ends, FLOAT32_MAX).astype(np.float32)
    tiny = np.float32([0.0, step / 4, step / 1000, 1e-38, 1e-42, 1e-45])
    rng = np.random.default_rng(fmt.bits)
    spread = np.exp2(rng.uniform(np.log2(step) - 2, min(np.log2(top) + 2, 127.9), 500))
    wanted = [ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))]
    wanted += [ends, np.nextafter(ends, np.float32(0)), tiny, spread.astype(np.float32)]
    magnitudes = np.concatenate(wanted)
    return np.concatenate([magnitudes, -magnitudes])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_code_decodes_as_the_oracle(family):
    for fmt in map(Format.parse, FAMILIES[family]):
        codes = np.arange(2**fmt.bits)
        expected = oracle_values(fmt, codes)
        same(product_decode(fmt, codes), expected, fmt)
        few = len(codes) <= SPEC_CODES
        some = codes if few else np.random.default_rng(0).choice(codes, SPEC_CODES // 4)
        same([fmt.decode(int(code)) for code in some], expected[some], fmt)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_and_tie_encodes_as_the_oracle(family):
    for fmt in map(Format.parse, FAMILIES[family]):
        codes = written_codes(fmt)
        values = oracle_values(fmt, codes)
        same(values, values.astype(np.float32), fmt)
        got = product_encode(fmt, values.astype(np.float32))
        np.testing.assert_array_equal(got, codes, fmt.name)

        hard = hard_values(fmt, np.sort(values[~np.signbit(values)]))
        expected = codes[positions(values, oracle_rounded(fmt, hard), fmt)]
        np.testing.assert_array_equal(product_encode(fmt, hard), expected, fmt.name)

        few = len(hard) <= SPEC_CODES
        count = len(hard)
        some = np.arange(count) if few else np.random.default_rng(1).choice(count, SPEC_CODES // 4)
        got = [fmt.encode(float(value)) for value in hard[some]]
        np.testing.assert_array_equal(got, expected[some], fmt.name)


@pytest.mark.parametrize("name", WIDE)
def test_wide_formats_sampled_as_the_oracle(name):
    fmt = Format.parse(name)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**fmt.bits, 4000)
    edge = 2**fmt.mantissa_bits  # The least normal number and its neighbours.
    codes[:6] = 0, 1, edge - 1, edge, edge + 1, 2**fmt.bits - 1
    expected = oracle_values(fmt, codes)
    same(product_decode(fmt, codes), expected, fmt)
    same([fmt.decode(int(code)) for code in codes[:500]], expected[:500], fmt)

    values = expected.astype(np.float32)
    same(values, expected, fmt)
    offsets = np.exp2(rng.uniform(-25, -1, len(values)))
    hard = np.concatenate([values, np.clip(values * (1 + offsets), -FLOAT32_MAX, FLOAT32_MAX)])
    hard = hard.astype(np.float32)
    rounded = oracle_rounded(fmt, hard)
    got = product_encode(fmt, hard)
    same(oracle_values(fmt, got.astype(np.int64)), rounded, fmt)
    np.testing.assert_array_equal([fmt.encode(float(value)) for value in hard[:500]], got[:500])


@pytest.mark.parametrize("name", ["S1E8M7", "S0E8M3", "S1E8M0", "S1E8M15"])
def test_reserved_codes_of_eight_exponent_bits(name):
    """Read as +-max, never written, however large the value."""
    fmt = Format.parse(name)
    fields = fmt.exponent_bits + fmt.mantissa_bits
    reserved = np.arange(255 << fmt.mantissa_bits, 256 << fmt.mantissa_bits)
    for sign in range(fmt.sign_bits + 1):
        codes = reserved + (sign << fields)
        expected = np.full(len(codes), -fmt.max if sign else fmt.max)
        same(product_decode(fmt, codes), expected, fmt)
        same([fmt.decode(int(code)) for code in codes[:9]], expected[:9], fmt)
    assert fmt.max == (2 - 2.0**-fmt.mantissa_bits) * 2.0**127 <= FLOAT32_MAX
    largest = product_encode(fmt, np.float32([FLOAT32_MAX, np.nextafter(FLOAT32_MAX, 0)]))
    assert set(largest) == {reserved[0] - 1} == {fmt.encode(FLOAT32_MAX)}


@pytest.mark.parametrize("name", ["S1E8M23", "S1E8M7"])
def test_float32_subnormals_are_exact_with_eight_exponent_bits(name):
    """TensorFlow flushes subnormals in arithmetic; bare codes are made by bits alone."""
    fmt = Format.parse(name)
    step = 2.0 ** (-126 - fmt.mantissa_bits)
    values = (np.array([1, -1, 3, -(2**fmt.mantissa_bits - 1)]) * step).astype(np.float32)
    restored = decompress(compress(values, fmt, transform=None)).numpy()
    np.testing.assert_array_equal(restored.view(np.uint32), values.view(np.uint32))


def test_fp32_keeps_bits():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint32)
    bits = bits[bits >> 23 & 255 < 255]
    bits = np.append(bits, np.uint32([0, 1 << 31, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0xFF7FFFFF]))
    for transform in ("pvt", None):
        stored = compress(bits.view(np.float32), "FP32", transform=transform)
        assert stored.nbytes == 4 * len(bits)
        np.testing.assert_array_equal(decompress(stored).numpy().view(np.uint32), bits)
    values = bits[:500].view(np.float32)
    same([FP32.decode(int(code)) for code in bits[:500]], values, FP32)
    np.testing.assert_array_equal([FP32.encode(float(value)) for value in values], bits[:500])


def test_minifloat_properties():
    for name in MINIFLOATS + WIDE:
        fmt, info = Format.parse(name), oracle(Format.parse(name))
        assert fmt.kind == "minifloat" and not fmt.is_fp32
        assert (fmt.bits, fmt.bias) == (info.k, info.bias)
        assert fmt.step == oracle_values(fmt, np.array([1]))[0]
        assert fmt.min_normal == oracle_values(fmt, np.array([2**fmt.mantissa_bits]))[0]
        assert fmt.max == clipped(fmt, info.max) == fmt.decode(fmt.max_code)
        assert fmt.min == (-fmt.max if info.is_signed else 0.0)
        spacing = fmt.max - fmt.decode(fmt.max_code - 1)
        half = spacing / 2 if fmt.mantissa_bits else spacing  # M0: the spacing halves below max.
        assert fmt.limit == min(fmt.max + half, FLOAT32_MAX)


def test_integer_properties():
    for bits in range(2, 9):
        fmt = Format.parse(f"INT{bits}")
        assert (fmt.kind, fmt.bits, fmt.is_fp32) == ("int", bits, False)
        assert (fmt.min, fmt.max) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        assert (fmt.step, fmt.limit) == (1.0, fmt.max + 0.5)


def test_parse_takes_any_case_and_formats():
    for name in MINIFLOATS + INTEGERS + WIDE + ["FP32"]:
        fmt = Format.parse(name)
        assert fmt.name == name
        assert Format.parse(fmt) is fmt
        assert Format.parse(name.lower()) == Format.parse(f" {name} ") == fmt
    with pytest.raises(dataclasses.FrozenInstanceError):
        fmt.bits = 1


def test_parse_of_known_formats():
    known = {name: Format.parse(name) for name in ("S1E3M7", "S1E5M10", "S0E2M1", "INT8", "FP32")}
    assert [fmt.bits for fmt in known.values()] == [11, 16, 3, 8, 32]
    # S1E5M10 is IEEE half but for its Inf and NaN, which are one binade more of numbers here.
    assert [fmt.max for fmt in known.values()] == [31.875, 131008.0, 6.0, 127.0, FLOAT32_MAX]
    assert FP32.is_fp32 and known["FP32"] == FP32


NO_MINIFLOATS = "S2E3M7 S1E1M3 S1E9M2 S1E3M24 S1E3 E3M7 S1E3M7x xS1E3M7 S1M7E3 S-1E3M7 S1E3M-1"
NO_OTHERS = "INT1 INT9 INT16 INT INT-4 UINT8 FP16 FP8 bfloat16 float32"
NO_NAMES = ["", " ", "S1 E3 M7", "S1E3M7\n8", None, 8, 3.5, True, b"S1E3M7", ["S1E3M7"], int]


def test_parse_of_anything_else_is_a_typed_error():
    for bad in NO_MINIFLOATS.split() + NO_OTHERS.split() + NO_NAMES:
        with pytest.raises(FormatError) as caught:
            Format.parse(bad)
        error = caught.value
        assert isinstance(error, OmcError) and isinstance(error, ValueError)
        assert error.argument == "format" and error.got == bad
        shown = bad if isinstance(bad, str) else repr(bad)
        for part in ("`format`", "SxEyMz", "INT2", "FP32", f"but got {shown}"):
            assert part in str(error)
        with pytest.raises(FormatError):
            compress([1.0], bad)
