"""Checks of arguments that are numbers: numpy's scalars count, bools do not, errors are typed."""

import math
import numbers

import numpy as np

from omc.errors import InputError, InputTypeError

_FLOAT32 = np.finfo(np.float32)


def integer(argument, value, expected="an integer", least=None, most=None, tip=""):
    """An argument as an int.

    Args:
        argument: Its name.
        value: What came, an int or an integer scalar of numpy.
        expected: What is allowed, in words.
        least, most: Bounds, both allowed; None for none.
        tip: Of the errors.

    Raises:
        InputTypeError: It is no integer.
        InputError: It is out of bounds.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise InputTypeError(argument, expected, value, tip)
    value = int(value)
    if (least is not None and value < least) or (most is not None and value > most):
        raise InputError(argument, expected, value, tip)
    return value


def real(argument, value, expected="a number", allowed=lambda value: True, tip="", float32=True):
    """An argument as a float that float32 holds, since that is what TensorFlow computes with.

    Args:
        argument: Its name.
        value: What came, any real number but a bool.
        expected: What is allowed, in words.
        allowed: Function of the number: whether it is.
        tip: Of the errors.
        float32: False for one that is used in float64 alone.

    Raises:
        InputTypeError: It is no number.
        InputError: It is not finite, not allowed, or 0 or infinity in float32 only.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise InputTypeError(argument, expected, value, tip)
    try:
        number = float(value)
    except OverflowError:  # Of a large int.
        number = math.inf
    if not (math.isfinite(number) and allowed(number)):
        raise InputError(argument, expected, value, tip)
    if float32 and number and not _FLOAT32.tiny <= abs(number) <= _FLOAT32.max:
        raise InputError(argument, f"{expected}, of float32", value, tip)
    return number


def choice(argument, value, known, tip=""):
    """An argument that is one of some names.

    Args:
        argument: Its name.
        value: What came, of any type.
        known: Sequence of str.
        tip: Of the error.

    Raises:
        InputError: It is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(argument, f"one of {tuple(known)}", value, tip)
    return value
