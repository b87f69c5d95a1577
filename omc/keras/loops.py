"""Loops of layers whose weights are compressed: one iteration at a time.

Keras' recurrent layers let TensorFlow run 32 iterations of their loop at once. In backward each
has the gradient of all of the layer's weights, dense, before it is added to the others': the peak
was up to six times as high, another one in every run. The iterations of a recurrence wait for one
another anyway, so nothing is lost.
"""

import contextlib
import threading

from tensorflow.python.ops import while_v2  # Private: no public way to tell a layer's loops.

_calls = threading.local()
_while_loop = while_v2.while_loop


@contextlib.contextmanager
def one_iteration_at_a_time():
    """Context in which `tf.while_loop` is built so, whatever its `parallel_iterations` say.

    It concerns graphs; an eager loop is one in Python. The loop's backward pass inherits it.
    """
    before = getattr(_calls, "one", False)
    _calls.one = True
    try:
        yield
    finally:
        _calls.one = before


def _built(*args, **kwargs):
    if getattr(_calls, "one", False):
        kwargs["parallel_iterations"] = 1
    return _while_loop(*args, **kwargs)


while_v2.while_loop = _built
