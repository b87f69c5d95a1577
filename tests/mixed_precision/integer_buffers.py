"""Buffers of integer codes, made without anything that is under test here."""

import numpy as np
import tensorflow as tf

from omc.alternative_codecs import AlternativeCodec
from omc.codecs import Codec
from omc.formats import Format
from omc.mixed_precision.bit_planes import integer_codec

SCALE, OFFSET = np.float32(0.37), np.float32(0.013)


def codec_of(bits, count):
    widest = Codec(Format.parse("INT8"), (count,))
    return integer_codec(widest, bits)


def alternatives(count):
    return AlternativeCodec([codec_of(bits, count) for bits in range(8, 1, -1)])


def stored(codes, bits):
    """Buffer of integer codes: planes by the plain codec, without anything under test."""
    bare = Codec(Format.parse(f"INT{bits}"), (len(codes),), transform=False)
    planes = bare.encode(tf.constant(codes, tf.float32)).numpy().tobytes()
    trailer = np.array([SCALE, OFFSET], "<f4").tobytes()
    return tf.constant(np.frombuffer(planes + trailer, np.uint8))
