"""Calls of the codec on each of its paths, and copies of a dense tensor, in TensorFlow loops."""

import contextlib
from unittest import mock

import tensorflow as tf

from omc import codecs, kernels

COPIES = ("copy_1", "copy_all")
_LEAST_SHARE = 0.2  # Of a measured time; what is left of less without the loop is noise.
# TensorFlow warns of many traces; here each of the many functions is traced once, on purpose.
tf.get_logger().setLevel("ERROR")


def modes():
    """How the codec can run here: "native", "xla" (what `pure()` gives), "ops" (TFF's worker)."""
    return ("native", "xla", "ops") if kernels.available() else ("xla", "ops")


@contextlib.contextmanager
def path(mode):
    """Context in which the codec's calls are traced for one of `modes()`."""
    if mode == "native":
        yield
        return
    with kernels.pure():
        if mode == "xla":
            yield
            return
        with mock.patch.object(codecs, "_compiled", lambda codec, name: getattr(codec, name)):
            yield


def looped(body, calls):
    """Function (first, *rest): `calls` times first = body(first, *rest), in one TensorFlow loop.

    The loop spares small variables the cost of calls from Python; what it takes itself, which is
    as long as a copy of 64 k weights, `nanoseconds` leaves out.
    """

    @tf.function
    def loop(first, *rest):
        def step(index, value):
            return index + 1, body(value, *rest)

        start = (tf.constant(0), first)
        return tf.while_loop(lambda index, _: index < calls, step, start, parallel_iterations=1)[1]

    return loop


def bound(function, *arguments):
    """The call as a function without arguments, after a first one: under the caller's path."""
    function(*arguments)
    return lambda: function(*arguments)


def copies(dense, calls):
    """The yardsticks: copies of a dense tensor, and "empty", the loop around everything else.

    The copies go into newly allocated memory, as decode has to allocate its result. "copy_1" is
    TensorFlow's memcpy on one thread; "copy_all" an addition of 0, spread over as many threads as
    the codec.
    """
    one = looped(lambda _, x: tf.raw_ops.DeepCopy(x=x), calls)
    # The 0 is an argument: a constant one TensorFlow would optimise away.
    every = looped(lambda _, x, zero: tf.raw_ops.AddV2(x=x, y=zero), calls)
    zero = tf.constant(0.0)
    empty = looped(lambda value, _: tf.identity(value), calls)
    return {
        "empty": bound(empty, dense, dense),
        "copy_1": bound(one, dense, dense),
        "copy_all": bound(every, dense, dense, zero),
    }


def nanoseconds(each, key, weights, looped=True):
    """Time of a function in ns a weight, less that of the empty loop where it ran in a loop.

    Args:
        each: Dict of name -> seconds, "empty" among them.
        key: Name of the function.
        weights: Weights that were worked on in these seconds.
        looped: Whether `looped` made it.

    Returns:
        Float; None where the loop took most of the time, so that the rest is noise.
    """
    taken = each[key] - each["empty"] if looped else each[key]
    return taken / weights * 1e9 if taken > _LEAST_SHARE * each[key] else None


def to_copies(each, time, weights):
    """Part of a row: the copies in ns a weight, and a time as their multiple.

    Args:
        each: As in `nanoseconds`.
        time: Time of something else, ns a weight, or None.
        weights: As in `nanoseconds`.
    """
    copies = {name: nanoseconds(each, name, weights) for name in COPIES}
    return {
        **{f"{name}_ns": copy for name, copy in copies.items()},
        **{f"to_{name}": quotient(time, copy) for name, copy in copies.items()},
    }


def quotient(time, other):
    """time / other; None where one of them is."""
    return None if time is None or other is None else time / other
