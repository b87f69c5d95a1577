"""Compressed variables as Keras 3 holds them, and as its ops meet them."""

import inspect

import tensorflow as tf
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope

from omc.errors import ModelError
from omc.keras.conversion import is_refused

CALL = "current_call_ctx"
"""Keras' global attribute that is there while a layer is being called."""

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


def in_layer_call():
    """Whether a layer's `call` is running."""
    return global_state.get_global_attribute(CALL) is not None
