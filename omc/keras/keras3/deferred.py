"""Models wrapped before they are built: the wrap happens once they are, at the first call or build.

Keras 3 builds what is unbuilt at the beginning of a call, on symbolic tensors, also where that call
happens inside a trace (`fit`). The wrap follows at once, before the call itself, and outside of the
trace.
"""

import functools

import tensorflow as tf
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.variables import AutocastScope

_MARK = "_omc_deferred"
_HOOKED = ("_maybe_build", "build")  # Methods that Keras looks up on the instance.


def is_deferred(model):
    """Whether a model is marked to be wrapped when it is built."""
    return _MARK in vars(model)


def defer(model, finish):
    """Marks an unbuilt model, so that its first call or `build` wraps it.

    Args:
        model: An unbuilt `keras.Model`.
        finish: model -> None; wraps the model, which is built by then, or raises. After an error
            the model stays marked, and the next call raises again.
    """
    vars(model)[_MARK] = finish  # By vars, for Keras would track what is set as an attribute.
    vars(model).update(_maybe_build=_first_call(model), build=_first_build(model))


def _first_call(model):
    method = model._maybe_build

    @functools.wraps(method)
    def maybe_build(call_spec):
        method(call_spec)
        if model.built and not _complete(model) and not in_stateless_scope():
            # A `build` of the user's own leaves some layers to the call.
            backend.compute_output_spec(model.call, **call_spec.arguments_dict)
        _finish_if_complete(model)

    return maybe_build


def _first_build(model):
    method = model.build

    @functools.wraps(method)  # Keras asks it whether `build` is the user's own.
    def build(*args, **kwargs):
        with tf.init_scope():  # Variables made inside a trace would have their values after it.
            method(*args, **kwargs)
        if global_state.get_global_attribute("current_call_ctx") is None:
            _finish_if_complete(model)

    return build


def _complete(model):
    return model.built and all(layer.built for layer in model._flatten_layers())


def _finish_if_complete(model):
    if not is_deferred(model) or not _complete(model) or in_stateless_scope():
        return
    finish = vars(model).pop(_MARK)
    hooks = {name: vars(model)[name] for name in _HOOKED}
    vars(model).update({name: hook.__wrapped__ for name, hook in hooks.items()})
    try:
        with tf.init_scope(), AutocastScope(None):
            finish(model)
    except BaseException:
        vars(model).update({_MARK: finish, **hooks})
        raise
