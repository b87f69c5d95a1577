"""Bit planes of codes, beside integers and float64 in numpy."""

import contextlib
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from omc import kernels
from omc.mixed_precision import PruningGrowing
from omc.mixed_precision.bit_planes import codes_of, histogram, lasso_gradient, reduce_buffer
from omc.mixed_precision.graph import least_error, prune_and_grow
from omc.mixed_precision.magnitude_planes import magnitude_planes
from tests.mixed_precision.integer_buffers import OFFSET, SCALE, alternatives, codec_of, stored
from tests.mixed_precision.problems import INTEGERS, by_bits


def planes_of(m, bits):
    """Magnitude planes, the most significant first, as the papers count them."""
    return [(m >> j) & 1 for j in range(bits - 2, -1, -1)]


def reduced_by_planes(codes, bits, threshold):
    """Precision reduction plane by plane, as FedMPQ tells it: (signed codes, bits, doublings)."""
    planes = planes_of(np.abs(codes), bits)
    sparse = lambda plane: not plane.any() or np.mean(plane) < threshold  # noqa: E731
    while len(planes) > 1 and sparse(planes[0]):
        top = planes.pop(0)
        planes = [top | plane for plane in planes]
    doublings = 0
    while len(planes) > 1 and sparse(planes[-1]):
        planes.pop()
        doublings += 1
    m = sum(plane << j for j, plane in enumerate(reversed(planes)))
    return np.sign(codes) * m, len(planes) + 1, doublings


@st.composite
def coded(draw):
    """(codes, bits): codes that come in pairs, some of them concentrated near 0."""
    bits = draw(st.integers(2, 8))
    limit = 2 ** (bits - 1) - 1
    most = draw(st.integers(0, limit))
    few = st.one_of(st.integers(-most, most), st.just(0), st.just(0), st.integers(-limit, limit))
    step = draw(st.sampled_from([1, 1, 2, 4]))
    codes = np.array(draw(st.lists(few, min_size=1, max_size=70)))
    return np.sign(codes) * (np.abs(codes) // step * step), bits


@settings(max_examples=60, deadline=None)
@given(coded(), st.sampled_from([0.0, 0.03, 0.2, 0.5]))
def test_reduction_is_that_of_planes_one_by_one(case, threshold):
    codes, bits = case
    want, want_bits, doublings = reduced_by_planes(codes, bits, threshold)
    codec = alternatives(len(codes))
    buffer, dropped = reduce_buffer(codec, stored(codes, bits), threshold)
    own = codec_of(want_bits, len(codes))
    assert len(buffer) == own.nbytes and int(dropped) == bits - want_bits
    np.testing.assert_array_equal(_signed(own, buffer), want)
    scale, offset = own.transform_of(buffer)
    assert scale.numpy() == SCALE * 2.0**doublings and offset.numpy() == OFFSET
    if threshold == 0.0:  # Nothing is lost with what is empty.
        value = codec.decode(stored(codes, bits)).numpy()
        np.testing.assert_allclose(codec.decode(buffer).numpy(), value, rtol=1e-6, atol=1e-7)
    again, more = reduce_buffer(codec, buffer, 0.0)
    assert int(more) == 0 and again.numpy().tobytes() == buffer.numpy().tobytes()


@pytest.mark.parametrize("count", [1, 70, 1000])
@pytest.mark.parametrize("bits", range(2, 9))
def test_native_ops_and_pure_ones_give_the_same(bits, count):
    rng = np.random.default_rng(bits)
    codec, half = alternatives(count), 2 ** (bits - 1)
    for most in (1, half // 2, half):  # The lowest code, which has no counterpart, among them.
        buffer = stored(rng.integers(-most, most, count), bits)
        found = []
        for path in (kernels.pure, contextlib.nullcontext):
            with path():
                found.append(
                    [
                        codes_of(codec, buffer),
                        magnitude_planes(codec, buffer),
                        lasso_gradient(codec, buffer, 0.3),
                        *reduce_buffer(codec, buffer, 0.3),
                    ]
                )
        for pure, native in zip(*found):
            assert pure.numpy().tobytes() == native.numpy().tobytes()


def _signed(codec, buffer):
    codes = codec.codes(buffer).numpy()
    half = 1 << (codec.format.bits - 1)
    return ((codes & (2 * half - 1)) ^ half) - half


@settings(max_examples=40, deadline=None)
@given(coded(), st.booleans())
def test_lasso_moves_as_float_planes_would(case, native):
    """A small step of BSQ's planes along the lasso, in float64, beside our gradient's direction."""
    codes, bits = case
    share, m = 0.25, np.abs(codes)
    planes = [plane.astype(float) for plane in planes_of(m, bits)]
    rate = 1e-3
    weights = 2.0 ** np.arange(len(planes) - 1, -1, -1)
    steps = [
        -rate * share * len(planes) * plane / math.sqrt(1e-8 + np.sum(plane**2)) for plane in planes
    ]
    moved = np.sign(codes) * SCALE * sum(w * step for w, step in zip(weights, steps))
    want = -moved / (rate * float(SCALE) ** 2 * np.sum(weights**2))
    codec, buffer = alternatives(len(codes)), stored(codes, bits)

    def run():
        return lasso_gradient(codec, buffer, share).numpy()

    if native:
        got = run()
    else:
        with kernels.pure():
            got = run()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_lasso_is_the_derivative_of_the_penalty_along_the_least_move_of_planes():
    """Finite differences of R in float planes, each weight moved by what it takes of its planes."""
    rng = np.random.default_rng(0)
    codes, bits, share = rng.integers(-7, 8, 50), 4, 0.5
    planes = np.array(planes_of(np.abs(codes), bits), float)
    weights = 2.0 ** np.arange(2, -1, -1)
    codec, buffer = codec_of(bits, 50), stored(codes, bits)
    got = lasso_gradient(codec, buffer, share).numpy()

    def penalty(b):
        return share * 3 * np.sum(np.sqrt(1e-8 + np.sum(b**2, axis=1)))

    for place in np.flatnonzero(codes)[:10]:
        up, down = planes.copy(), planes.copy()
        for b, move in ((up, 1e-5), (down, -1e-5)):
            b[:, place] += move * weights / (SCALE * np.sum(weights**2))
        slope = (penalty(up) - penalty(down)) / 2e-5
        assert got[place] == pytest.approx(np.sign(codes[place]) * slope, rel=1e-3, abs=1e-6)


def test_large_variables_go_in_chunks(monkeypatch):
    monkeypatch.setattr("omc.mixed_precision.bit_planes._CHUNK", 16)
    codes = np.random.default_rng(1).integers(-3, 4, 1000)
    codec, buffer = alternatives(1000), stored(codes, 6)
    run = tf.function(
        lambda b: (reduce_buffer(codec, b, 0.03), histogram(tf.abs(codes_of(codec, b)))),
        input_signature=[tf.TensorSpec([None], tf.uint8)],
    )
    (reduced, dropped), counts = run(buffer)
    assert int(dropped) == 3 and len(reduced) == codec_of(3, 1000).nbytes
    np.testing.assert_array_equal(_signed(codec_of(3, 1000), reduced), codes)
    np.testing.assert_array_equal(counts[:8], np.bincount(np.abs(codes), minlength=8))


def test_the_lowest_code_counts_as_its_neighbour():
    buffer = stored(np.array([-2, -1, 0, 1] * 10), 2)
    codec = alternatives(40)
    assert histogram(tf.abs(codes_of(codec, buffer)))[1] == 30
    kept, dropped = reduce_buffer(codec, buffer, 0.9)
    assert int(dropped) == 0 and kept.numpy().tobytes() == buffer.numpy().tobytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pruning_growing_in_a_graph_is_the_one_in_numpy(data):
    count = data.draw(st.integers(1, 7))
    draw = lambda low, high: data.draw(  # noqa: E731
        st.lists(st.integers(low, high), min_size=count, max_size=count)
    )
    counts, start, dropped = draw(1, 300), draw(2, 8), draw(0, 6)
    budget = data.draw(st.integers(2, 8))
    got = prune_and_grow(
        tf.constant(start), 1 + tf.constant(dropped), counts, budget * sum(counts), 2, 8
    )
    problem = by_bits([[0.0] * 7] * count, counts, budget, INTEGERS)
    solution = PruningGrowing(start=tuple(start), dropped=tuple(dropped))(problem)
    assert tuple(got.numpy()) == tuple(INTEGERS[c].bits for c in solution.choices)
    assert np.dot(got, counts) <= budget * sum(counts)


def _greedy(errors, counts, limit):
    """`least_error` in plain Python: of all moves that fit, the best for its bits, the first."""
    steps = [0] * len(counts)
    while True:
        left = limit - sum(n * (s + 2) for n, s in zip(counts, steps))
        moves = [
            ((errors[i, s] - errors[i, t]) / ((t - s) * n), -i, -t)
            for i, (n, s) in enumerate(zip(counts, steps))
            for t in range(s + 1, errors.shape[1])
            if n * (t - s) <= left
        ]
        if not moves or max(moves)[0] < 0:
            return [s + 2 for s in steps]
        _, i, t = max(moves)
        steps[-i] = -t


@given(st.data())
@settings(max_examples=40)
def test_widths_of_least_error_are_the_hulls(data):
    count = data.draw(st.integers(1, 4))
    counts = data.draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    values = st.lists(st.integers(0, 9), min_size=7, max_size=7)  # Small: every sum is exact.
    errors = np.array([data.draw(values) for _ in counts], np.float32)
    limit = data.draw(st.integers(2 * sum(counts), 9 * sum(counts)))
    got = least_error(tf.constant(errors), counts, limit, 2).numpy()
    assert np.dot(got, counts) <= limit and got.min() >= 2 and got.max() <= 8
    want = _greedy(errors.astype(np.float64), counts, limit)
    assert list(got) == want or _cost(errors, got) == pytest.approx(_cost(errors, want))


def _cost(errors, widths):
    return sum(errors[i, width - 2] for i, width in enumerate(widths))


def test_a_bit_that_gains_nothing_does_not_end_the_widening():
    """Weights that are nearly ternary: 3 and 4 bits gain nothing, or lose by a float's ripple."""
    errors = tf.constant([[6.322e-4, 6.322e-4, 6.323e-4, 5.1e-4, 1.4e-4, 3.4e-5, 8.9e-6]] * 3)
    counts = [192, 384, 48]
    assert least_error(errors, counts, 8 * sum(counts), 2).numpy().tolist() == [8, 8, 8]
    narrow = least_error(errors, counts, 4 * sum(counts), 2).numpy()
    assert np.dot(narrow, counts) > 3.9 * sum(counts)
