"""Codecs: what updates do to a buffer, in eager code, graphs and XLA."""

import numpy as np
import pytest
import tensorflow as tf

from omc import codecs
from omc.alternative_codecs import AlternativeCodec, raw_codec
from omc.codecs import Codec
from omc.compressed import CompressedTensor, compress, decompress
from omc.errors import InputError
from omc.formats import Format
from tests.stored import CODED, EPS, FLOAT32_MAX, SHAPES, assert_same_buffer, units_of, weights

UP_TO_E5 = [name for name in CODED if "E8" not in name]
LARGE = (1 << 16) + 3  # From 2^16 weights on XLA compiles the codec.


def seed_of(number):
    return tf.constant([number, 0], tf.int32)


def added(stored, delta, seed=None):
    delta = tf.constant(np.broadcast_to(np.float32(delta), stored.shape))
    return CompressedTensor(stored.codec.add(stored.buffer, delta, seed), stored.codec)


def assert_nearest_codes(moved, sums, size):
    """No code of the format is nearer to `sums` (dense, float64) than the stored one.

    Args:
        size: Magnitude of the terms of the sum: what float32 loses is relative to it.
    """
    fmt = moved.format
    wanted = (np.ravel(sums) - moved.offset) / moved.scale
    nearest = np.array([fmt.decode(fmt.encode(float(unit))) for unit in wanted])
    slack = 8 * EPS * np.ravel(size) / moved.scale + 1e-36
    assert np.all(np.abs(units_of(moved) - wanted) <= np.abs(nearest - wanted) + slack)


# Re-encoding.


@pytest.mark.parametrize("transform", ["pvt", None])
@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_adding_nothing_keeps_every_bit(name, transform):
    for shape in SHAPES:
        stored = compress(weights(shape), name, transform=transform)
        moved = added(stored, -1e-9)  # Sums that round to zero from below.
        assert_same_buffer(added(stored, 0.0), stored)
        assert_same_buffer(added(stored, -0.0, seed_of(1)), stored)
        assert_same_buffer(added(moved, 0.0), moved)


@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_adding_nothing_keeps_odd_variables(name):
    cases = [[0.0] * 9, [1e38, -1e38, 1.0], [5.0] * 9, [1e-30, 2e-30], [1e6, 1e6 + 1, 1e6 + 2]]
    cases += [[-1e-42, 1e-45, 1e-40, -0.0], [1e-20, 1.0, 1e20, -1e20], [-3.0]]
    for case in cases:
        stored = compress(np.float32(case), name)
        assert_same_buffer(added(stored, 0.0), stored)


@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_assigning_what_was_read_keeps_every_bit(name):
    for transform in ("pvt", None):
        for shape in SHAPES + [(2000,)]:
            stored = compress(weights(shape), name, transform=transform)
            for factor in (0.0, -0.7):  # After the second, most of the range is unused.
                stored = added(stored, factor * decompress(stored))
                for seed in (None, seed_of(3)):
                    buffer = stored.codec.assign(stored.buffer, decompress(stored), seed)
                    np.testing.assert_array_equal(buffer, stored.buffer)


@pytest.mark.parametrize("name", CODED)
def test_compressing_what_was_read_changes_no_value(name):
    """Holds where the fit has no offset to add to the prescale: values that are symmetric, or S0.

    Elsewhere a second fit may round anew, which is why updates keep the transform.
    """
    values = weights((500,))
    once = decompress(compress(np.concatenate([values, -values]), name)).numpy()
    twice = decompress(compress(once, name)).numpy()
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-6 * np.abs(once).max())


@pytest.mark.parametrize("name", CODED)
def test_assign_keeps_a_transform_that_fits_and_no_other(name):
    stored = compress(weights((500,)), name)
    dense = decompress(stored)
    for factor in (0.01, 0.9, 100.0):
        values = stored.offset + factor * (dense - stored.offset)
        got = CompressedTensor(stored.codec.assign(stored.buffer, values), stored.codec)
        if factor == 0.9 and name in UP_TO_E5:
            assert (got.scale, got.offset) == (stored.scale, stored.offset)
            size = np.abs(values) + abs(stored.offset)
            assert_nearest_codes(got, values.numpy().astype(np.float64), size)
        else:
            np.testing.assert_array_equal(got.buffer, stored.codec.encode(values))


def test_assign_refits_what_falls_below_an_unsigned_range():
    stored = compress(np.linspace(1.0, 2.0, 50), "S0E3M7")
    values = np.linspace(0.5, 1.9, 50).astype(np.float32)
    got = CompressedTensor(stored.codec.assign(stored.buffer, tf.constant(values)), stored.codec)
    assert np.abs(decompress(got) - values).max() < 0.01


# Updates.


@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_zeros_take_the_range_of_what_is_added(name, transform):
    codec = Codec(Format.parse(name), (3, 5), transform and name != "FP32")
    zeros = codec.zeros()
    assert zeros.shape == codec.nbytes and not codec.decode(zeros).numpy().any()
    if codec.transform:
        values = np.abs(weights((3, 5), size=1e-9))
        restored = codec.decode(codec.add(zeros, tf.constant(values))).numpy()
        fmt = codec.format
        assert np.abs(restored - values).max() <= 2 * (fmt.limit - fmt.max) / fmt.max * values.max()


@pytest.mark.parametrize("name", CODED)
def test_a_range_far_above_the_values_narrows_and_re_rounds_nothing(name):
    """A spike widens the range; the updates after it narrow it again."""
    first = np.float32(np.arange(40) == 0)
    wide = added(compress(weights((40,)), name), 100.0 * first)
    low = added(wide, -decompress(wide) * first)
    narrow = added(low, 0.01 * first)
    assert narrow.scale < wide.scale / 4 or name == "S1E8M7"  # Which holds the spike as it is.
    np.testing.assert_array_equal(decompress(narrow)[1:], decompress(wide)[1:])
    error = abs(float(decompress(narrow)[0] - decompress(low)[0]) - 0.01)
    assert error <= 0.5 * narrow.scale * narrow.format.max * step_at_top(narrow.format)
    for stored in (wide, low, narrow):
        assert_same_buffer(added(stored, 0.0), stored)


@pytest.mark.parametrize("name", [n for n in CODED if n not in ("INT2", "S1E2M0")])
def test_zeros_move_as_far_as_plain_zeros_do(name):
    """Sixty steps towards a target, from zeros as `compress` stores them."""
    target = weights((300,))
    stored = compress(np.zeros(300, np.float32), name)
    for step in range(60):
        stored = added(stored, 0.1 * (target - decompress(stored)), seed_of(step))
    error = np.linalg.norm(decompress(stored) - target) / np.linalg.norm(target)
    assert error < 0.01 + 2 * step_at_top(stored.format)


def step_at_top(fmt):
    """Distance of the largest codes, relative to the largest."""
    return 2 * (fmt.limit - fmt.max) / fmt.max


@pytest.mark.parametrize("transform, size", [("pvt", 0.1), ("pvt", 1e-3), (None, 0.1)])
@pytest.mark.parametrize("name", CODED)
def test_add_rounds_the_sum_to_the_nearest_codes(name, transform, size):
    """Against float64, in the units of the kept scale."""
    fmt = Format.parse(name)
    reach = 0.05 if transform else min(fmt.max / 4, 100.0)
    stored = compress(np.abs(weights(size=reach)), name, transform=transform)
    old = units_of(stored) * stored.scale + stored.offset
    delta = np.random.default_rng(1).normal(0, size * reach, stored.shape).astype(np.float32)
    largest = np.argmax(old)
    room = np.minimum(0, old[largest] - old) if fmt.sign_bits else np.minimum(delta.ravel(), 0)
    delta.flat[largest] = room[largest]
    if not fmt.sign_bits:
        delta = np.abs(delta)  # An unsigned range has no room below.
    delta = np.where(old.reshape(delta.shape) + delta > old[largest], 0, delta).astype(np.float32)

    moved = added(stored, delta)
    assert (moved.scale, moved.offset) == (stored.scale, stored.offset)
    size = np.abs(old - stored.offset) + np.abs(delta.ravel())
    assert_nearest_codes(moved, old + delta.ravel(), size)
    negated = stored.codec.add(stored.buffer, tf.constant(-delta), sign=-1.0)
    np.testing.assert_array_equal(negated, moved.buffer)


def test_bare_codes_saturate():
    for fmt in map(Format.parse, CODED):
        ends = np.float32([fmt.max, fmt.min, 0])
        stored = compress(ends, fmt, transform=None)
        top = min(2 * fmt.max, FLOAT32_MAX / 2)
        moved = added(stored, [top, -top, 0])
        np.testing.assert_array_equal(decompress(moved), ends, fmt.name)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("times", [1.6, 2.0, 1e20])
@pytest.mark.parametrize("name", UP_TO_E5)
def test_a_sum_beyond_the_range_widens_it(name, times, sign):
    fmt = Format.parse(name)
    stored = compress(np.append(np.linspace(-1, 1, 40), 1.0), name)
    old = units_of(stored) * stored.scale + stored.offset
    reach = fmt.max * stored.scale
    delta = np.zeros(41, np.float32)
    delta[20] = sign * times * reach
    sums = old + delta

    moved = added(stored, delta)
    if sign > 0 or fmt.sign_bits:
        factor = moved.scale / stored.scale
        assert moved.offset == stored.offset and factor > 1
        assert fmt.kind == "int" or np.log2(factor).is_integer()
        assert_nearest_codes(moved, sums, np.abs(old) + np.abs(delta) + abs(stored.offset))
        # What has not moved and stays normal is the same number, not just a near one.
        kept = (delta == 0) & (np.abs(units_of(moved)) >= fmt.min_normal) & (fmt.kind != "int")
        before, after = decompress(stored).numpy(), decompress(moved).numpy()
        np.testing.assert_array_equal(after[kept], before[kept])
    # The moved element is as exact as the format makes it: it did not saturate.
    coarse = 2 * (fmt.limit - fmt.max) / fmt.max * np.abs(sums[20]) + 1e-6
    assert abs(decompress(moved).numpy()[20] - sums[20]) <= max(coarse, 1.3 * moved.scale)


@pytest.mark.parametrize("name", ["S1E3M7", "S0E3M7", "INT8"])
def test_a_widened_variable_has_room_for_more(name):
    """A weight that walks away, one step at a time, ends where it does in float64."""
    stored = compress(np.linspace(0, 1, 50), name)
    for _ in range(40):
        delta = np.zeros(50, np.float32)
        delta[7] = 0.5
        stored = added(stored, delta)
    half_step = (stored.format.limit - stored.format.max) * stored.scale
    assert abs(decompress(stored).numpy()[7] - (7 / 49 + 20)) <= 20 * half_step


@pytest.mark.parametrize("name", CODED + ["FP32"])
def test_deltas_that_are_not_finite_change_nothing(name):
    stored = compress(weights((7,)), name)
    delta = np.float32([np.nan, 0, np.inf, 0.01, -np.inf, 0.0, 0.02])
    if not stored.format.sign_bits:
        delta = np.abs(delta)
    assert_same_buffer(added(stored, [np.nan, np.inf, -np.inf, np.nan, 0, 0, 0]), stored)
    expected = added(stored, np.where(np.isfinite(delta), delta, 0))
    assert_same_buffer(added(stored, delta), expected)
    assert (expected.buffer.numpy() != stored.buffer.numpy()).any() or name == "INT2"


@pytest.mark.parametrize("name", ["S1E3M7", "S0E3M7", "INT4", "INT8"])
def test_stochastic_updates_are_unbiased(name):
    """A delta far below a step moves the mean, where rounding to nearest would lose it."""
    values = np.tile(np.linspace(0.05, 1, 20), (1000, 1))
    stored = compress(values, name)
    step = 2 * (stored.format.limit - stored.format.max) * stored.scale
    inner = slice(12, 18)  # Inside the range, and where steps are widest.
    delta = np.zeros(20, np.float32)
    delta[inner] = -0.01 * step
    assert_same_buffer(added(stored, delta), stored)
    updated = added(stored, delta, seed_of(5))
    assert_same_buffer(added(stored, delta, seed_of(5)), updated)
    moved = (decompress(updated).numpy() - decompress(stored).numpy())[:, inner]
    deviation = moved.std() / np.sqrt(moved.size)
    assert abs(moved.mean() - delta[12]) < 5 * deviation and deviation < abs(delta[12])


@pytest.mark.parametrize("which", range(4))
def test_an_alternative_codec_reads_the_length(which):
    """In a graph whose buffers come in any form, as TFF's do."""
    values, delta = weights((5, 7)), tf.constant(weights((5, 7), seed=1))
    codecs = [Codec(Format.parse(name), (5, 7)) for name in ("S1E3M7", "INT4", "INT2")]
    several = AlternativeCodec((*codecs, raw_codec((5, 7))))
    codec = several.codecs[which]
    buffer = codec.encode(values)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.uint8)])
    def everything(buffer):
        return (
            several.decode(buffer),
            several.add(buffer, delta, seed_of(1), sign=-1.0),
            several.assign(buffer, delta),
            several.encode_as(buffer, delta, seed_of(2)),
            several.index(buffer),
        )

    assert (several.shape, several.count) == ((5, 7), 35)
    for got in (everything(buffer), everything.python_function(buffer)):
        decoded, moved, assigned, encoded, index = got
        np.testing.assert_allclose(decoded, codec.decode(buffer), rtol=EPS)
        np.testing.assert_array_equal(moved, codec.add(buffer, delta, seed_of(1), sign=-1.0))
        np.testing.assert_array_equal(assigned, codec.assign(buffer, delta))
        np.testing.assert_array_equal(encoded, codec.encode(delta, seed_of(2)))
        assert index == which
    for strange in (buffer[:-1], tf.concat([buffer, buffer[:1]], axis=0)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            everything(strange)


@pytest.mark.parametrize(
    "codecs",
    [
        [Codec(Format.parse("INT4"), (3,)), raw_codec((3,))],  # 12 bytes, both.
        [Codec(Format.parse("INT8"), (5, 7)), Codec(Format.parse("INT8"), (5, 7))],
        [Codec(Format.parse("INT8"), (5, 7)), Codec(Format.parse("INT4"), (7, 5))],
        [Codec(Format.parse("INT8"), (5, 7))],
        [],
    ],
)
def test_alternatives_that_nothing_tells_apart_are_refused(codecs):
    with pytest.raises(InputError) as caught:
        AlternativeCodec(codecs)
    assert caught.value.argument == "codecs"


# Graphs and XLA.


def test_encode_in_graphs_takes_what_is_not_finite_as_zero():
    """In a graph nothing can be raised."""
    for name in CODED:
        codec = Codec(Format.parse(name), (4,))
        got = codec.encode(tf.constant([np.nan, 1.0, np.inf, -2.0]))
        np.testing.assert_array_equal(got, codec.encode(tf.constant([0.0, 1.0, 0.0, -2.0])), name)


@pytest.mark.parametrize("name, seed", [("S1E3M7", None), ("S0E4M3", 3), ("INT4", 3), ("FP32", 3)])
def test_graphs_give_the_same_bytes(name, seed):
    """TFF runs the codec inside tf.function, where grappler may rewrite it."""
    values = weights((33,))
    codec = Codec(Format.parse(name), values.shape, name != "FP32")
    words = None if seed is None else seed_of(seed)
    delta = tf.constant(np.abs(weights((33,), seed=1)))

    def everything(values, delta):
        buffer = codec.encode(values, words)
        moved = codec.add(buffer, delta, words)
        grown = codec.add(buffer, delta * 100.0, words)
        kept = codec.assign(buffer, 0.9 * values, words)
        refitted = codec.assign(buffer, 9.0 * values, words)
        bits = tf.bitcast(codec.decode(moved), tf.int32)
        return buffer, moved, grown, kept, refitted, bits

    here = everything(tf.constant(values), delta)
    there = tf.function(everything)(tf.constant(values), delta)
    for eager, graph in zip(here, there):
        np.testing.assert_array_equal(eager, graph)


@pytest.mark.parametrize("transform", ["pvt", None])
@pytest.mark.parametrize("name", ["S1E3M7", "S0E4M4", "S1E8M7", "INT8", "FP32"])
def test_large_variables_agree_with_the_op_by_op_path(name, transform, monkeypatch):
    """TFF's worker has no XLA: a client's buffer must not depend on where it was written."""
    values, delta = weights((LARGE,)), np.abs(weights((LARGE,), seed=1, size=0.01))
    stored = compress(values, name, transform=transform)
    inward, widening = -np.sign(values) * delta, 100 * delta
    updates = [(0.0, None), (inward, None), (inward, seed_of(4)), (widening, None)]

    def everything():
        return decompress(stored).numpy(), [added(stored, *update) for update in updates]

    compiled, compiled_updates = everything()
    monkeypatch.setattr(codecs, "_compiled", getattr)
    plain, plain_updates = everything()
    if stored.codec.transform:  # XLA fuses scale * u' + offset, with one rounding less.
        size = np.maximum(np.abs(plain - stored.offset), abs(stored.offset))
        assert np.all(np.abs(compiled - plain) <= np.maximum(EPS * size, 1e-38))
    else:
        np.testing.assert_array_equal(compiled.view(np.int32), plain.view(np.int32))
    for got, expected in zip(compiled_updates, plain_updates):
        assert_same_buffer(got, expected)
    assert_same_buffer(plain_updates[0], stored)
    if transform and name not in ("S1E8M7", "FP32"):
        assert plain_updates[-1].scale > stored.scale == plain_updates[1].scale


@pytest.mark.parametrize("seed", [None, tf.constant([1, 2])], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("name", ["S1E3M7", "S0E4M3", "INT4"])
def test_chunks_make_no_difference(name, transform, seed, monkeypatch):
    """Neither in how much is encoded at a time, nor in what kind of code does it."""
    values = np.random.default_rng(0).normal(1.0, 1.0, 1001).astype(np.float32)
    values[7] = np.nan
    codec = Codec(Format.parse(name), values.shape, transform)
    whole = codec.encode(values, seed)
    again = codec.assign(whole, 0.9 * values, seed)
    plain, graph, xla = lambda f: f, tf.function, lambda f: tf.function(f, jit_compile=True)
    for chunk, run in [(8, plain), (1000, graph), (1008, plain), (136, plain), (136, xla)]:
        monkeypatch.setattr(codecs, "_CHUNK", chunk)
        parts = run(lambda: codec.encode(values, seed))()
        planes = slice(None, codec.nbytes - 8 if transform else None)
        np.testing.assert_array_equal(parts[planes], whole[planes])
        np.testing.assert_allclose(
            codec.transform_of(parts), codec.transform_of(whole), rtol=2e-7, atol=1e-9
        )
        parts = run(lambda: codec.assign(whole, 0.9 * values, seed))()
        np.testing.assert_array_equal(parts[planes], again[planes])


@pytest.mark.parametrize("wanted", range(3))
def test_a_graph_chooses_by_the_length_that_came(wanted):
    """TensorFlow's optimizer took the length that one branch needs for the length that came."""
    codecs = [Codec(Format.parse(name), (8, 8)) for name in ("INT8", "INT4", "INT2")]
    alternatives = AlternativeCodec(codecs)
    values = tf.random.stateless_uniform([8, 8], [1, 2], -1.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.uint8)], autograph=False)
    def decoded(buffer):
        known = tf.reduce_any(tf.equal(tf.size(buffer), [codec.nbytes for codec in codecs]))
        buffer = tf.pad(buffer, [[0, 1]])[: tf.where(known, tf.size(buffer), 1)]
        value = alternatives.decode(buffer)
        return tf.where(tf.reduce_all(tf.math.is_finite(value)), value, 0.0)

    buffer = codecs[wanted].encode(values)
    np.testing.assert_array_equal(decoded(buffer), codecs[wanted].decode(buffer))
