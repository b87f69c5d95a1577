"""decode_rows gives the rows that decoding everything gives, from their own bytes."""

import numpy as np
import pytest
import tensorflow as tf

from omc.alternative_codecs import AlternativeCodec
from omc.codecs import Codec
from omc.formats import FP32, Format
from omc.rows import decode_rows

FORMATS = [
    "S1E3M7",
    "S1E2M3",
    "S1E5M10",
    "S0E4M4",
    "INT2",
    "INT4",
    "INT7",
    "INT8",
    "S1E8M7",
    "S1E3M5+2",
    "INT4+4",
]


def buffer_of(codec, seed=0):
    values = np.random.default_rng(seed).normal(size=codec.shape).astype(np.float32)
    return codec.encode(tf.constant(values))


def same_bits(got, want):
    np.testing.assert_array_equal(got.numpy().view(np.int32), want.numpy().view(np.int32))


@pytest.mark.parametrize("transform", [True, False])
@pytest.mark.parametrize("shape", [(7, 5), (16, 8), (3, 1), (50, 2, 3), (11,)])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_row_bit_for_bit(fmt, shape, transform):
    codec = Codec(Format.parse(fmt), shape, transform)
    buffer = buffer_of(codec)
    want = codec._decode(buffer)
    for indices in ([0], [shape[0] - 1, 0], [[1, 1]]):
        same_bits(decode_rows(codec, buffer, tf.constant(indices)), tf.gather(want, indices))
    every = tf.range(shape[0], dtype=tf.int64)  # As many as there are: the other way round.
    same_bits(decode_rows(codec, buffer, every), want)
    unknown = tf.function(lambda i: decode_rows(codec, buffer, i), autograph=False)
    traced = unknown.get_concrete_function(tf.TensorSpec([None], tf.int64))
    assert traced.output_shapes == tf.TensorShape([None, *shape[1:]])
    same_bits(traced(every[::-1]), want[::-1])


@pytest.mark.parametrize("raw", [True, False])
def test_partial_codecs(raw):
    codec = Codec(Format.parse("INT4"), (9, 4))
    buffer = buffer_of(Codec(FP32, (9, 4), transform=False) if raw else codec)
    partial = AlternativeCodec((codec, Codec(FP32, (9, 4), transform=False)))
    same_bits(decode_rows(partial, buffer, tf.constant([8, 2])), partial.decode(buffer)[8::-6])


def test_a_large_table_as_the_compiled_codec():
    codec = Codec(Format.parse("S1E3M7"), (3000, 24))
    buffer = buffer_of(codec)
    rows = tf.constant([0, 2999, 17])
    got, want = decode_rows(codec, buffer, rows), tf.gather(codec.decode(buffer), rows)
    same_bits(got, want)


@pytest.mark.parametrize("index", [-1, 7])
def test_a_row_that_does_not_exist_is_refused(index):
    codec = Codec(Format.parse("INT8"), (7, 5))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_rows(codec, buffer_of(codec), tf.constant([index]))


def test_nothing_asked_for():
    codec = Codec(Format.parse("INT8"), (7, 5))
    assert decode_rows(codec, buffer_of(codec), tf.zeros([0, 3], tf.int32)).shape == (0, 3, 5)
