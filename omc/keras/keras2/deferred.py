"""Models wrapped before they are built: the wrap happens at the first call, or in build().

A subclassed model learns which variables it has only by running. So the first call runs twice: once
on placeholders in a graph that is thrown away, as Keras' own `Model.build` does, which creates the
variables; then, with the variables compressed, on the data. This holds under `fit` too, where the
first call happens inside a trace: variables and codes are made outside of it.
"""

import functools

import tensorflow as tf

from omc.keras.deferral import MARK, is_deferred, running_on_symbols
from omc.keras.keras2.host import autocast_variable, in_layer_call

_HOOKED = ("call", "build")  # Methods that Keras looks up on the instance.


def defer(model, finish):
    """Marks an unbuilt model, so that its first call or `build` wraps it.

    Args:
        model: An unbuilt `tf.keras.Model`.
        finish: model -> None; wraps the model, which is built by then, or raises. After an error
            the model stays marked, and the next call raises again.
    """
    vars(model)[MARK] = finish
    _hook(model)


def _hook(model):
    # By vars, for Keras would track what is set as an attribute.
    vars(model).update(call=_first_call(model), build=_first_build(model))


def _unhook(model):
    for name in _HOOKED:
        vars(model).pop(name, None)


def _first_call(model):
    method = model.call

    def call(*args, **kwargs):
        if not model.built:  # Keras' `build` calls it so, and more may come.
            return method(*args, **kwargs)
        _unhook(model)
        try:
            _create_variables(model, args, kwargs)
            _finish(model)
        except BaseException:
            _hook(model)
            # Keras would run a function again whose trace failed, and find it empty.
            model.train_function = model.test_function = model.predict_function = None
            raise
        return _call(model)(*args, **kwargs)

    call.autograph_info__ = None  # AutoGraph then leaves this as it is; `_call` converts the rest.
    return functools.wraps(method)(call)


def _first_build(model):
    method = model.build

    def build(*args, **kwargs):
        method(*args, **kwargs)
        # From within a call, variables may still be missing; so may they after a user's own build.
        calling = in_layer_call()
        layers = list(model._flatten_layers(include_self=False))
        if is_deferred(model) and not calling and all(layer.built for layer in layers):
            _unhook(model)
            try:
                _finish(model)
            except BaseException:
                _hook(model)
                raise

    if hasattr(method, "_is_default"):  # Keras asks whether `build` is the user's own.
        build._is_default = True
    return build


def _call(model):
    """The model's call as Keras makes it, under AutoGraph where that is due."""
    return model.call if tf.executing_eagerly() else model._autographed_call()


def _create_variables(model, args, kwargs):
    """Runs the call on placeholders, so that every layer builds."""
    try:
        with running_on_symbols(model), tf.__internal__.FuncGraph("omc_build").as_default():
            placeholders = tf.nest.map_structure(_placeholder, (args, kwargs))
            _call(model)(*placeholders[0], **placeholders[1])
    finally:
        model._clear_losses()  # Of the graph that is thrown away.


def _placeholder(value):
    if not tf.is_tensor(value) or isinstance(value, tf.Variable):
        return value
    spec = tf.type_spec_from_value(value)
    return tf.nest.map_structure(
        lambda part: tf.compat.v1.placeholder(part.dtype, part.shape),
        spec,
        expand_composites=True,
    )


def _finish(model):
    finish = vars(model)[MARK]
    with tf.init_scope(), autocast_variable.enable_auto_cast_variables(None):
        finish(model)
    del vars(model)[MARK]
