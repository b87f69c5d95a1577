"""Native ops against the pure TensorFlow path, bit for bit, and where they must not be used."""

import functools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from omc import codecs, kernels, nested, packing
from omc.alternative_codecs import AlternativeCodec, raw_codec
from omc.codecs import Codec
from omc.formats import Format
from omc.kernels import build

native = pytest.mark.skipif(
    build.find_compiler() is None, reason="no C++ compiler, so OMC runs without native ops"
)

SMALL = [f"S{s}E{e}M{m}" for s in (0, 1) for e in range(2, 9) for m in range(0, 13 - e - s)]
SMALL += [f"INT{bits}" for bits in range(2, 9)]
WIDE = ["S1E5M10", "S1E3M12", "S1E4M14", "S1E8M7", "S1E8M23", "S1E2M23", "S0E6M15"]
FEEDBACK = ["S1E3M5+2", "S1E2M0+3", "S1E8M4+3", "S0E3M4+1", "INT4+4", "INT2+1", "INT7+1"]
FEEDBACK += ["INT1+7", "INT1+1", "INT4>>4", "INT1>>3", "S1E3M3>>4", "S1E4M9>>5", "S0E3M4>>1"]
MOVED = ["S1E3M7", "S1E2M3", "S1E5M10", "S1E4M14", "S1E2M0", "S1E7M2", "S1E6M9", "S1E8M7"]
MOVED += ["S1E8M23", "S1E2M23", "INT2", "INT3", "INT4", "INT8", "S1E3M5+2", "INT4+4"]
# One weight, one row, odd rows, several tiles and threads.
SHAPES = [(1,), (7,), (5, 13), (120, 257)]


def bits(tensor):
    return np.asarray(tensor).view(np.uint8)


def random_buffer(codec, rng):
    """Buffer of arbitrary codes under an ordinary transform."""
    count = packing.padded_count(codec.count)
    codes = rng.integers(0, 2**codec.format.bits, count, dtype=np.uint32).view(np.int32)
    codes[codec.count :] = 0  # What padding always is.
    parts = packing.pack(tf.constant(codes.reshape(packing.ROWS, -1)), codec.format.bits)
    if codec.transform:
        parts.append(np.array([0.037, -0.011], np.float32).view(np.uint8))
    return tf.concat(parts, axis=0)


@native
def test_they_are_compiled_where_there_is_a_compiler():
    build.build()
    assert kernels.available() and kernels.usable()


@native
@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("name", SMALL + WIDE + FEEDBACK)
def test_decode_is_the_pure_path_bit_for_bit(name, transform):
    rng = np.random.default_rng(0)
    fmt = Format.parse(name)
    every = 2 ** min(fmt.bits, 13)
    for shape in ((every,), *SHAPES[:3]):
        codec = Codec(fmt, shape, transform)
        buffer = random_buffer(codec, rng)
        with kernels.pure():
            expected = codec.decode(buffer)
        np.testing.assert_array_equal(bits(codec.decode(buffer)), bits(expected))


@native
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", MOVED)
def test_add_is_the_pure_path_bit_for_bit(name, stochastic):
    rng = np.random.default_rng(1)
    seed = tf.constant([1234567, -89], tf.int32) if stochastic else None
    for shape in SHAPES:
        codec = Codec(Format.parse(name), shape)
        assert codec.natively_added
        buffer = random_buffer(codec, rng)
        for size in (0.0, 1e-5, 1e-2, 3.0, 1e20):  # The large ones make the scale grow.
            delta = (rng.standard_normal(shape) * size).astype(np.float32)
            delta.flat[::5] = 0
            if size == 1e-2:
                delta.flat[0], delta.flat[-1] = np.nan, -np.inf
            for sign in (1.0, -0.37):
                with kernels.pure():
                    expected = codec.add(buffer, delta, seed, sign)
                np.testing.assert_array_equal(codec.add(buffer, delta, seed, sign), expected)


@native
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        *(["S1E3M7"], ["INT8"], ["INT2"], ["S1E4M14"]),
        *(["INT8", "INT4", "INT2"], ["S1E3M7", "S1E3M3"], ["INT4", "S1E5M10", "INT6+2"]),
    ],
)
def test_one_of_several_is_the_pure_path_bit_for_bit(names, stochastic):
    """Codes of several widths, or raw float32, come in the same variable, and length tells."""
    rng = np.random.default_rng(6)
    seed = tf.constant([1234567, -89], tf.int32) if stochastic else None
    odd = np.array([0.0, -0.0, 1e-40, -1e-45, np.inf, -np.inf, np.nan, 3e38, 1.0], np.float32)
    for shape in SHAPES[2:]:
        coded, raw = [Codec(Format.parse(name), shape) for name in names], raw_codec(shape)
        either = AlternativeCodec((*coded, raw))
        assert either.natively_decoded and either.natively_added
        values = rng.standard_normal(shape).astype(np.float32)
        values.flat[:81] = np.repeat(odd, 9)[: values.size]
        delta = rng.standard_normal(shape).astype(np.float32)
        delta.flat[:81] = np.tile(odd, 9)[: values.size]
        for buffer in (*(random_buffer(codec, rng) for codec in coded), raw.encode(values)):
            for sign in (1.0, -0.37, 0.0):
                with kernels.pure():
                    expected = either.decode(buffer), either.add(buffer, delta, seed, sign)
                    like = either.encode_as(buffer, delta, seed)
                got = either.decode(buffer), either.add(buffer, delta, seed, sign)
                np.testing.assert_array_equal(either.encode_as(buffer, delta, seed), like)
                held = tf.Variable(buffer, shape=[None])
                read = either.decode_variable(held.handle)
                either.update_variable(held.handle, delta, tf.constant(sign), seed)
                for ours, theirs in zip((*got, read, held), (*expected, *expected)):
                    np.testing.assert_array_equal(bits(ours), bits(theirs))
        for length in (coded[0].nbytes - 1, raw.nbytes + 1):
            with pytest.raises(tf.errors.InvalidArgumentError, match="bytes"):
                either.decode(tf.zeros([length], tf.uint8))
            with pytest.raises(tf.errors.InvalidArgumentError, match="bytes"):
                either.add(tf.zeros([length], tf.uint8), delta)


@native
@pytest.mark.parametrize(
    "name, narrow",
    [("INT8", b) for b in range(2, 8)]
    + [("INT5", 3), ("S1E3M7", 5), ("S1E3M7", 10), ("S1E8M23", 9), ("S1E5M10", 7)],
)
def test_widening_is_the_pure_path_bit_for_bit(name, narrow):
    rng = np.random.default_rng(7)
    for shape in SHAPES:
        for transform in (True, False):
            codec = Codec(Format.parse(name), shape, transform)
            if not (transform or codec.format.exponent_bits):
                continue  # Steps of bare integers cannot become wider.
            own = nested.extracted_codec(codec, narrow)
            buffer = random_buffer(own, rng)
            with kernels.pure():
                expected = nested.widen_buffer(buffer, own, codec)
            np.testing.assert_array_equal(nested.widen_buffer(buffer, own, codec), expected)
            with pytest.raises(tf.errors.InvalidArgumentError, match="bytes"):
                nested.widen_buffer(buffer[:-1], own, codec)


@native
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", MOVED)
def test_narrowing_is_the_pure_path_bit_for_bit(name, stochastic):
    rng = np.random.default_rng(5)
    seed = tf.constant([1234567, -89], tf.int32) if stochastic else None
    for shape in SHAPES:
        codec = Codec(Format.parse(name), shape)
        start = codec.add(codec.zeros(), tf.fill(shape, 1e-3))
        for buffer in (codec.zeros(), codec.add(start, tf.fill(shape, -0.99e-3))):
            for size in (0.0, 1e-37, 1e-20, 1e-7, 1e-4, 1e-2):
                delta = (rng.standard_normal(shape) * size).astype(np.float32)
                delta.flat[::5] = 0
                with kernels.pure():
                    expected = codec.add(buffer, delta, seed)
                np.testing.assert_array_equal(codec.add(buffer, delta, seed), expected)


@native
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", [*MOVED, "S0E3M4"])
def test_encode_is_the_pure_path_bit_for_bit(name, stochastic, monkeypatch):
    rng = np.random.default_rng(2)
    seed = tf.constant([7, -8], tf.int32) if stochastic else None
    for shape in SHAPES:
        codec = Codec(Format.parse(name), shape)
        for size in (0.0, 1e-30, 0.05, 3e37):
            values = (rng.standard_normal(shape) * size).astype(np.float32)
            values.flat[::5] = 0
            if size == 0.05:
                values.flat[0], values.flat[-1] = -0.0, np.nan
            for chunk in (1 << 19, 1000):
                monkeypatch.setattr(codecs, "_CHUNK", chunk)
                with kernels.pure():
                    expected = codec.encode(values, seed)
                np.testing.assert_array_equal(codec.encode(values, seed), expected)


@native
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", ["S1E3M7", "INT8", "S1E2M3"])
def test_xla_is_the_same_bit_for_bit(name, narrow):
    codec = Codec(Format.parse(name), (300, 257))  # Large enough for the path to compile itself.
    rng = np.random.default_rng(2)
    buffer, delta = random_buffer(codec, rng), rng.standard_normal((300, 257)).astype(np.float32)
    if narrow:
        buffer, delta = codec.zeros(), delta * 1e-5
    seed = tf.constant([3, 4], tf.int32)

    @tf.function(jit_compile=True)
    def compiled(buffer, delta):
        assert not kernels.usable()
        return codec.decode(buffer), codec.add(buffer, delta, seed)

    decoded, moved = compiled(buffer, delta)
    np.testing.assert_array_equal(bits(codec.decode(buffer)), bits(decoded))
    np.testing.assert_array_equal(codec.add(buffer, delta, seed), moved)
    with kernels.pure():
        np.testing.assert_array_equal(codec.add(buffer, delta, seed), moved)


LARGE = ["S1E3M7", "S1E5M10", "S1E4M14", "S1E7M14", "INT4", "INT8"]
ROOT = str(pathlib.Path(__file__).parents[1])
DIGEST = """
import hashlib, sys
from tests.test_kernels import LARGE, large_results
digest = hashlib.sha256()
for name in LARGE:
    for result in large_results(name):
        digest.update(result.tobytes())
print(digest.hexdigest())
"""


def large_results(name):
    """Decoded and moved codes of variables that are decoded past the caches, or just not."""
    rng = np.random.default_rng(4)
    for shape in ((1024, 1032), (1025, 1025), (511, 513)):
        codec = Codec(Format.parse(name), shape)
        buffer = random_buffer(codec, rng)
        yield bits(codec.decode(buffer))
        delta = rng.standard_normal(shape).astype(np.float32)
        yield np.asarray(codec.add(buffer, delta, tf.constant([5, 6], tf.int32)))
        if name == "INT4":
            yield np.asarray(nested.widen_buffer(buffer, codec, Codec(Format.parse("INT8"), shape)))


@native
@pytest.mark.parametrize("name", LARGE)
def test_large_variables_are_the_pure_path_bit_for_bit(name):
    with kernels.pure():
        expected = list(large_results(name))
    for ours, theirs in zip(large_results(name), expected):
        np.testing.assert_array_equal(ours, theirs)


@native
def test_every_instruction_set_gives_the_same_bits():
    def digest(instructions):
        environment = {**os.environ, "OMC_SIMD": instructions, "PYTHONPATH": ROOT}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert digest("portable") == digest("avx2") == digest("avx512") != ""


@native
@pytest.mark.parametrize("transform, saturates", [(True, True), (False, False)])
def test_alternatives_may_differ_in_what_saturates_not_in_the_transform(transform, saturates):
    fmt = Format.parse("INT8"), Format.parse("INT4")
    one, other = Codec(fmt[0], (9, 9)), Codec(fmt[1], (9, 9), transform, saturates)
    mixed = AlternativeCodec((one, other))
    assert mixed.natively_added == mixed.natively_decoded == transform
    for codec in (one, other):
        buffer = codec.encode(tf.random.normal((9, 9)))
        np.testing.assert_array_equal(mixed.decode(buffer), codec.decode(buffer))
        delta = tf.random.normal((9, 9))
        np.testing.assert_array_equal(mixed.add(buffer, delta), codec.add(buffer, delta))


@native
def test_a_reader_of_the_old_codes_keeps_them():
    codec = Codec(Format.parse("S1E3M7"), (64, 64))
    variable = tf.Variable(codec.encode(tf.random.normal((64, 64))))
    held = variable.read_value()
    before = held.numpy().copy()
    delta = tf.ones((64, 64))
    expected = codec.add(held, delta)
    kernels.update_variable(variable.handle, delta, tf.constant(1.0), None, [codec])
    np.testing.assert_array_equal(held, before)
    np.testing.assert_array_equal(variable, expected)


@native
def test_a_buffer_of_another_length_is_an_error():
    codec = Codec(Format.parse("S1E3M7"), (64, 64))
    with pytest.raises(tf.errors.InvalidArgumentError, match="bytes"):
        codec.decode(tf.zeros([codec.nbytes - 1], tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="bytes"):
        codec.add(tf.zeros([codec.nbytes + 1], tf.uint8), tf.zeros((64, 64)))


@native
def test_pure_holds_for_what_is_traced_in_it():
    codec = Codec(Format.parse("INT8"), (8, 8))
    buffer = codec.encode(tf.random.normal((8, 8)))

    def ops(function):
        graph = function.get_concrete_function(buffer).graph
        return {op.type for op in graph.get_operations()}

    with kernels.pure():
        assert not kernels.usable()
        with kernels.pure():
            pass
        assert not kernels.usable()
        assert "Omc>Decode" not in ops(tf.function(codec.decode))
    assert "Omc>Decode" in ops(tf.function(codec.decode))


@native
def test_computations_of_tff_do_without_outside_of_a_runtime():
    tff = pytest.importorskip("tensorflow_federated")

    import omc.learning  # noqa: F401 - it tells the ops when TFF traces

    seen = []

    @tff.tensorflow.computation(tff.types.TensorType(np.float32, [8]))
    def computation(x):
        seen.append(kernels.usable())
        seen.append(tf.function(lambda: tf.constant(kernels.usable()))().op is not None)
        return x

    assert seen[0] is False and kernels.usable()


def test_without_a_compiler_the_build_says_so_and_is_no_failure(tmp_path):
    environment = {**os.environ, "PATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("CXX", None)
    done = subprocess.run(
        [sys.executable, "-m", "omc.kernels.build"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "no C++ compiler" in done.stdout


def test_a_failing_compiler_is_told_with_its_words(tmp_path, monkeypatch):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho nothing works today >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(build, "library_path", lambda: tmp_path / "libomc-other.so")
    with pytest.raises(RuntimeError, match="nothing works today"):
        build.build()
    assert not list(tmp_path.glob("*.so"))


def test_only_older_libraries_of_the_same_tensorflow_are_removed(tmp_path, monkeypatch):
    """Two environments may share the sources: the one's library is no rubbish of the other's."""

    class Compiled:
        folder, compiler = str(tmp_path), ["compiler"]

        def compile(self, units):
            return []

    path = tmp_path / "there" / build.library_path().name
    path.parent.mkdir()
    older = path.with_name(path.name.rpartition("-")[0] + "-0123456789abcdef.so")
    other = path.with_name("libomc-tf1.15.0-0123456789abcdef.so")
    for file in (older, other):
        file.write_bytes(b"")
    made = functools.partial(pathlib.Path.write_bytes, tmp_path / path.name, b"")
    monkeypatch.setattr(build.compiling, "run", lambda command: made())
    monkeypatch.setattr(build, "library_path", lambda: path)
    assert build.build(Compiled()) == path
    assert path.exists() and other.exists() and not older.exists()


def test_no_op_is_called_in_place():
    """TensorFlow's optimizer knows ops that change their inputs by that word, and then copies."""
    names = [name for name in dir(kernels._library()) if name.startswith("omc_")]
    assert "omc_update_variable" in names
    assert not [name for name in names if "inplace" in name.replace("_", "")]
