"""The per-variable transform: least squares against float64, unbiased rounding, the kept range."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from omc import transforms
from omc.codecs import Codec
from omc.compressed import compress, decompress
from omc.formats import Format

EPS = float(np.finfo(np.float32).eps)
FORMATS = ["S1E3M7", "S1E2M3", "S1E5M10", "S1E4M14", "S1E2M0", "S1E8M7", "S0E3M7", "S0E4M3"]
FORMATS += ["INT2", "INT3", "INT4", "INT8"]
ARRAYS = {
    "normal": lambda rng, n: rng.normal(0, 10.0 ** rng.integers(-20, 20), n),
    "skewed": lambda rng, n: rng.exponential(size=n) ** 3,
    "constant": lambda rng, n: np.full(n, rng.normal() * 10.0 ** rng.integers(-20, 20)),
    "two values": lambda rng, n: rng.choice(rng.normal(size=2), n),
    "large offset": lambda rng, n: rng.normal(10.0 ** rng.integers(1, 7), 1.0, n),
    "mixed magnitudes": lambda rng, n: rng.normal(size=n) * 10.0 ** rng.uniform(-30, 30, n),
    "outlier": lambda rng, n: np.append(rng.normal(size=n - 1), 1e4),
    "few levels": lambda rng, n: rng.integers(-3, 4, n),
}


def array_of(kind, count, seed):
    return ARRAYS[kind](np.random.default_rng(seed), count).astype(np.float32)


def prescale(values, fmt):
    """What the largest magnitude is divided by; an exponent range beyond 2^16 is not used."""
    values = np.asarray(values, np.float64)
    largest = np.abs(values).max() if fmt.sign_bits else np.ptp(values)
    return largest / min(fmt.max, 2.0**16 * (2 - 2.0**-fmt.mantissa_bits))


def fitted(values, fmt, seed=None):
    """(u', scale, offset) in float64."""
    codec = Codec(fmt, values.shape)
    buffer = codec.encode(tf.constant(values), seed)
    units = transforms.values_of_codes(codec.codes(buffer), fmt)
    return tuple(np.asarray(part, np.float64) for part in (units, *codec.transform_of(buffer)))


def assert_optimal(values, fmt):
    units, scale, offset = fitted(values, fmt)
    values = values.astype(np.float64)
    error = np.sum((values - scale * units - offset) ** 2)

    centred = units - units.mean()
    variance = np.sum(centred**2)
    slope = np.sum(centred * (values - values.mean())) / variance if variance else 0.0
    least = np.sum((values - values.mean() - slope * centred) ** 2)
    # Scale and offset are float32, so no fit is better than to its last bits.
    tiny = len(values) * (4 * EPS * np.abs(values).max() + 1e-37) ** 2
    assert error <= least * (1 + 1e-5) + tiny


@hypothesis.given(
    st.sampled_from(FORMATS),
    st.sampled_from(sorted(ARRAYS)),
    st.integers(1, 300),
    st.integers(0, 2**32 - 1),
)
@hypothesis.settings(max_examples=300)
def test_fit_is_the_least_squares_optimum(name, kind, count, seed):
    assert_optimal(array_of(kind, count, seed), Format.parse(name))


@hypothesis.given(
    st.sampled_from(FORMATS),
    hnp.arrays(
        np.float32,
        st.integers(1, 20),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
    ),
)
def test_fit_is_the_optimum_on_any_array(name, values):
    assert_optimal(values, Format.parse(name))


@pytest.mark.parametrize("name", ["S1E3M7", "S0E4M3", "INT4"])
def test_fit_of_a_large_variable_sums_well(name):
    rng = np.random.default_rng(0)
    assert_optimal(rng.normal(3.0, 1.0, 10**6).astype(np.float32), Format.parse(name))


@pytest.mark.parametrize("name", FORMATS)
def test_zero_denominator_keeps_the_prescale(name):
    """All codes are equal: s = prescale, b = mean(v - s*u'), so a constant comes back."""
    fmt = Format.parse(name)
    for value in (0.0, -3.7, 1e-20, -1e6, 1e38):
        values = np.full(5, value, np.float32)
        units, scale, offset = fitted(values, fmt)
        if prescale(values, fmt) < 2.0**126:  # Above it 1 / scale is a subnormal.
            np.testing.assert_allclose(scale, prescale(values, fmt) or 1.0, rtol=4 * EPS)
        np.testing.assert_allclose(scale * units + offset, values, rtol=4 * EPS)


def test_zero_denominator_spreads_the_rest():
    """Different values with one code: the offset is the mean of what the code does not say."""
    values = np.float32([0.9, 1.0, 1.0, 0.9])
    units, scale, offset = fitted(values, Format.parse("INT2"))
    np.testing.assert_array_equal(units, np.ones(4))
    assert scale == 1.0 and abs(offset + 0.05) < 4 * EPS


def test_empty_variable():
    for fmt in map(Format.parse, FORMATS):
        units, scale, offset = fitted(np.zeros(0, np.float32), fmt)
        assert units.shape == (0,) and (scale, offset) == (1.0, 0.0)
        one = tf.constant(1.0)
        assert float(transforms.stretch(tf.zeros([0]), one, tf.constant(True), fmt)) == 1.0


def relative_error(values, name, transform):
    restored = decompress(compress(values, name, transform=transform)).numpy()
    return np.linalg.norm(restored - values) / np.linalg.norm(values)


@pytest.mark.parametrize(
    "name, without, with_pvt",
    [("S1E3M7", 0.0127, 0.0017), ("S1E2M3", 0.773, 0.049)],
)
def test_prescale_table(name, without, with_pvt):
    """Weights N(0, 0.044^2), the size of a trained kernel's: bare codes waste or miss the range."""
    values = np.random.default_rng(0).normal(0, 0.044, 100_000).astype(np.float32)
    np.testing.assert_allclose(relative_error(values, name, None), without, rtol=0.05)
    assert relative_error(values, name, "pvt") < 1.02 * with_pvt  # The fit may do better.


@pytest.mark.parametrize("name", FORMATS)
def test_prescale_beats_none(name):
    values = np.random.default_rng(0).normal(0, 0.044, 2000).astype(np.float32)
    # A range as wide as float32's has nothing to gain.
    slack = 1.05 if name == "S1E8M7" else 1.0
    assert relative_error(values, name, "pvt") < slack * relative_error(values, name, None)


def between_codes(fmt, count, rng):
    """(v, lower, upper): random values of the format's range between neighbouring values."""
    if fmt.kind == "int":
        lower = rng.integers(fmt.min, fmt.max, count).astype(np.float64)
        upper, sign = lower + 1, 1.0
    else:
        subnormal = rng.integers(0, 2**fmt.mantissa_bits, count // 2)
        codes = np.append(subnormal, rng.integers(0, fmt.max_code, count - count // 2))
        lower = np.array([fmt.decode(int(code)) for code in codes])
        upper = np.array([fmt.decode(int(code) + 1) for code in codes])
        sign = rng.choice([-1.0, 1.0], count) if fmt.sign_bits else 1.0
    values = lower + rng.uniform(0.05, 0.95, count) * (upper - lower)
    return ((sign * part).astype(np.float32) for part in (values, lower, upper))


def bits_of_noise(shape, seed):
    return tf.random.stateless_uniform(shape, [seed, 7], None, None, tf.int32, alg="philox")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "S1E8M7"])
def test_stochastic_rounding_is_unbiased(name):
    """Half of the values lie among the subnormals, where another piece of code rounds."""
    fmt, draws = Format.parse(name), 1000
    values, lower, upper = between_codes(fmt, 200, np.random.default_rng(0))
    codes = transforms.round_to_codes(
        tf.constant(np.tile(values, (draws, 1))), fmt, bits_of_noise([draws, 200], 0)
    )
    units = transforms.values_of_codes(codes, fmt).numpy().astype(np.float64)
    assert np.all((units == lower) | (units == upper)), "only the two neighbours may come"
    deviation = np.sqrt(np.abs((values - lower) * (upper - values).astype(np.float64)) / draws)
    score = (units.mean(0) - values) / deviation
    assert np.abs(score).max() < 5
    assert np.sqrt(np.mean(score**2)) < 1.3  # Not one-sided luck either: scores are N(0, 1).


@pytest.mark.parametrize("name", ["S1E3M7", "S1E2M3", "S0E3M7", "INT2", "INT4", "INT8"])
def test_stochastic_compression_is_unbiased_and_seeded(name):
    draws = 1000
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    many = np.tile(values, (draws, 1))
    stored = compress(many, name, seed=3)
    restored = decompress(stored).numpy().astype(np.float64)
    spread = np.ptp(restored, axis=0)  # The distance of the two neighbours.
    share = (values - restored.min(0)) / np.where(spread > 0, spread, 1)
    deviation = spread * np.sqrt(np.clip(share * (1 - share), 0, 1) / draws)
    slack = 10 / draws * spread.max() + 1e-6  # Neighbours that never came.
    assert np.all(np.abs(restored.mean(0) - values) <= 5 * deviation + slack)

    again, other = (compress(many, name, seed=seed).buffer.numpy() for seed in (3, 4))
    np.testing.assert_array_equal(again, stored.buffer)
    assert (other != stored.buffer.numpy()).any()


@pytest.mark.parametrize("name", FORMATS + ["S1E3M20", "S1E2M23", "INT5", "INT7"])
def test_noise_picks_a_neighbour(name):
    """Whatever the random bits, a code is less than a step away and an exact value stays."""
    fmt, rng = Format.parse(name), np.random.default_rng(0)
    exact = [fmt.decode(int(code)) for code in rng.integers(0, 2**fmt.bits, 500)]
    exact = np.float32(exact + [fmt.max, fmt.min, 0.0, fmt.step])
    exact = exact[(exact == 0) | (np.abs(exact) > 1e-37)]  # TensorFlow flushes smaller ones.
    near = np.outer(1 + np.array([-1e-2, -1e-4, -1e-7, 1e-7, 1e-4, 1e-2]), exact)
    values = np.append(exact, np.clip(near, fmt.min, fmt.max)).astype(np.float32)
    _, exponent = np.frexp(np.maximum(np.abs(values), fmt.min_normal).astype(np.float64))
    step = np.exp2(exponent - 1.0 - fmt.mantissa_bits) if fmt.kind == "minifloat" else 1.0
    step = np.broadcast_to(step, values.shape)

    same_bits = [np.full(values.shape, bits, np.int32) for bits in (0, 1, 0x400000, 0x7FFFFF, -1)]
    for noise in [*same_bits, bits_of_noise(values.shape, 1)]:
        codes = transforms.round_to_codes(tf.constant(values), fmt, noise)
        units = transforms.values_of_codes(codes, fmt).numpy().astype(np.float64)
        np.testing.assert_array_less(np.abs(units - values), step)
        np.testing.assert_array_equal(units[: len(exact)], exact)


@pytest.mark.parametrize("name", ["S1E3M7", "S0E3M7", "INT4"])
def test_noise_leaves_the_least_squares_out(name):
    """It would shrink towards the mean what is unbiased."""
    fmt = Format.parse(name)
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    _, scale, offset = fitted(values, fmt, tf.constant([1, 2]))
    np.testing.assert_allclose(scale, prescale(values, fmt), rtol=4 * EPS)
    assert offset == (0.0 if fmt.sign_bits else values.min())


@pytest.mark.parametrize("name", ["S1E3M7", "S1E2M0"])
def test_negative_zero_is_a_choice(name):
    fmt = Format.parse(name)
    values = tf.constant([-0.0, -fmt.step / 8, 0.0, -1.0])
    sign = 2 ** (fmt.bits - 1)
    for symmetric in (False, True):
        codes = transforms.round_to_codes(values, fmt, symmetric=symmetric)
        zero = 0 if symmetric else sign
        expected = [zero, zero, 0, fmt.encode(-1.0)]
        np.testing.assert_array_equal(codes.numpy() & (2**fmt.bits - 1), expected)


@pytest.mark.parametrize("name", ["INT2", "INT8"])
def test_an_integers_lowest_code_is_out_of_range_under_a_transform(name):
    fmt = Format.parse(name)
    for noise in (None, tf.constant([0, -1])):
        codes = transforms.round_to_codes(tf.constant([fmt.min, fmt.min + 0.4]), fmt, noise, True)
        np.testing.assert_array_equal(codes, [-fmt.max, -fmt.max])


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("name", ["S1E3M7", "S0E4M3", "S1E8M7", "S1E2M23", "INT4"])
def test_xla_rounds_and_reads_alike(name, noisy):
    fmt, rng = Format.parse(name), np.random.default_rng(0)
    values = rng.normal(size=4000) * np.exp2(rng.uniform(-20, 8, 4000))
    values = tf.constant(np.append(values, [0.0, -0.0, fmt.max, fmt.min, 1e38]).astype(np.float32))
    noise = bits_of_noise(values.shape, 2) if noisy else None

    def both(values):
        codes = transforms.round_to_codes(values, fmt, noise)
        return codes, tf.bitcast(transforms.values_of_codes(codes, fmt), tf.int32)

    for here, there in zip(both(values), tf.function(both, jit_compile=True)(values)):
        np.testing.assert_array_equal(here, there)


@hypothesis.given(st.sampled_from(FORMATS), st.floats(0.15, 1e20), st.floats(2.0**-90, 1e5))
def test_stretch_holds_what_has_moved(name, excess, scale):
    fmt = Format.parse(name)
    largest = np.float32(min(fmt.limit * excess, 2.0**127))
    factor = stretched(fmt, largest, scale)
    if largest <= fmt.limit * (1 - EPS):
        assert factor == 1.0
    elif fmt.limit * (1 + EPS) < largest < 2.0**126 / max(fmt.max, 1) / scale:
        assert largest / factor <= fmt.limit * (1 + EPS)
        if fmt.kind == "int":
            np.testing.assert_allclose(factor, 1.25 * largest / fmt.limit, rtol=0.01)
        else:
            assert np.log2(factor).is_integer()
            assert largest / (factor / 2) >= fmt.limit * (1 - EPS), "no wider than needed"
    assert factor >= 1.0
    if factor > 1.0:
        assert factor * scale * max(fmt.max, 1) < 2.0**127.01, "decoded values stay finite"


@hypothesis.given(
    st.sampled_from(FORMATS), st.integers(-90, -4), st.floats(1.01, 1.99), st.floats(2.0**-90, 1e5)
)
def test_stretch_narrows_what_lies_far_below_the_range(name, exponent, mantissa, scale):
    fmt = Format.parse(name)
    top = min(fmt.max, 2.0**16 * (2 - 2.0**-fmt.mantissa_bits))  # Where a fit puts the largest.
    largest = np.float32(top * mantissa * 2.0**exponent)
    assert stretched(fmt, largest, scale, moved=False) == 1.0
    factor = stretched(fmt, largest, scale)
    assert np.log2(factor).is_integer() and factor < 1.0, "no code that stays is rounded anew"
    assert factor * scale >= transforms.MIN_SCALE
    if exponent >= -79 and factor * scale >= 2 * transforms.MIN_SCALE:
        assert top / 2 * (1 - EPS) <= largest / factor <= top * (1 + EPS)


def stretched(fmt, largest, scale, moved=True):
    values = tf.constant([0.0, -largest if fmt.sign_bits else largest, largest / 2])
    scale = tf.constant(scale, tf.float32)
    return float(transforms.stretch(values, scale, tf.constant(moved), fmt))
