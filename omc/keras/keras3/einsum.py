"""Keras 3's einsum of compressed kernels.

Keras rewrites the equations that it knows into a transposition, a reshape and a product, which
would ask for the kernel dense first. Importing this module has it leave compressed ones to
TensorFlow's einsum, which OMC serves.
"""

import functools

import tensorflow as tf
from keras.src.backend.tensorflow import numpy as backend

from omc.keras.keras3.variables import HOLDERS, held
from omc.keras.variable import CompressedVariable


def _install():
    original = backend.einsum

    @functools.wraps(original)
    def einsum(subscripts, *operands, **kwargs):
        if any(map(_is_stored, operands)):
            return tf.einsum(subscripts, *operands, **kwargs)
        return original(subscripts, *operands, **kwargs)

    backend.einsum = einsum


def _is_stored(operand):
    if isinstance(operand, HOLDERS):
        operand = held(operand)[0]
    return isinstance(operand, CompressedVariable) and not operand.lent


_install()
