"""What OMC asks of Keras 3, and what it uses of it that is not public.

A layer's weight is a `keras.Variable`, and the tf.Variable behind it is its `_value`. Keras takes
any tf.Variable for that, so a `CompressedVariable` goes in as it is, and nothing in the model has
to be found or replaced.

Private names of Keras 3 stand in this file and in this folder alone, so that a release that moves
one breaks here (tests/keras/test_keras3.py says which).
"""

import contextlib
import functools
import inspect
import weakref

import tensorflow as tf
from keras.src import backend, tree
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import AutocastScope, get_autocast_scope
from keras.src.export import export_utils
from keras.src.utils.python_utils import is_default

from omc.errors import ModelError
from omc.keras.conversion import is_refused

_CALL = "current_call_ctx"
_PASSING_ON = ("cast", "shape", "shape_v2")
_PASSING_ON += ("gather", "gather_v2", "embedding_lookup", "embedding_lookup_v2")


class StoredVariable(backend.Variable):
    """A `keras.Variable` whose `_value` is a `CompressedVariable`; made of the one that was there.

    What it lacks of that one's attributes (`codec`, `buffer`, `nbytes`, `served`) it has from it.
    """

    def __getattr__(self, name):
        if name.startswith("__") or "_value" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._value, name)

    def assign_add(self, value):
        """Adds to the stored values: decode, add and encode in one codec step."""
        self._value.assign_add(self._convert_to_tensor(value, dtype=self._dtype))
        return self

    def assign_sub(self, value):
        """Subtracts from the stored values."""
        self._value.assign_sub(self._convert_to_tensor(value, dtype=self._dtype))
        return self

    def __tf_tensor__(self, dtype=None, name=None):
        if is_refused(self):
            raise TypeError(
                f"The compressed variable {self.path!r} has no implicit tensor. Tip: in a raw op, "
                "pass variable.read_value()."
            )
        return tf.convert_to_tensor(_dense(self), dtype)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        self._value._trackable_children(save_type, **kwargs)  # Refuses a SavedModel.
        return super()._trackable_children(save_type, **kwargs)

    def read_value(self):
        """Dense value, in the dtype that it is read in here."""
        return _dense(self)

    def sparse_read(self, indices, name=None):
        """Rows of the value, in that dtype; what `tf.gather` calls."""
        variable, dtype = held(self)
        return _cast(variable.sparse_read(indices, name=name), dtype)

    def gather_nd(self, indices, name=None):
        """Slices of the value, in that dtype; what `tf.gather_nd` calls."""
        variable, dtype = held(self)
        return _cast(variable.gather_nd(indices, name=name), dtype)

    def numpy(self):
        """Dense value as a numpy array (eager only)."""
        return self.__array__()

    def __array__(self, dtype=None, copy=None):
        return self._value.numpy().astype(dtype or tf.as_dtype(self.dtype).as_numpy_dtype)

    def __deepcopy__(self, memo):
        """A plain `keras.Variable` of the dense value, as copies of wrapped models are plain."""
        copy = backend.Variable(
            self._value.numpy(), None, self._dtype, self.trainable, self._autocast, name=self.name
        )
        memo[id(self)] = copy
        return copy

    def __repr__(self):
        fmt = getattr(self._value.codec, "codec", self._value.codec).format.name
        return f"<omc.StoredVariable path={self.path}, shape={tuple(self.shape)}, format={fmt}>"


class Cast:
    """A compressed variable as autocast reads it: in another float dtype, not yet decoded.

    Plain Keras has a tensor here. So whatever it lacks of a tensor's operators and attributes it
    has from the dense one.

    Attributes:
        variable: `CompressedVariable`.
        dtype: tf.DType that reads have.
    """

    def __init__(self, variable, dtype):
        self.variable, self.dtype = variable, tf.as_dtype(dtype)
        self.shape = variable.shape
        self.ndim = self.shape.rank

    def __getattr__(self, name):
        if name.startswith("_"):  # Others ask so whether it is a value of theirs.
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(_dense(self), name)

    def __tf_tensor__(self, dtype=None, name=None):
        if is_refused(self):
            raise TypeError(f"The compressed variable {self.variable.name!r} has no tensor.")
        return tf.convert_to_tensor(_dense(self), dtype)

    def __tf_tracing_type__(self, context):
        return tf.TensorSpec(self.shape, self.dtype)


def _of_tensor(name):
    def method(self, *args, **kwargs):
        return getattr(_dense(self), name)(*args, **kwargs)

    return method


for _name in (*tf.Tensor.OVERLOADABLE_OPERATORS, "__array__", "__bool__", "__iter__", "__len__"):
    setattr(Cast, _name, _of_tensor(_name))


HOLDERS = (StoredVariable, Cast)
"""Classes of objects that stand for a compressed variable."""


def held(value):
    """The variable that one of `HOLDERS` stands for, and the dtype that it is read in.

    Raises:
        ModelError: A stateless call has put another value in its place.
    """
    if isinstance(value, Cast):
        return value.variable, value.dtype
    scope = get_stateless_scope()
    if scope is not None and scope.get_current_value(value) is not None:
        raise ModelError(
            "model",
            "a plain model, for stateless calls",
            f"a wrapped one, whose {value.path!r} is stored as codes",
            "call the model itself.",
        )
    return value._value, tf.as_dtype(value.dtype)


def _dense(value):
    variable, dtype = held(value)
    return _cast(variable.read_value(), dtype)


def _cast(tensor, dtype):
    return tensor if tensor.dtype == dtype else tf.cast(tensor, dtype)


def passed_on(op, args, kwargs):
    """Result of an op that only hands a variable on (cast, shape, gather), or None."""
    name = op.__name__
    if name not in _PASSING_ON:
        return None
    named = inspect.signature(op).bind(*args, **kwargs).arguments
    value = next(iter(named.values()))
    variable = held(value)[0] if isinstance(value, HOLDERS) else value
    if not isinstance(variable, tf.Variable):
        return None  # It is within a list, say.
    if name == "cast":
        # Only layers read it at once, and do not keep it as the value of a certain moment.
        dtype = tf.as_dtype(named["dtype"])
        if variable.lent or not dtype.is_floating or not in_layer_call():
            return None
        return variable if dtype == variable.dtype else Cast(variable, dtype)
    if name in ("shape", "shape_v2"):
        return tf.constant(value.shape.as_list(), named.get("out_type") or tf.int32)
    if isinstance(value, HOLDERS):
        rows = op(variable, **{key: named[key] for key in list(named)[1:]})
        return _cast(rows, held(value)[1])
    return None


def compute_dtype():
    """None: Keras casts what it reads by itself."""
    return None


def without_autocast():
    """Context in which variables are read in the dtype that they have."""
    return AutocastScope(None)


def in_layer_call():
    """Whether a layer's `call` is running."""
    return global_state.get_global_attribute(_CALL) is not None


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
        trainable: Whether it is.

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
    layer._track_trackable(weight, name, overwrite=True)  # For TensorFlow's checkpoints.
    if type(layer).save_own_variables is not tf.keras.layers.Layer.save_own_variables:
        _save_too(layer, weight)
    return weight


def _save_too(layer, weight):
    """Has files keep one more weight of a layer (Dense, Conv) that names those that it saves."""
    save, load = layer.save_own_variables, layer.load_own_variables

    def place():
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
        return next((str(place) for place, other in enumerate(own) if other is weight), None)

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
    held_here = [*layer._trainable_variables, *layer._non_trainable_variables]
    return _values(v for v in held_here if not _is_seed(v))


def _is_seed(variable):
    return variable.path.endswith("seed_generator_state")


def _values(holders):
    found = {}
    for holder in holders:
        value = holder._value
        if value is None:
            continue  # Made within a symbolic call, which makes values when it ends.
        value._omc_holder = weakref.ref(holder)
        found.setdefault(id(value), value)
    return list(found.values())


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


class Call:
    """What a layer's call sees around it, and the losses that it adds on the way.

    Args:
        layer: Keras layer, or None for a call of no layer.
    """

    def __init__(self, layer):
        self._layers = [] if layer is None else layer._flatten_layers()
        self._calling = global_state.get_global_attribute(_CALL)
        scope = get_autocast_scope()
        self._dtype = None if scope is None else scope.dtype

    def run(self, call, args, kwargs):
        """(result, losses added), the losses taken out of the layers."""
        before = [len(layer._losses) for layer in self._layers]
        result = call(*args, **kwargs)
        added = []
        for layer, count in zip(self._layers, before):
            added.append(list(layer._losses[count:]))
            del layer._losses[count:]
        return result, added

    def replace_losses(self, added):
        """Gives the layers the losses of the first run, now with their gradients."""
        for layer, losses in zip(self._layers, added):
            layer._losses.extend(losses)

    @contextlib.contextmanager
    def again(self):
        """Context for the second run, long after the layer's __call__ has ended."""
        before = global_state.get_global_attribute(_CALL)
        global_state.set_global_attribute(_CALL, self._calling)
        try:
            with AutocastScope(self._dtype):
                yield
        finally:
            global_state.set_global_attribute(_CALL, before)
