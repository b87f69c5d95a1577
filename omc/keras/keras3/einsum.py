"""Keras 3's einsum of compressed kernels.

Keras rewrites the equations that it knows into a transposition, a reshape and a product, which
would ask for the kernel dense first. Importing this module has OMC compute them so, from the
codes; operands are promoted to one dtype before, as by Keras.
"""

import functools

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import numpy as backend

from omc.keras.keras3.variables import HOLDERS, held
from omc.keras.ops import einsum_as_product
from omc.keras.variable import CompressedVariable


def _install():
    original = backend.einsum

    @functools.wraps(original)
    def einsum(subscripts, *operands, **kwargs):
        if any(map(_is_stored, operands)):
            return _of_stored(subscripts, _promoted(operands), kwargs)
        return original(subscripts, *operands, **kwargs)

    backend.einsum = einsum


def _of_stored(subscripts, operands, options):
    if not options:
        result = einsum_as_product(subscripts, list(map(_variable, operands)))
        if result is not NotImplemented:
            return result
    return tf.einsum(subscripts, *operands, **options)  # Which OMC serves, or reads dense.


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
    operand = _variable(operand)
    return isinstance(operand, CompressedVariable) and not operand.lent


def _variable(operand):
    """The compressed variable that an operand stands for, or the operand."""
    return held(operand)[0] if isinstance(operand, HOLDERS) else operand


_install()
