"""Models wrapped before they are built: the wrap happens once they are, at the first call or build.

Keras 3 builds what is unbuilt at the beginning of a call, on symbolic tensors, also where that call
happens inside a trace (`fit`). The wrap follows at once, before the call itself, and outside of the
trace.
"""

import functools

import tensorflow as tf
from keras.src import backend
from keras.src.backend.common.stateless_scope import in_stateless_scope
from keras.src.backend.common.variables import AutocastScope

from omc.keras.deferral import MARK, is_deferred, running_on_symbols
from omc.keras.keras3.host import in_layer_call


def defer(model, finish):
    """Marks an unbuilt model, so that its first call or `build` wraps it.

    Args:
        model: An unbuilt `keras.Model`.
        finish: model -> None; wraps the model, which is built by then, or raises. After an error
            the model stays marked, and the next call raises again.
    """
    vars(model)[MARK] = finish  # By vars, for Keras would track what is set as an attribute.
    vars(model).update(_maybe_build=_first_call(model), build=_first_build(model))
    # Or `compile` would choose XLA by itself, which keeps weights dense.
    model.supports_jit = model.jit_compile = False


def _first_call(model):
    method = model._maybe_build

    @functools.wraps(method)
    def maybe_build(call_spec):
        try:
            method(call_spec)
            if not in_stateless_scope():  # There values are made later, and this is called again.
                if not _complete(model):
                    _run(model, call_spec)
                _finish(model)
        except BaseException:
            # Keras would run a function again whose trace failed, and find it empty.
            model.train_function = model.test_function = model.predict_function = None
            raise

    return maybe_build


def _first_build(model):
    method = model.build

    @functools.wraps(method)  # Keras asks it whether `build` is the user's own.
    def build(*args, **kwargs):
        with tf.init_scope():  # Variables made inside a trace would have their values after it.
            method(*args, **kwargs)
        # From within a call, variables may still be missing; so may they after Keras' own build.
        if not in_layer_call() and not in_stateless_scope() and _complete(model):
            _finish(model)

    return build


def _complete(model):
    return model.built and all(layer.built for layer in model._flatten_layers())


def _run(model, call_spec):
    """Builds what a `build` leaves to the call, by running it on symbols.

    Keras has tried that, and goes on without it where the call fails.
    """
    with running_on_symbols(model):
        backend.compute_output_spec(model.call, **call_spec.arguments_dict)


def _finish(model):
    if not is_deferred(model):
        return
    for layer in model._flatten_layers(include_self=False):
        _finish(layer)  # A part that waits for its own wrap.
    before = {name: vars(model).pop(name) for name in (MARK, "_maybe_build", "build")}
    vars(model)["build"] = before["build"].__wrapped__
    try:
        with tf.init_scope(), AutocastScope(None):
            before[MARK](model)
    except BaseException:
        vars(model).update(before)
        raise
