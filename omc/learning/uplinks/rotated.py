"""Uplink "rotated": EDEN, a fixed number of bits a weight and no entropy coder."""

import dataclasses

import numpy as np
import tensorflow as tf

from omc import checks, packing
from omc.learning.uplinks.base import VariableUplink, fold_in

BLOCK = 1024
"""Weights that are rotated together; each block has a scale of its own."""

# Lloyd-Max quantizers of a normal distribution, the positive half (EDEN, 2108.08842).
_CENTROIDS = {
    1: (0.79788,),
    2: (0.45278, 1.51042),
    3: (0.24509, 0.75601, 1.34391, 2.15195),
    4: (0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259),
}


@dataclasses.dataclass(frozen=True)
class Rotated(VariableUplink):
    """A client sends the change rotated at random and quantized to few levels (EDEN, ICML 2022).

        z = H (d * x) / sqrt(n),   c = the centroid nearest to z sqrt(n) / ||z||,
        read as S d * (H c) / sqrt(n),   S = ||z||^2 / <c, z>                       (unbiased)

    H is a Hadamard matrix, d are random signs of a seed that both ends know. Ours: blocks of
    `BLOCK` weights, each with its scale S, so that nothing is padded to a power of two and no whole
    variable is rotated. For links without an entropy coder; with one, "dithered" is shorter.

    Attributes:
        bits: Bits a weight, 1 .. 4, an int.

    Raises:
        InputTypeError, InputError: Other `bits`.
    """

    bits: int = 1

    def __post_init__(self):
        least, most = min(_CENTROIDS), max(_CENTROIDS)
        bits = checks.integer("bits", self.bits, f"an int, {least} .. {most}", least, most)
        object.__setattr__(self, "bits", bits)

    def spec(self, variable):
        """As `VariableUplink.spec`: seed, scales and planes of indices, all as bytes."""
        blocks, size = _blocks(variable)
        nbytes = 8 + 4 * blocks + packing.packed_nbytes(blocks * size, self.bits)
        return tf.TensorSpec([nbytes], tf.uint8)

    def encode_variable(self, result, change, seed):
        """As `VariableUplink.encode_variable`."""
        blocks, size = _blocks(result.described)
        flat = tf.reshape(tf.where(tf.math.is_finite(change), change, 0.0), [-1])
        padded = tf.reshape(tf.pad(flat, [[0, blocks * size - flat.shape[0]]]), [blocks, size])
        rotated = _hadamard(padded * _signs(seed, blocks, size)) / np.float32(np.sqrt(size))
        norm = tf.norm(rotated, axis=1, keepdims=True)
        unit = tf.math.divide_no_nan(rotated * np.float32(np.sqrt(size)), norm)
        levels = self._levels()
        middles = [float(middle) for middle in (levels[1:] + levels[:-1]) / 2]
        indices = tf.raw_ops.Bucketize(input=unit, boundaries=middles)
        centroids = tf.gather(levels, indices)
        along = tf.reduce_sum(centroids * rotated, axis=1)
        scales = tf.math.divide_no_nan(tf.square(norm[:, 0]), along)
        codes = tf.reshape(indices, [packing.ROWS, -1])
        planes = packing.pack(codes, self.bits)
        return tf.concat([_octets(seed), _octets(scales), *planes], axis=0)

    def decode_variable(self, variable, tensor):
        """As `VariableUplink.decode_variable`."""
        blocks, size = _blocks(variable)
        tensor = tf.ensure_shape(tensor, self.spec(variable).shape)
        seed, scales, planes = tf.split(tensor, [8, 4 * blocks, -1])
        seed = tf.bitcast(tf.reshape(seed, [2, 4]), tf.int32)
        scales = tf.bitcast(tf.reshape(scales, [blocks, 4]), tf.float32)
        columns = blocks * size // packing.ROWS
        indices = tf.reshape(packing.unpack(planes, columns, self.bits), [blocks, size])
        centroids = tf.gather(self._levels(), indices) * scales[:, tf.newaxis]
        flat = _hadamard(centroids) / np.float32(np.sqrt(size)) * _signs(seed, blocks, size)
        return tf.reshape(tf.reshape(flat, [-1])[: variable.count], variable.shape)

    def _levels(self):
        half = np.array(_CENTROIDS[self.bits], np.float32)
        return np.concatenate([-half[::-1], half])


def _blocks(variable):
    """(number of blocks, weights of each) of a variable; a small one is one block."""
    count = variable.count
    if count >= BLOCK:
        return -(-count // BLOCK), BLOCK
    return 1, max(8, 1 << max(count - 1, 0).bit_length())


def _signs(seed, blocks, size):
    words = fold_in(seed, 1)
    bits = tf.random.stateless_uniform([blocks, size], words, 0, 2, tf.int32, alg="philox")
    return tf.cast(2 * bits - 1, tf.float32)


def _hadamard(values):
    """H v for each row v, float32 [rows, 2^k]."""
    rows, size = values.shape
    width = 1
    while width < size:
        pairs = tf.reshape(values, [rows, -1, 2, width])
        left, right = pairs[:, :, 0], pairs[:, :, 1]
        values = tf.stack([left + right, left - right], axis=2)
        width *= 2
    return tf.reshape(values, [rows, size])


def _octets(values):
    return tf.reshape(tf.bitcast(values, tf.uint8), [-1])
