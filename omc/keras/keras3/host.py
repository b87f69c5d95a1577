"""What OMC asks of Keras 3, and what it uses of it that is not public.

A layer's weight is a `keras.Variable`, and the tf.Variable behind it is its `_value`. Keras takes
any tf.Variable for that, so a `CompressedVariable` goes in as it is, and nothing in the model has
to be found or replaced.

Private names of Keras 3 stand in this file and in this folder alone, so that a release that moves
one breaks here (tests/keras/test_keras3.py says which).
"""

import contextlib
import functools
import weakref

import tensorflow as tf
from keras.src import tree
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import AutocastScope, get_autocast_scope
from keras.src.export import export_utils
from keras.src.utils.python_utils import is_default

from omc.keras.added_losses import AddedLosses
from omc.keras.keras3.variables import (  # noqa: F401 - a part of what a host has
    CALL,
    HOLDERS,
    held,
    in_layer_call,
    passed_on,
)


def compute_dtype():
    """None: Keras casts what it reads by itself."""
    return None


def without_autocast():
    """Context in which variables are read in the dtype that they have."""
    return AutocastScope(None)


def is_built(model):
    """Whether a model has its variables.

    Keras 3's own `built` says so too after the `build` that a subclassed model has from Keras,
    which makes none.
    """
    if not is_default(model.build) or model._called:
        return model.built
    return model.built and all(layer.built for layer in model._layers)


def layers_of(layer):
    """A layer or model and all that it holds, each once, in the order in which it holds them.

    (Keras 3's own walk turns the order of inner layers around.)
    """
    found, stack = {}, [layer]
    while stack:
        current = stack.pop()
        if id(current) not in found:
            found[id(current)] = current
            stack.extend(reversed(current._layers))
    return list(found.values())


def modules_of(layer):
    """Modules whose weights count to a layer: Keras 3 looks into none."""
    return []


def layers_before(layer):
    """Layers whose outputs a layer of a functional model takes: a list."""
    nodes = [node for inbound in layer._inbound_nodes for node in inbound.parent_nodes]
    return [node.operation for node in nodes if isinstance(node.operation, tf.keras.layers.Layer)]


def value_of(weight):
    """The tf.Variable behind what a layer holds as a weight; of a tf.Variable itself."""
    return weight if isinstance(weight, tf.Variable) else _values([weight])[0]


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
    tracker, locked = layer._tracker, layer._tracker.locked
    with tf.init_scope(), layer._open_name_scope():
        tracker.unlock()
        try:
            weight = layer.add_weight(
                name=name,
                shape=like.shape,
                dtype=like.dtype.name,
                initializer=lambda shape, dtype: tf.constant(like, dtype),
                trainable=trainable,
                autocast=False,
            )
        finally:
            if locked:
                tracker.lock()
    weight.trainable = trainable and layer.trainable  # As Keras has it for those of a frozen layer.
    layer._track_trackable(weight, name, overwrite=True)  # For TensorFlow's checkpoints.
    if type(layer).save_own_variables is not tf.keras.layers.Layer.save_own_variables:
        _save_too(layer, weight)
    return weight


def _save_too(layer, weight):
    """Has files keep one more weight of a layer (Dense, Conv) that names those that it saves."""
    save, load = layer.save_own_variables, layer.load_own_variables

    def place():
        trainable, others = own_weights(layer)
        own = enumerate([*trainable, *others])
        return next((str(place) for place, other in own if other is weight), None)

    @functools.wraps(save)
    def save_own_variables(store):
        save(store)
        if place() is not None:
            store[place()] = weight

    @functools.wraps(load)
    def load_own_variables(store):
        load(store)
        if place() is not None:
            weight.assign(store[place()])

    vars(layer).update(save_own_variables=save_own_variables, load_own_variables=load_own_variables)


def own_weights(layer):
    """The two lists in which a layer keeps its own weights: trainable ones, and others."""
    return layer._trainable_variables, layer._non_trainable_variables


def variables_of(model):
    """The tf.Variables behind a model's weights, each once, in the order of `model.weights`.

    Each knows the `keras.Variable` that holds it, see `omc.policies.VariableSpec`.
    """
    return _values(model.weights)


def trainable_variables(layer):
    """The tf.Variables behind a layer's trainable weights, each once: a list."""
    return _values(layer.trainable_weights)


def own_variables(layer):
    """tf.Variables behind the weights that a layer holds itself, trainable ones first: a list."""
    trainable, others = own_weights(layer)
    return _values(v for v in [*trainable, *others] if not _is_seed(v))


def _is_seed(variable):
    return variable.path.rsplit("/", 1)[-1] == "seed_generator_state"


def _values(holders):
    found = {}
    for holder in holders:
        value = holder._value
        if value is None:
            continue  # Made within a symbolic call, which makes values when it ends.
        value._omc_holder = weakref.ref(holder)
        found.setdefault(id(value), value)
    return list(found.values())


def random_source(layer):
    """What draws a layer's random numbers, by the rates that it has; None where nothing does."""
    if isinstance(layer, tf.keras.layers.RNN):
        layer = layer.cell  # Which has no name of the user's own.
    return layer if layer._seed_generators else None


def has_state(layer):
    """Whether a layer holds weights that are not trained, which its calls may change.

    Frozen ones are among those that are trained still; generators' seeds count as chance.
    """
    return not all(map(_is_seed, layer._non_trainable_variables))


def autocasts(variable):
    """Whether a variable itself casts what is read under mixed precision: Keras does."""
    return False


def input_specs(model):
    """(args, kwargs) of tf.TensorSpecs that a model is called with; None where they are unknown.

    Of a subclassed model Keras 3 knows the shapes of its first call, and takes its input dtype.
    """
    try:
        signature = export_utils.get_input_signature(model)
    except ValueError:
        return None

    def spec(found):
        return tf.TensorSpec(found.shape, found.dtype, getattr(found, "name", None))

    return [tree.map_structure(spec, argument) for argument in signature], {}


def settle(model):
    """Has layers compute what they cache of their weights (Normalization), as loading does."""
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


class Call(AddedLosses):
    """What a layer's call sees around it, and the losses that it adds on the way.

    Args:
        layer: Keras layer, or None for a call of no layer.
    """

    def __init__(self, layer):
        super().__init__([] if layer is None else layer._flatten_layers(), "_losses")
        self._calling = global_state.get_global_attribute(CALL)
        scope = get_autocast_scope()
        self._dtype = None if scope is None else scope.dtype

    @contextlib.contextmanager
    def again(self):
        """Context for the second run, long after the layer's __call__ has ended."""
        before = global_state.get_global_attribute(CALL)
        global_state.set_global_attribute(CALL, self._calling)
        try:
            with AutocastScope(self._dtype):
                yield
        finally:
            global_state.set_global_attribute(CALL, before)
