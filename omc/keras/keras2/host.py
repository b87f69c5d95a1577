"""What OMC asks of Keras 2, and what it uses of it that is not public.

Private names of Keras 2 stand in this file and in this folder alone, so that a release that moves
one breaks here (tests/keras/test_host.py says which).
"""

import contextlib
import importlib

import tensorflow as tf

from omc.keras.added_losses import AddedLosses
from omc.keras.versions import ROOT


def _module(name):
    return importlib.import_module(f"{ROOT}.src.{name}")


base_layer_utils = _module("engine.base_layer_utils")
autocast_variable = _module("mixed_precision.autocast_variable")
AutoCastVariable = autocast_variable.AutoCastVariable
Node = _module("engine.node").Node
LossScaleOptimizer = _module("mixed_precision.loss_scale_optimizer").LossScaleOptimizerV3

HOLDERS = ()
"""Classes of objects that stand for a compressed variable: here it is what layers hold."""


def held(value):
    """The variable that one of `HOLDERS` stands for, and the dtype that it is read in."""
    raise TypeError(value)


def passed_on(op, args, kwargs):
    """Result of an op that only hands a variable on, or None: there is none here."""
    return None


def compute_dtype():
    """Dtype that variables are read in here, under mixed precision; None outside of layers."""
    return getattr(autocast_variable._autocast_dtype, "dtype", None)


def without_autocast():
    """Context in which variables are read in the dtype that they have."""
    return autocast_variable.enable_auto_cast_variables(None)


def in_layer_call():
    """Whether a layer's `call` is running."""
    return base_layer_utils.call_context().in_call


def is_built(model):
    """Whether a model has its variables."""
    return model.built


def layers_of(layer):
    """A layer or model and all that it holds, each once, in the order in which it holds them."""
    return list(layer._flatten_layers())


def modules_of(layer):
    """Plain modules that a layer holds, whose weights Keras counts to the layer: a list."""
    held_here = layer._flatten_modules(recursive=False, include_self=False)
    return [module for module in held_here if not isinstance(module, tf.keras.layers.Layer)]


def layers_before(layer):
    """Layers whose outputs a layer of a functional model takes: a list."""
    nodes = [node for inbound in layer.inbound_nodes for node in inbound.parent_nodes]
    return [node.layer for node in nodes]


def value_of(weight):
    """The tf.Variable behind what a layer holds as a weight: the same here."""
    return weight


def add_weight(layer, name, like, trainable):
    """Gives a built layer one more weight, which is no part of autocast.

    Args:
        layer: Keras layer.
        name: Its name within the layer.
        like: Array of its initial values.
        trainable: Whether it is, as long as the layer is not frozen.

    Returns:
        What the layer holds.
    """
    with tf.init_scope(), tf.name_scope(layer.name):  # The scope is for people, who read names.
        return layer.add_weight(
            name=name,
            shape=like.shape,
            dtype=like.dtype,
            initializer=tf.constant_initializer(like),
            trainable=trainable,
            experimental_autocast=False,
        )


def own_weights(layer):
    """The two lists in which a layer keeps its own weights: trainable ones, and others."""
    return layer._trainable_weights, layer._non_trainable_weights


def variables_of(model):
    """A model's variables, each once, in the order of `model.weights`; a list."""
    return list({id(v): v for v in model.weights}.values())


def trainable_variables(layer):
    """A layer's trainable variables, each once: a list."""
    return list({id(v): v for v in layer.trainable_weights}.values())


def own_variables(layer):
    """Variables that a layer holds itself, as they were made, trainable ones first: a list."""
    return [*layer._trainable_weights, *layer._non_trainable_weights]


def random_source(layer):
    """What draws a layer's random numbers, by the rates that it has; None where nothing does."""
    return layer if hasattr(layer, "_random_generator") else None


def has_state(layer):
    """Whether a layer holds weights that are not trained, which its calls may change."""
    return bool(layer._non_trainable_weights)


def autocasts(variable):
    """Whether a variable is read in its layer's compute dtype under mixed precision."""
    return isinstance(variable, AutoCastVariable)


def input_specs(model):
    """(args, kwargs) of tf.TensorSpecs that a model is called with; None where they are unknown."""
    spec = model.save_spec()
    return None if spec is None else (list(spec[0]), dict(spec[1]))


def settle(model):
    """Has layers compute what they cache of their weights (Normalization), as set_weights does."""
    for layer in model._flatten_layers():
        layer.finalize_state()


class Call(AddedLosses):
    """What a layer's call sees around it, and the losses that it adds on the way.

    Args:
        layer: Keras layer, or None for a call of no layer.
    """

    def __init__(self, layer):
        super().__init__([] if layer is None else list(layer._flatten_layers()), "_eager_losses")
        self._layer, calls = layer, base_layer_utils.call_context()
        self._saving = calls.saving
        # tf-keras since 2.17 keeps `training` among all arguments that a call passes on.
        named = hasattr(calls, "call_context_args")
        self._passed_on = dict(calls.call_context_args) if named else calls.training
        self._autograph = tf.__internal__.autograph.control_status_ctx()

    def run(self, call, args, kwargs):
        """(result, losses added), the losses taken out of the layers."""
        if self._layer is not None:  # As Keras does, and also where no AutoGraph runs any more.
            call = tf.__internal__.autograph.tf_convert(call, self._autograph)
        return super().run(call, args, kwargs)

    @contextlib.contextmanager
    def again(self):
        """Context for the second run, long after the layer's __call__ has ended."""
        if self._layer is None:
            yield
            return
        graph = not tf.executing_eagerly()
        calls, dtype = base_layer_utils.call_context(), self._layer._compute_dtype_object
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                calls.enter(self._layer, None, graph, self._passed_on, self._saving)
            )
            stack.enter_context(autocast_variable.enable_auto_cast_variables(dtype))
            yield
