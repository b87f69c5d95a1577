"""The Keras 2 of this TensorFlow, and what we use of it that is not public.

TensorFlow 2.14 and 2.15 come with Keras 2. From 2.16 on `tf.keras` is Keras 3, or, where
TF_USE_LEGACY_KERAS=1 is set and the package tf-keras is installed, the same Keras 2 by another
name. Private names of Keras stand here alone, so that a release that moves one breaks this file
(tests/keras/test_host.py says which).
"""

import importlib
import os

import tensorflow as tf

from omc.errors import KerasError

LEGACY = "TF_USE_LEGACY_KERAS"
_FIRST_WITH_KERAS_3 = (2, 16)


def _root():
    """Name of the package that `tf.keras` is, "keras" or "tf_keras".

    Raises:
        KerasError: It is Keras 3, or not installed.
    """
    version = tuple(int(part) for part in tf.__version__.split(".")[:2])
    legacy = os.environ.get(LEGACY, "").lower() in ("1", "true")
    expected = "Keras 2, as tf.keras"
    tip = (
        f"pip install 'tf-keras=={version[0]}.{version[1]}.*', and set {LEGACY}=1 before "
        "TensorFlow is imported."
    )
    if version >= _FIRST_WITH_KERAS_3 and not legacy:
        got = f"TensorFlow {tf.__version__} without {LEGACY}=1, whose tf.keras is Keras 3"
        raise KerasError("tensorflow", expected, got, tip)
    try:
        root = tf.keras.layers.Layer.__module__.partition(".")[0]
        importlib.import_module(f"{root}.src.engine.base_layer")
    except ImportError as error:
        got = f"TensorFlow {tf.__version__}, whose tf.keras cannot be imported as that ({error})"
        raise KerasError("tensorflow", expected, got, tip) from error
    return root


def _module(name):
    return importlib.import_module(f"{ROOT}.src.{name}")


ROOT = _root()
"""Package that `tf.keras` is: "keras", or "tf_keras"."""

base_layer_utils = _module("engine.base_layer_utils")
autocast_variable = _module("mixed_precision.autocast_variable")
AutoCastVariable = autocast_variable.AutoCastVariable
Node = _module("engine.node").Node
LossScaleOptimizer = _module("mixed_precision.loss_scale_optimizer").LossScaleOptimizerV3


def compute_dtype():
    """Dtype that variables are read in here, under mixed precision; None outside of layers."""
    return getattr(autocast_variable._autocast_dtype, "dtype", None)


def in_layer_call():
    """Whether a layer's `call` is running."""
    return base_layer_utils.call_context().in_call


class LayerCall:
    """What a layer's call sees around it now, to be set up again later.

    Args:
        layer: The layer.
    """

    def __init__(self, layer):
        self._layer, calls = layer, base_layer_utils.call_context()
        self._saving = calls.saving
        # tf-keras since 2.17 keeps `training` among all arguments that a call passes on.
        named = hasattr(calls, "call_context_args")
        self._passed_on = dict(calls.call_context_args) if named else calls.training

    def again(self):
        """Context in which the layer is being called."""
        graph = not tf.executing_eagerly()
        calls = base_layer_utils.call_context()
        return calls.enter(self._layer, None, graph, self._passed_on, self._saving)

    def autocast(self):
        """Context in which variables are read in the layer's compute dtype."""
        return autocast_variable.enable_auto_cast_variables(self._layer._compute_dtype_object)
