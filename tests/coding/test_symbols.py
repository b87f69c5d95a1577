"""encode() and decode(): exact, the same bytes natively or not, near the entropy, typed errors."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from omc import coding, kernels
from omc.errors import CodingError, InputError, InputTypeError
from tests.coding import oracle

DTYPES = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.bool_)


def both(symbols, context=None):
    """Coded bytes, after a check that each path writes them and reads the other's."""
    native = coding.encode(symbols, context)
    with kernels.pure():
        pure = coding.encode(symbols, context)
        restored = coding.decode(native, context)
    assert native == pure
    np.testing.assert_array_equal(restored, symbols)
    np.testing.assert_array_equal(coding.decode(pure, context), symbols)
    assert restored.dtype == np.int32 and restored.shape == np.shape(symbols)
    return native


def entropy(symbols):
    """Bits of symbols under their own distribution."""
    _, counts = np.unique(symbols, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def conditional_entropy(symbols, context):
    return sum(entropy(symbols[context == value]) for value in np.unique(context))


@st.composite
def arrays(draw):
    """Integers of any dtype and shape, spread evenly, peaked, or with far outliers."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    low, high = (0, 1) if dtype == np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = max(low, -(2**31)), min(high, 2**31 - 1)
    values = st.one_of(st.integers(low, high), st.integers(max(low, -2), min(high, 2)))
    return draw(hnp.arrays(dtype, shape, elements=values))


@given(arrays())
def test_any_integers_come_back(symbols):
    both(symbols)


@given(arrays(), st.integers(0, 255), st.data())
def test_any_integers_come_back_given_any_context(symbols, most, data):
    context = data.draw(hnp.arrays(np.uint8, symbols.shape, elements=st.integers(0, most)))
    both(symbols, context)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.integers(1, 40_000),
    st.floats(-2, 31),
    st.sampled_from([0, 1, 2, 16, 256]),
    st.booleans(),
)
def test_long_arrays_come_back(seed, count, log2_spread, contexts, heavy):
    """Long enough for several lanes, blocks and halved counts' forms of each kind."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_t(1, count) if heavy else rng.standard_normal(count)
    symbols = (drawn * 2**log2_spread).clip(-(2**31), 2**31 - 1).astype(np.int32)
    context = rng.integers(0, contexts, count).astype(np.uint8) if contexts else None
    both(symbols, context)


@pytest.mark.parametrize("contexts", [0, 3])
def test_counts_that_are_halved(contexts):
    rng = np.random.default_rng(0)
    symbols = np.repeat(rng.integers(-9, 9, 12), 50_000) + rng.integers(0, 3, 600_000)
    context = rng.integers(0, contexts, symbols.size).astype(np.uint8) if contexts else None
    bits = 8 * len(both(symbols, context))
    assert contexts or bits < 0.8 * entropy(symbols)  # Tables follow what changes.


@settings(max_examples=40)
@given(arrays(), st.integers(0, 255), st.data())
def test_the_oracle_reads_it(symbols, most, data):
    context = data.draw(hnp.arrays(np.uint8, symbols.shape, elements=st.integers(0, most)))
    for given_context in (None, context):
        coded = coding.encode(symbols, given_context)
        flat = None if given_context is None else given_context.reshape(-1).tolist()
        shape, values, _ = oracle.decode(coded, flat)
        assert shape == symbols.shape and values == symbols.reshape(-1).tolist()


@pytest.mark.parametrize("spread", [0.4, 6, 300, 1e6])
@pytest.mark.parametrize("contexts", [1, 5])
def test_the_oracle_reads_long_arrays(spread, contexts):
    rng = np.random.default_rng(3)
    symbols = (rng.laplace(size=(90, 101)) * spread).astype(np.int32)
    context = rng.integers(0, contexts, symbols.shape).astype(np.uint8)
    _, values, _ = oracle.decode(coding.encode(symbols, context), context.reshape(-1).tolist())
    assert values == symbols.reshape(-1).tolist()


def test_bytes_stay_what_they_are():
    """Streams of version 1 as they were first written: nothing may change them."""
    ramp = np.arange(24).reshape(2, 3, 4) % 5 - 2
    assert coding.encode(ramp).hex() == GOLDEN["ramp"]
    peaked = (np.arange(400) % 7 == 0) * 3
    assert coding.encode(peaked, np.arange(400) % 2).hex() == GOLDEN["peaked"]
    far = np.array([0, -1, 2, 7, 1 << 20, -(1 << 30), 5] * 9)
    assert coding.encode(far).hex() == GOLDEN["far"]


@pytest.mark.parametrize("spread", [0.25, 1, 5, 36])
@pytest.mark.parametrize("draw", ["standard_normal", "laplace"])
def test_it_comes_within_two_percent_of_the_entropy(draw, spread):
    drawn = getattr(np.random.default_rng(1), draw)(size=200_000)
    symbols = np.rint(drawn * spread).astype(np.int32)
    assert 8 * len(coding.encode(symbols)) <= 1.02 * entropy(symbols)


def test_it_comes_within_two_percent_of_the_conditional_entropy():
    rng = np.random.default_rng(2)
    context = rng.integers(0, 8, 200_000)
    symbols = np.rint(rng.standard_normal(200_000) * 2.0 ** (context - 3)).astype(np.int32)
    coded = 8 * len(coding.encode(symbols, context))
    assert coded <= 1.02 * conditional_entropy(symbols, context)
    assert coded < 0.85 * 8 * len(coding.encode(symbols))


def test_symbols_that_never_change_cost_next_to_nothing():
    assert len(coding.encode(np.zeros(1_000_000, np.int32))) < 20
    rare = np.zeros(1_000_000, np.int32)
    rare[::10_000] = 1
    assert 8 * len(coding.encode(rare)) < 1.3 * entropy(rare)


def test_what_cannot_be_shortened_grows_by_its_head_only():
    noise = np.random.default_rng(0).integers(-(2**31), 2**31, 1000)
    assert len(coding.encode(noise)) <= 4000 + 24


def test_another_context_is_refused():
    rng = np.random.default_rng(0)
    context = rng.integers(0, 4, 500)
    data = coding.encode(rng.integers(0, 4, 500) * (context + 1), context)
    other = context.copy()
    other[77] ^= 1
    for wrong, argument in ((other, "data"), (None, "context"), (context[:-1], "context")):
        for path in (kernels.pure, contextlib.nullcontext):
            with path(), pytest.raises(CodingError) as caught:
                coding.decode(data, wrong)
            assert caught.value.argument == argument
    for symbols in (np.arange(99) % 3, rng.integers(0, 256, 99)):  # Modelled, and plain.
        with pytest.raises(CodingError, match="no contexts"):
            coding.decode(coding.encode(symbols), np.zeros(99, np.uint8))


def test_sizes_are_checked_before_anything_is_allocated():
    data = coding.encode(np.zeros(10_000_000, np.int32))  # 20 bytes that mean 40 MB.
    with pytest.raises(CodingError, match="at most 9999999 symbols"):
        coding.decode(data, limit=9_999_999)
    with pytest.raises(CodingError, match=r"shape \(5,\)"):
        coding.decode(data, shape=(5,))
    assert coding.decode(data, shape=(10_000_000,)).shape == (10_000_000,)


def test_newer_versions_and_foreign_bytes_are_told_apart():
    data = coding.encode(np.arange(9))
    newer = bytes([data[0] + 1]) + data[1:]
    with pytest.raises(CodingError, match="version 2.*newer omc"):
        coding.decode(newer)
    for foreign in (b"", b"abc", b"\x28\xb5\x2f\xfd" * 9, bytes(40)):
        with pytest.raises(CodingError, match="something else"):
            coding.decode(foreign)


def test_mistakes_have_typed_errors():
    cases = (
        (lambda: coding.encode([0.5]), InputTypeError, "symbols"),
        (lambda: coding.encode([2**31]), InputError, "symbols"),
        (lambda: coding.encode(np.zeros((1,) * 9, int)), InputError, "symbols"),
        (lambda: coding.encode([1], [0.5]), InputTypeError, "context"),
        (lambda: coding.encode([1], [256]), InputError, "context"),
        (lambda: coding.encode([1], [-1]), InputError, "context"),
        (lambda: coding.encode([1, 2], [0]), InputError, "context"),
        (lambda: coding.decode("text"), InputTypeError, "data"),
        (lambda: coding.decode(np.zeros(9, np.int8)), InputTypeError, "data"),
    )
    for mistake, error, argument in cases:
        with pytest.raises(error) as caught:
            mistake()
        assert caught.value.argument == argument


GOLDEN = {
    "ramp": ("c18c6fd50e000302030400030388464423a211d18868"),
    "peaked": (
        "c1478fb71d4101900300000003110033004cc00030004105a51d4c30f59a4ba5d86c7518e1b4"
        "2fb48b53d0e256a4b4239c683a0c"
    ),
    "far": (
        "c17b822ea102013f007b15744042008c80ab2b2a85cc00daab4ec5bb4090ecefc0170b3f08a2"
        "85babe33c33eee8741edac86804bec0181116e0000f8ffff7f0000fcffff3f0000feffff1f00"
        "00ffffff0f0080ffffff0700c0ffffff0300e0ffffff0100f0ffffff0000f8ffff7f"
    ),
}
