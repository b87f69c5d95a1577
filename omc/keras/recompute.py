"""omc.recompute: chosen layers keep only their inputs from forward to backward."""

import fnmatch
import functools
from collections.abc import Sequence

import tensorflow as tf

from omc.errors import InputError, InputTypeError, ModelError
from omc.keras import host
from omc.keras.rematerialization import repeated
from omc.keras.repeatability import obstacle


def recompute(model, layers):
    """Lets chosen layers of a model run again in backward instead of keeping their activations.

    A layer may be a whole block (a nested model, or a layer made of layers): of all that it
    computes, only its inputs are kept. This costs its forward pass once more, and never changes a
    result. It works for plain and for wrapped models, under `fit` and in one's own loop. The layers
    must draw no random numbers and read what they read from their inputs and variables alone.
    XLA (`jit_compile=True`) merges both runs, so there nothing is saved.

    Args:
        model: A built `tf.keras.Model`, changed in place.
        layers: Glob pattern of layer names ("block_*"), inner layers by their path
            ("encoder/block_*"); or a list of layers of the model. Of layers chosen inside one
            another the outermost counts.

    Returns:
        `model`.

    Raises:
        InputTypeError: `model` is no Keras model, or `layers` neither a pattern nor layers.
        InputError: No layer matches; or a chosen one holds a layer that draws random numbers
            (Dropout) or changes variables (BatchNormalization that trains, a stateful RNN), which
            the message names. The model is untouched.
        ModelError: The model is not built.
    """
    host.check_model(model)
    if not host.is_built(model):
        got = f"{model.name!r}, which is not built yet"
        raise ModelError("model", "a built model", got, "call it once, or model.build(shape).")
    paths = dict(_paths(model))
    chosen = _outermost(_chosen(paths, layers))
    for path, layer in chosen.items():
        found = obstacle(layer)
        if found is not None:
            inner, does = found
            raise InputError(
                "layers",
                "layers that do the same when they run again",
                f"{path!r}, whose layer {inner.name!r} ({type(inner).__name__}) {does}",
                "choose the layers around it.",
            )
    for layer in chosen.values():
        if not hasattr(vars(layer).get("call"), "_omc_recompute"):
            vars(layer)["call"] = _recomputed(layer, layer.call)  # Past Keras' attribute tracking.
    model.train_function = model.test_function = model.predict_function = None
    return model


def _recomputed(layer, call):
    @functools.wraps(call)
    def run(*args, **kwargs):
        variables = host.trainable_variables(layer)
        variables = [v for v in variables if not getattr(v, "lent", False)]
        return repeated(call, args, kwargs, layer, variables=variables)

    run._omc_recompute = True
    run.__module__ = tf.keras.layers.Layer.__module__  # AutoGraph converts `call`, not this.
    return run


def _paths(layer, above=""):
    """(path, layer) of every layer below `layer`, outer ones first."""
    for inner in layer._flatten_layers(recursive=False, include_self=False):
        if isinstance(inner, tf.keras.layers.InputLayer):
            continue
        yield f"{above}{inner.name}", inner
        yield from _paths(inner, f"{above}{inner.name}/")


def _chosen(paths, layers):
    if isinstance(layers, str):
        found = {path: layer for path, layer in paths.items() if fnmatch.fnmatch(path, layers)}
        if not found:
            some = ", ".join(list(paths)[:8]) + (", ..." if len(paths) > 8 else "")
            raise InputError(
                "layers", "a pattern that matches a layer", layers, f"there are: {some}"
            )
        return found
    if not isinstance(layers, Sequence) or not layers:
        raise InputTypeError("layers", "a glob pattern or a list of layers", layers)
    found = {}
    for layer in layers:
        if not isinstance(layer, tf.keras.layers.Layer):
            raise InputTypeError("layers", "layers of the model", type(layer).__name__)
        path = next((path for path, inner in paths.items() if inner is layer), None)
        if path is None:
            raise InputError("layers", "layers of the model", f"{layer.name!r}, which is not in it")
        found[path] = layer
    return found


def _outermost(chosen):
    inside = {id(inner) for layer in chosen.values() for _, inner in _paths(layer)}
    return {path: layer for path, layer in chosen.items() if id(layer) not in inside}
