"""Has what an optimizer decodes wait for the gradient that it is needed with.

In a graph an optimizer's reads depend on nothing: the moments that Adam starts from, the weights
that a decay is a part of. All of them would be decoded when the step begins, and lie dense until
the backward pass comes to their layer. Only decodes wait, for what optimizers share among all
updates (Nadam's products) must not. Eager steps run in program order anyway.
"""

import contextlib
import functools

import tensorflow as tf

_gradients = {}  # id of a variable that is being updated -> its gradient, a tensor
_SLOTS = None  # Key of the gradient that decodes of other variables, the slots, wait for.


@contextlib.contextmanager
def after_gradients(gradients, variables):
    """Context in which decodes of variables wait for their gradients.

    Args:
        gradients: Sequence of tensors, tf.IndexedSlices or None.
        variables: As many tf.Variables.
    """
    with _waiting({id(v): g for v, g in zip(variables, gradients)}):
        yield


@contextlib.contextmanager
def after_gradient(gradient):
    """Context in which decodes of slots wait for a gradient: the update that they are read for.

    Args:
        gradient: Tensor, tf.IndexedSlices or None.
    """
    with _waiting({_SLOTS: gradient}):
        yield


@contextlib.contextmanager
def _waiting(gradients):
    if tf.executing_eagerly():
        yield
        return
    before = dict(_gradients)
    _gradients.update(gradients)
    try:
        yield
    finally:
        _gradients.clear()
        _gradients.update(before)


def gradient_for(variable):
    """The gradient that a decode of a variable has to wait for here: a tensor, or None."""
    if tf.executing_eagerly():
        return None
    gradient = _gradients.get(id(variable), _gradients.get(_SLOTS))
    if isinstance(gradient, tf.IndexedSlices):
        gradient = gradient.values
    here = tf.compat.v1.get_default_graph()
    return gradient if getattr(gradient, "graph", None) is here else None


def waiting_for_gradients(update_step):
    """An optimizer's `update_step` in which decodes of slots wait for the gradient."""

    @functools.wraps(update_step)
    def update(self, gradient, variable, *args, **kwargs):
        with after_gradient(gradient):
            return update_step(self, gradient, variable, *args, **kwargs)

    return update
