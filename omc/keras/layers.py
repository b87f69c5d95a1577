"""Layers that are served as a whole, since their ops would ask for the kernel more than once.

Recurrent layers read their kernels at every time step. Here these are decoded once for the
sequence, and once more in backward, where the layer runs again (`omc.keras.rematerialization`). A
layer that would not do the same again (dropout in training, a state that is kept) runs once, and
keeps its dense kernels until backward.

Importing this module makes the Keras classes below look for compressed variables at each call.
"""

import contextlib
import functools
import inspect

import tensorflow as tf

from omc.keras import host
from omc.keras.gradient import in_forward_mode
from omc.keras.loops import one_iteration_at_a_time
from omc.keras.rematerialization import compressed, repeated
from omc.keras.repeatability import obstacle

L = tf.keras.layers

_RECURRENT = (L.RNN, L.SimpleRNN, L.LSTM, L.GRU, L.ConvLSTM1D, L.ConvLSTM2D, L.ConvLSTM3D)
_CELLS = (L.SimpleRNNCell, L.LSTMCell, L.GRUCell)
_KERAS_2 = ("LocallyConnected1D", "LocallyConnected2D")
_OTHERS = (L.DepthwiseConv1D, L.SeparableConv1D, L.PReLU)
_OTHERS += tuple(getattr(L, name) for name in _KERAS_2 if hasattr(L, name))
_KERAS_3 = ("EinsumDense", "Embedding")


def _serve(layer, call, args, kwargs):
    """The layer's call with its compressed variables decoded once."""
    mine = [variable for variable in compressed(host.variables_of(layer)) if not variable.lent]
    if not mine:
        return call(layer, *args, **kwargs)
    bound = functools.partial(call, layer)
    tensors = [t for t in tf.nest.flatten((args, kwargs)) if isinstance(t, tf.Tensor)]
    # What an accumulator asks of a layer with loops, TensorFlow can do for its own ops only.
    forward = in_forward_mode(tensors, mine)
    if not forward and obstacle(layer, training=_training(call, layer, args, kwargs)) is None:
        ids = {id(variable) for variable in mine}
        others = [v for v in host.trainable_variables(layer) if id(v) not in ids]
        others = [v for v in others if not getattr(v, "lent", False)]
        return repeated(bound, args, kwargs, layer, variables=others, decoded=mine)
    with contextlib.ExitStack() as stack:
        for variable in mine:
            stack.enter_context(variable.lend(variable.read_value()))
        stack.enter_context(one_iteration_at_a_time())
        return bound(*args, **kwargs)


def _training(call, layer, args, kwargs):
    bound = inspect.signature(call).bind(layer, *args, **kwargs)
    return bound.arguments.get("training")


def _of_groups_or_lora(layer, *args, **kwargs):
    """Whether a kernel is of groups, or has a low-rank update on top: no plain operand of an op."""
    return getattr(layer, "groups", 1) > 1 or getattr(layer, "lora_enabled", False)


def _scores(layer, inputs, reverse=False):
    """Whether a call has an embedding score outputs, for which Keras transposes its matrix."""
    return reverse and layer.tie_weights


def _patch(cls, applies=lambda layer, *args, **kwargs: True):
    """Has `cls` serve its compressed variables in `call`, as the class itself defines it.

    Args:
        cls: Keras layer class.
        applies: (layer, arguments of a call) -> whether to do so there.
    """
    original = cls.__dict__.get("call")
    if original is None or hasattr(original, "_omc"):
        return

    @functools.wraps(original)  # Also the module's name, by which AutoGraph leaves it alone.
    def call(self, *args, **kwargs):
        if applies(self, *args, **kwargs):
            return _serve(self, original, args, kwargs)
        return original(self, *args, **kwargs)

    call.__signature__ = inspect.signature(original)  # Where Keras looks for `training`, `mask`.
    call._omc = True
    cls.call = call


for _class in _RECURRENT:
    for _base in _class.__mro__:
        if issubclass(_base, L.RNN):
            _patch(_base)
for _class in _CELLS:
    _patch(_class)
for _class in _OTHERS:  # Of which Keras 3 has some share their `call` with others.
    _base = next(base for base in _class.__mro__ if "call" in vars(base))
    _patch(_base, lambda layer, *args, **kwargs: isinstance(layer, _OTHERS))
for _class in (*L.Conv1D.__mro__, L.Dense, *(getattr(L, name, L.Dense) for name in _KERAS_3)):
    if issubclass(_class, L.Layer) and _class is not L.Layer:
        _patch(_class, _of_groups_or_lora)
if hasattr(L, "ReversibleEmbedding"):
    _patch(L.ReversibleEmbedding, _scores)
