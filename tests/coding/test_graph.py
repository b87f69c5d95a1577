"""The coder in graphs: the same bytes as outside, natively or through numpy."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from omc import coding, kernels
from omc.codecs import Codec
from omc.formats import Format

PATHS = pytest.mark.parametrize("path", [contextlib.nullcontext, kernels.pure])


@PATHS
def test_symbols_in_a_graph(path):
    rng = np.random.default_rng(0)
    symbols = rng.integers(-9, 9, (40, 30)).astype(np.int32)
    context = rng.integers(0, 5, (40, 30)).astype(np.uint8)
    for given in (None, context):
        with path():
            encode = tf.function(lambda s, g=given: coding.graph.encode(s, g))
            decode = tf.function(lambda d, g=given: coding.graph.decode(d, (40, 30), g))
            data = encode(symbols)
            restored = decode(data)
        assert data.numpy().tobytes() == coding.encode(symbols, given)
        np.testing.assert_array_equal(restored, symbols)
        assert decode.get_concrete_function(data).structured_outputs.shape == (40, 30)


@PATHS
@pytest.mark.parametrize("name", ["INT4", "S1E3M7", "FP32"])
def test_buffers_in_a_graph(path, name):
    fmt = Format.parse(name)
    codec = Codec(fmt, (30, 20), not fmt.is_fp32)
    buffer, other = (
        codec.encode(tf.random.stateless_normal((30, 20), [1, seed])) for seed in (1, 2)
    )
    for given in (None, other):
        with path():
            encode = tf.function(lambda b, g=given: coding.graph.encode_buffer(b, codec, g))
            decode = tf.function(lambda d, g=given: coding.graph.decode_buffer(d, codec, g))
            data = encode(buffer)
            restored = decode(data)
        assert data.numpy().tobytes() == coding.encode_buffer(buffer, codec, given)
        np.testing.assert_array_equal(restored, buffer)
        assert decode.get_concrete_function(data).structured_outputs.shape == (codec.nbytes,)


@pytest.mark.skipif(not kernels.available(), reason="no native ops")
def test_damage_is_data_loss_in_a_graph():
    codec = Codec(Format.parse("INT4"), (30, 20))
    data = coding.encode_buffer(codec.encode(tf.ones([30, 20])), codec)
    decode = tf.function(lambda d: coding.graph.decode_buffer(d, codec))
    for bad in (data[:-1], bytes([data[0] + 1]) + data[1:], b""):
        with pytest.raises(tf.errors.DataLossError, match="the coded stream is"):
            decode(np.frombuffer(bad, np.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="bytes, not"):
        coding.graph.encode_buffer(tf.zeros([3], tf.uint8), codec)
