"""Nested precision of tensors: every code of every width against the paper's formula in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import omc
from omc import kernels, nested, packing
from omc.codecs import Codec
from omc.errors import InputError, InputTypeError
from omc.formats import Format

MINIFLOATS = ["S1E3M7", "S1E2M3", "S0E3M4", "S1E4M9", "S1E8M7", "S1E4M14"]


def tensor_of_codes(name, codes, transform=True):
    """A `CompressedTensor` of given codes, under an ordinary transform."""
    fmt = Format.parse(name)
    codec = Codec(fmt, (len(codes),), transform)
    padded = np.zeros(packing.padded_count(len(codes)), np.int32)
    padded[: len(codes)] = codes
    parts = packing.pack(tf.constant(padded.reshape(packing.ROWS, -1)), fmt.bits)
    if transform:
        parts.append(np.array([0.037, -0.011], np.float32).view(np.uint8))
    return omc.CompressedTensor(tf.concat(parts, axis=0), codec)


def every_code(name):
    count = 2 ** Format.parse(name).bits
    if count <= 2**14:
        return np.arange(count, dtype=np.int32)
    return np.random.default_rng(0).choice(count, 2**13, replace=False).astype(np.int32)


def double_rounding(q, h, low):
    """The paper's W_l * 2^D of stored integers q, in float64; one bit is mid-rise."""
    step = 2.0 ** (h - low)
    if low == 1:
        return np.where(q >= 0, step / 2, -step / 2)
    rounded = np.floor(q / step + 0.5)
    return np.clip(rounded, -(2 ** (low - 1)), 2 ** (low - 1) - 1) * step


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("h", range(2, 9))
def test_every_integer_at_every_width_is_the_papers_formula(h, pure):
    codes = np.arange(2**h, dtype=np.int32)
    q = np.where(codes >= 2 ** (h - 1), codes - 2**h, codes).astype(np.float64)
    for low in range(1, h + 1):
        expected = double_rounding(q, h, low) if low < h else q
        bare = tensor_of_codes(f"INT{h}", codes, transform=False)
        scaled = tensor_of_codes(f"INT{h}", codes)
        if pure:
            with kernels.pure():
                values = [omc.decompress(nested.switch(c, low)).numpy() for c in (bare, scaled)]
        else:
            values = [omc.decompress(nested.switch(c, low)).numpy() for c in (bare, scaled)]
        np.testing.assert_array_equal(values[0], expected)
        transformed = expected.astype(np.float32) * np.float32(0.037) + np.float32(-0.011)
        np.testing.assert_array_equal(values[1], transformed)


@pytest.mark.parametrize("name", MINIFLOATS)
def test_every_minifloat_at_every_width_is_the_nearest_with_fewer_mantissa_bits(name):
    fmt, codes = Format.parse(name), every_code(name)
    c = tensor_of_codes(name, codes, transform=False)
    exact = np.abs([fmt.decode(int(k)) for k in codes])
    for bits in range(fmt.sign_bits + fmt.exponent_bits, fmt.bits):
        narrow = Format.parse(nested.format_at(name, bits).name.partition("+")[0])
        assert narrow.bits == bits
        magnitudes = 2 ** (bits - narrow.sign_bits)
        grid = np.unique([narrow.decode(k) for k in range(magnitudes)])
        above = np.searchsorted(grid, exact).clip(0, len(grid) - 1)
        below = (above - 1).clip(0)
        up = grid[above] - exact <= exact - grid[below]  # A half goes away from zero.
        expected = np.where(up, grid[above], grid[below])
        values = omc.decompress(nested.switch(c, bits)).numpy()
        np.testing.assert_array_equal(np.abs(values), expected.astype(np.float32))
        signs = np.array([fmt.sign_bits and int(k) >> (fmt.bits - 1) for k in codes], bool)
        np.testing.assert_array_equal(np.signbit(values), signs)


def test_a_bare_shift_cuts_bits_off():
    codes = np.arange(256, dtype=np.int32)
    q = np.where(codes >= 128, codes - 256, codes)
    c = tensor_of_codes("INT8", codes, transform=False)
    for bits in range(1, 8):
        codec = nested.codec_at(c.codec, bits, "shift")
        step = 2 ** (8 - bits)
        np.testing.assert_array_equal(codec.decode(c.buffer), np.floor(q / step) * step)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([f"INT{h}" for h in range(2, 9)] + MINIFLOATS),
    st.integers(0, 70),
    st.integers(0, 2**31 - 1),
    st.data(),
)
def test_down_and_up_again_is_the_stored_tensor(name, count, seed, data):
    rng = np.random.default_rng(seed)
    c = omc.compress(rng.standard_normal((count,)) * 3, name)
    fmt = Format.parse(name)
    least = 1 if fmt.kind == "int" else fmt.sign_bits + fmt.exponent_bits
    switched = c
    for _ in range(3):
        switched = nested.switch(switched, data.draw(st.integers(least, fmt.bits)))
        assert switched.nbytes == c.nbytes
    back = nested.switch(switched, fmt.bits)
    assert back.format == fmt and back.buffer is c.buffer
    np.testing.assert_array_equal(omc.decompress(back), omc.decompress(c))


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("name", [*(f"INT{h}" for h in range(2, 9)), *MINIFLOATS])
def test_what_is_extracted_decodes_as_what_is_switched(name, chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr(nested, "_CHUNK", chunk)
    fmt, c = Format.parse(name), tensor_of_codes(name, every_code(name)[-500:])
    least = 2 if fmt.kind == "int" else fmt.sign_bits + fmt.exponent_bits
    for bits in range(least, fmt.bits + 1):
        alone = nested.extract(c, bits)
        assert alone.format.bits == bits and not alone.format.feedback_bits
        assert alone.nbytes == packing.packed_nbytes(c.codec.count, bits) + 8
        same = omc.decompress(nested.switch(c, bits)).numpy()
        np.testing.assert_array_equal(omc.decompress(alone).numpy().view("u4"), same.view("u4"))


def test_updates_at_a_lower_width_move_all_stored_bits():
    c = omc.compress(np.linspace(-1, 1, 64, dtype=np.float32), "INT8", seed=None)
    low = nested.codec_at(c.codec, 2)
    delta = np.full(64, 0.02, np.float32)  # Less than a step of 2 bits, more than one of 8.
    moved = low.add(c.buffer, delta)
    full = c.codec.decode(moved) - c.codec.decode(c.buffer)
    assert float(tf.reduce_mean(full)) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("name", ["INT4+4", "INT2+6", "INT1+7", "INT8", "S1E3M3+4", "INT4>>4"])
def test_the_gradient_of_the_scale_is_its_formula(name, pure):
    rng = np.random.default_rng(3)
    fmt, shape = Format.parse(name), (37, 41)
    codec = Codec(fmt, shape)
    buffer = tensor_of_codes(name, rng.integers(0, 2**fmt.bits, 37 * 41)).buffer
    gradient = rng.standard_normal(shape).astype(np.float32)
    gradient[0, 0], gradient[-1, -1] = np.nan, np.inf
    full = nested.stored_format(fmt)
    codes = codec.codes(buffer).numpy().ravel()
    stored = np.array([full.decode(int(k)) for k in codes])
    read = np.array([fmt.decode(int(k)) for k in codes])
    slope = np.where(np.abs(stored) >= full.max, read, read - stored)
    finite = np.where(np.isfinite(gradient), gradient, 0).ravel().astype(np.float64)
    if pure:
        with kernels.pure():
            found = codec.scale_gradient(buffer, gradient)
    else:
        found = codec.scale_gradient(buffer, gradient)
    size = np.abs(finite * slope).sum()
    assert abs(float(found) - (finite * slope).sum()) <= 1e-5 * size


@pytest.mark.parametrize("name", ["INT8", "INT4+4", "S1E3M7"])
def test_a_codec_that_saturates_keeps_its_scale(name):
    rng = np.random.default_rng(4)
    grows = Codec(Format.parse(name), (50, 40))
    holds = Codec(Format.parse(name), (50, 40), saturates=True)
    buffer = grows.encode(rng.standard_normal((50, 40)).astype(np.float32))
    delta = (rng.standard_normal((50, 40)) * 4).astype(np.float32)
    for seed in (None, tf.constant([5, 6], tf.int32)):
        moved = holds.add(buffer, delta, seed)
        with kernels.pure():
            np.testing.assert_array_equal(moved, holds.add(buffer, delta, seed))
        scale, offset = (float(part) for part in holds.transform_of(moved))
        assert scale == float(grows.transform_of(buffer)[0])
        assert float(grows.transform_of(grows.add(buffer, delta, seed))[0]) > scale
        limit = scale * nested.stored_format(name).max
        wanted = np.clip(grows.decode(buffer) + delta, offset - limit, offset + limit)
        step = scale * (16 if "+" in name else 1) * (1 if name != "S1E3M7" else 0.2)
        assert np.abs(holds.decode(moved) - wanted).max() < 1.51 * step


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.3])
def test_rescaling_keeps_values_to_half_a_step(factor):
    codec = Codec(Format.parse("INT8"), (60, 30), saturates=True)
    values = np.random.default_rng(5).standard_normal((60, 30)).astype(np.float32)
    buffer = codec.encode(values)
    before, scale = codec.decode(buffer).numpy(), float(codec.transform_of(buffer)[0])
    after = codec.rescale(buffer, tf.constant(factor))
    assert float(codec.transform_of(after)[0]) == pytest.approx(scale * factor, rel=1e-6)
    limit = scale * factor * 127
    wanted = np.clip(before, -limit, limit)
    assert np.abs(codec.decode(after) - wanted).max() <= 0.502 * scale * factor


def test_misuse_is_a_typed_error():
    c = omc.compress(np.ones((4, 4)), "INT8")
    for bits in (0, 9, 16):
        with pytest.raises(InputError, match="bits.*1 to 8"):
            nested.switch(c, bits)
    for bits in (4.0, "4", True):
        with pytest.raises(InputTypeError, match="bits"):
            nested.switch(c, bits)
    with pytest.raises(InputError, match="4 to 11"):
        nested.switch(omc.compress(np.ones(4), "S1E3M7"), 3)
    with pytest.raises(InputError, match="FP32"):
        nested.switch(omc.compress(np.ones(4), "FP32"), 8)
    with pytest.raises(InputTypeError, match="target"):
        nested.switch(np.ones(4), 4)
    with pytest.raises(InputError, match="2 or more"):
        nested.extract(c, 1)
    with pytest.raises(InputError, match="scale to widen"):
        nested.extract(omc.compress(np.ones(4), "INT8", transform=None), 4)
    with pytest.raises(InputTypeError, match="compressed"):
        nested.extract(c.buffer, 4)
    with pytest.raises(InputError, match="rounding"):
        nested.format_at("INT8", 4, "up")


@pytest.mark.parametrize("name, bits", [("INT8", 4), ("INT8", 7), ("INT6", 5), ("S1E3M7", 7)])
@pytest.mark.parametrize("transform", ["pvt", None])
def test_what_is_widened_again_has_the_same_values_and_codes(name, bits, transform):
    if name.startswith("INT") and transform is None:
        pytest.skip("steps of bare integers cannot become wider")
    c = omc.compress(np.random.default_rng(0).normal(size=(13, 17)), name, transform=transform)
    narrow = nested.extract(c, bits)
    wide = nested.widen_buffer(narrow.buffer, narrow.codec, c.codec)
    np.testing.assert_array_equal(c.codec.decode(wide), omc.decompress(narrow))
    np.testing.assert_array_equal(nested.extract_buffer(wide, c.codec, bits), narrow.buffer)


@pytest.mark.parametrize("bits", [4, 5, 6, 7])
def test_centred_reads_have_no_bias(bits):
    values = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    c = omc.compress(values, "INT8")
    codec, step = nested.extracted_codec(c.codec, bits), c.codec.transform_of(c.buffer)[0]
    plain, centred = (
        np.mean(codec.decode(nested.extract_buffer(c.buffer, c.codec, bits, way)) - values)
        for way in (False, True)
    )
    assert abs(plain / step - 0.5) < 0.1 and abs(centred / step) < 0.1
