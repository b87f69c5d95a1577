"""Keras 3's einsum of compressed kernels.

Keras rewrites the equations that it knows into a transposition, a reshape and a product, which
would ask for the kernel dense first. Importing this module has it leave compressed ones to
TensorFlow's einsum, which OMC serves; operands are promoted to one dtype before, as by Keras.
"""

import functools

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import numpy as backend

from omc.keras.keras3.variables import HOLDERS, held
from omc.keras.variable import CompressedVariable


def _install():
    original = backend.einsum

    @functools.wraps(original)
    def einsum(subscripts, *operands, **kwargs):
        if any(map(_is_stored, operands)):
            return tf.einsum(subscripts, *_promoted(operands), **kwargs)
        return original(subscripts, *operands, **kwargs)

    backend.einsum = einsum


def _promoted(operands):
    """Operands with the others than compressed ones cast to the dtype that all have together."""
    others = {
        place: keras.ops.convert_to_tensor(operand)
        for place, operand in enumerate(operands)
        if not _is_stored(operand)
    }
    dtypes = [others.get(place, own).dtype for place, own in enumerate(operands)]
    wanted = keras.backend.result_type(*map(keras.backend.standardize_dtype, dtypes))
    return [
        tf.cast(others[place], wanted) if place in others else operand
        for place, operand in enumerate(operands)
    ]


def _is_stored(operand):
    if isinstance(operand, HOLDERS):
        operand = held(operand)[0]
    return isinstance(operand, CompressedVariable) and not operand.lent


_install()
