"""A Keras variable whose value is stored as codes and is dense only while an op uses it."""

import contextlib
import itertools
import weakref

import tensorflow as tf
from tensorflow.python.ops import resource_variable_ops

from omc import kernels, nested, rows
from omc.codecs import Codec
from omc.errors import ModelError
from omc.keras import grids, host, penalty_order, schedule, update_order
from omc.keras.conversion import Itself, is_refused
from omc.keras.gradient import differentiable, read, recording, there, within
from omc.keras.partial_writes import PartialWrites
from omc.keras.vectorized import refuse_inside

_ids = itertools.count()
_handles = weakref.WeakValueDictionary()  # id of a handle -> its variable


class CompressedVariable(PartialWrites, resource_variable_ops.BaseResourceVariable):
    """A `tf.Variable` of float32 values that owns only a buffer of codes.

    It is a variable to Keras, optimizers and `tf.GradientTape`: `handle` is a resource that knows
    shape and dtype but is *never initialised*, so it takes no memory; it only gives gradients an
    address. Values come from the buffer:

        read     value = decode(buffer), with d(loss)/d(handle) = d(loss)/d(value)
        update   buffer = codec.add(buffer, delta), under the kept transform

    It refuses the implicit conversion to a tensor where TensorFlow then asks `omc.keras.dispatch`,
    which decodes for the op at hand; elsewhere it gives the dense value, as `read_value()` does.

    Attributes:
        codec: `Codec` or `AlternativeCodec` of the buffer; `omc.keras.switching.SwitchedCodec`
            while a width is drawn for it.
        buffer: tf.Variable, uint8 [nbytes]: all that is stored.
        autocast: Whether reads inside a layer of a mixed precision policy have its compute dtype.
        served: How layers got the value so far: None before the first call; "transient" where it
            was dense for one op at a time; "dense" once it had to stay dense until backward.
        slot_codec: `Codec` of the optimizer's slots for this variable; None leaves them dense.
        input_quantizer: `omc.keras.quantizers.InputQuantizer` of what an op multiplies it with, or
            None.
        learned_scale: tf.Variable float32 [] that takes the gradient for the buffer's scale, where
            that is learned (`omc.keras.joint_training`), or None.
    """

    _variable_call = None  # tf.Variable's metaclass would read our arguments as its own.
    _lent = None  # The tensor that stands in for the value, see `lend`.
    served = None
    input_quantizer = None
    learned_scale = None

    def __init__(
        self,
        codec,
        buffer,
        name,
        trainable=True,
        constraint=None,
        seed=None,
        autocast=False,
        slot_codec=None,
    ):
        """Creates the variable around a buffer.

        Args:
            codec: `Codec` or `AlternativeCodec`.
            buffer: uint8 tensor, as the codec writes it.
            name: Name without ":0".
            trainable: Whether gradient tapes watch it.
            constraint: As in tf.Variable.
            seed: None to round updates to nearest, or int32 [2] for stochastic rounding.
            autocast: As the attribute; it is what Keras' AutoCastVariable does.
            slot_codec: As the attribute.
        """
        self.slot_codec = slot_codec
        in_graph = not tf.executing_eagerly() and not tf.inside_function()
        self.codec = codec
        length = [codec.nbytes] if hasattr(codec, "nbytes") else [None]
        self.buffer = tf.Variable(buffer, trainable=False, shape=length, name=f"{name}/codes")
        self.autocast = autocast
        self._seed = self._stream = None
        if seed is not None:
            self.seed_rounding(seed)
            self._updates = tf.Variable(0, trainable=False, dtype=tf.int32, name=f"{name}/updates")
        unique = f"omc_{next(_ids)}_{name}"
        # Private TensorFlow, because a public tf.Variable cannot exist without its dense value.
        handle = resource_variable_ops.eager_safe_variable_handle(
            initial_value=tf.zeros([]),
            shape=tf.TensorShape(codec.shape),
            shared_name=unique if in_graph else None,
            name=name.replace("/", "_"),
            graph_mode=in_graph,
        )
        super().__init__(
            trainable=trainable,
            shape=tf.TensorShape(codec.shape),
            dtype=tf.float32,
            handle=handle,
            constraint=constraint,
            name=name,
            unique_id=unique,
            handle_name=name,
            initial_value=None,
            in_graph_mode=in_graph,
        )
        _handles[id(handle)] = self

    @staticmethod
    def behind(handle):
        """The compressed variable that something is the handle of, or None."""
        variable = _handles.get(id(handle))
        return variable if variable is not None and variable.handle is handle else None

    @property
    def stores_floats(self):
        """Whether the buffer is raw float32."""
        return isinstance(self.codec, Codec) and self.codec.format.is_fp32

    @property
    def nbytes(self):
        """Stored bytes: the length of the buffer that exists now (int; eager only)."""
        return int(tf.size(self.buffer.read_value()))

    def decode(self, after=None, backward=False, early=False):
        """Dense value without a gradient path.

        Args:
            after: Tensor that has to be computed first, or None.
            backward: Whether it is a layer's backward pass that decodes (see `omc.keras.schedule`).
            early: Whether a penalty's backward pass decodes, see `omc.keras.penalty_order`.
        """
        refuse_inside(self)
        codec = self.codec
        after = update_order.gradient_for(self) if after is None else after
        with tf.control_dependencies([] if after is None else [there(_before_padding(after))]):
            if getattr(codec, "natively_decoded", False) and kernels.usable():
                buffer = values = codec.decode_variable(within(self.buffer.handle))
            else:
                buffer, values = read(self.buffer), None
        if early:
            penalty_order.register(self, buffer)
        if backward:
            schedule.backward_read(self, buffer)
            penalty_order.release(self, buffer)
        return codec.decode(buffer) if values is None else values

    def watch(self):
        """Tells tapes and functions that the variable takes part, as a read does."""
        refuse_inside(self)
        resource_variable_ops.variable_accessed(self)

    @property
    def _cast_dtype(self):
        """Dtype that a read has here: a layer's compute dtype under mixed precision."""
        current = host.compute_dtype()
        return current if self.autocast and current is not None else self.dtype

    def note(self, way):
        """Remembers how the value was served ("transient" or "dense"); the dense way wins.

        Only layers and recorded ops count, not optimizers, constraints or checkpoints.
        """
        if self.served != "dense" and (recording() or host.in_layer_call()):
            self.served = way

    def read_value(self):
        """Dense value; gradients reach the variable. Kept as long as its users need it.

        float32, or the compute dtype inside a layer under mixed precision; gradients are float32.
        """
        if self._lent is not None:
            return self._cast(self._lent)
        self.note("dense")
        return self._cast(self.read())

    def read(self, after=None, backward=False, early=False):
        """As `read_value`, float32, for those who see to it that the value is not kept.

        Args:
            after: As in `decode`.
            backward: As in `decode`.
            early: As in `decode`.
        """
        self.watch()
        return differentiable(
            lambda: [self.decode(after, backward, early)],
            [self.handle],
            lambda upstream: [upstream],
        )[0]

    @property
    def lent(self):
        """Whether a tensor stands in for the value now."""
        return self._lent is not None

    @contextlib.contextmanager
    def lend(self, tensor):
        """Context in which every read gives `tensor`, float32: the value, decoded beforehand."""
        before, self._lent = self._lent, tensor
        try:
            yield
        finally:
            self._lent = before

    def _cast(self, value):
        return value if value.dtype == self._cast_dtype else tf.cast(value, self._cast_dtype)

    value = read_value

    def _read_variable_op(self, no_copy=False):
        return self.read_value()

    def read_value_no_copy(self):
        """As `read_value`."""
        return self.read_value()

    def numpy(self):
        """Dense value as a numpy array (eager only)."""
        return self.decode().numpy()

    def sparse_read(self, indices, name=None):
        """Rows of the value; what `tf.gather` and embedding lookups call. Decodes no others."""
        if self.lent or not self.shape.rank:
            return tf.gather(self.read_value(), indices, name=name)
        indices = tf.convert_to_tensor(indices)

        def forward():
            with tf.control_dependencies([there(indices)]):
                buffer = read(self.buffer)
            choose = getattr(self.codec, "choose", lambda function: function(self.codec))
            return [choose(lambda codec: rows.decode_rows(codec, buffer, indices))]

        def gradient(upstream):
            values = tf.reshape(upstream, tf.concat([[-1], self.shape[1:]], axis=0))
            flat = tf.reshape(indices, [-1])
            return [tf.IndexedSlices(values, flat, tf.constant(self.shape.as_list(), flat.dtype))]

        self.watch()
        self.note("transient")
        return self._cast(differentiable(forward, [self.handle], gradient)[0])

    def gather_nd(self, indices, name=None):
        """Slices of the value; what `tf.gather_nd` calls."""
        return self._cast(tf.gather_nd(self.read(), indices, name=name))

    def assign(self, value, use_locking=None, name=None, read_value=True):
        """Stores new values; the transform is kept where its range fits them.

        What equals the value as it is read now changes nothing, though more bits may be stored. A
        nested variable gets back the codes of values that were read from all its bits; eager only.
        """
        value = tf.convert_to_tensor(value, tf.float32)
        value.shape.assert_is_compatible_with(self.shape)
        with tf.control_dependencies([value]):  # What is stored is decoded, but not before.
            buffer, seed = self.buffer.read_value(), self._next_seed()
        if self.learned_scale is None:
            return self._store(self.codec.assign(buffer, value, seed), read_value)
        same = tf.reduce_all(tf.equal(value, self.codec.decode(buffer)))
        if tf.executing_eagerly() and not same:
            found = grids.assigned(nested.full_codec(self.codec), value)
            if found is not None:
                return self._store(found, read_value)
        assigned = tf.cond(same, lambda: buffer, lambda: self.codec.assign(buffer, value, seed))
        return self._store(assigned, read_value)

    def assign_add(self, delta, use_locking=None, name=None, read_value=True):
        """Adds to the stored values: decode, add and encode in one codec step."""
        return self._move(delta, 1.0, read_value)

    def assign_sub(self, delta, use_locking=None, name=None, read_value=True):
        """Subtracts from the stored values."""
        return self._move(delta, -1.0, read_value)

    def add_scaled(self, delta, factor, read_value=False):
        """Adds `factor * delta`, without the scaled copy that `assign_add(factor * delta)` needs.

        Args:
            delta: float32 tensor of the variable's shape.
            factor: float32 [].
            read_value: As in `assign_add`.
        """
        return self._move(delta, factor, read_value)

    def rescale(self, factor):
        """Stores the same values under a scale `factor` times as large; see `Codec.rescale`."""
        buffer = self.codec.rescale(self.buffer.read_value(), factor, self._next_seed())
        return self._store(buffer, read_value=False)

    def restore(self, codec, buffer):
        """Stores another buffer, in another format, in the place of the one that is stored.

        Functions traced before hold the old one: see `omc.keras.wrapping.forget_functions`.

        Args:
            codec: `Codec` of the same shape.
            buffer: tf.Variable, uint8 [codec.nbytes].
        """
        self.codec, self.buffer = codec, buffer

    def _move(self, delta, sign, read_value):
        delta = tf.convert_to_tensor(delta, tf.float32)
        delta.shape.assert_is_compatible_with(self.shape)
        seed = self._next_seed()
        if getattr(self.codec, "natively_added", False) and kernels.usable():
            sign = tf.convert_to_tensor(sign, tf.float32)
            stored = self.codec.update_variable(self.buffer.handle, delta, sign, seed)
            return self._stored(stored, read_value)
        with tf.control_dependencies([delta]):
            buffer = self.buffer.read_value()
        return self._store(self.codec.add(buffer, delta, seed, sign), read_value)

    def _store(self, buffer, read_value):
        return self._stored(self.buffer.assign(buffer, read_value=False), read_value)

    def _stored(self, stored, read_value):
        if tf.executing_eagerly():
            return self if read_value else None
        schedule.updated(self, stored)
        if tf.inside_function():
            return self if read_value else None
        return stored  # In a plain graph the caller has to run the op.

    def is_initialized(self, name=None):
        """Whether there is a value; checkpoints leave out variables without one."""
        return self.buffer.is_initialized(name)

    def _restore_from_tensors(self, restored_tensors):
        # Checkpoints hold the dense value, for plain and for wrapped models.
        return self.assign(restored_tensors["VARIABLE_VALUE"])

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        if save_type == "savedmodel":  # Its functions would need `handle`, which holds no value.
            raise ModelError(
                "model",
                "a plain model, for TensorFlow's and Keras' own SavedModel",
                f"a wrapped one, whose {self.name!r} is stored compressed",
                "use omc.export(model, path) for a SavedModel, omc.save(model, path) for the packed"
                " weights, or model.save('name.keras') for dense ones.",
            )
        return super()._trackable_children(save_type, **kwargs)

    def seed_rounding(self, seed):
        """Draws stochastic rounding from another seed; of a variable that was made with one.

        Args:
            seed: int32 [2].
        """
        self._seed = seed
        # The first half of stateless_fold_in(seed, updates): a graph then has the rest only.
        self._stream = tf.random.stateless_uniform([], seed, None, None, tf.int32, "philox")

    def reseed(self, word):
        """Starts another stream of stochastic rounding; without it nothing happens.

        Args:
            word: int32 scalar; equal words give equal streams.
        """
        if self._stream is not None:
            self._updates.assign(word, read_value=False)

    def _next_seed(self):
        if self._stream is None:
            return None
        seed = tf.stack([self._stream, self._updates.read_value()])
        self._updates.assign_add(1, read_value=False)
        return seed

    def _dense_var_to_tensor(self, dtype=None, name=None, as_ref=False):
        if is_refused(self):
            raise TypeError(
                f"The compressed variable {self.name!r} has no implicit tensor. Tip: in a raw op, "
                "pass variable.read_value()."
            )
        value = self.read_value()
        if dtype is not None and not tf.as_dtype(dtype).is_compatible_with(value.dtype):
            raise ValueError(f"{self.name!r} is of {value.dtype.name}, not {dtype.name}.")
        return value

    def __tf_tracing_type__(self, context):
        return Itself(self)

    def __tf_tensor__(self, dtype=None, name=None):
        return self._dense_var_to_tensor(dtype, name)

    def __repr__(self):
        fmt = getattr(self.codec, "codec", self.codec).format.name
        return f"<omc.CompressedVariable {self.name!r} shape={tuple(self.shape)} format={fmt}>"


def _before_padding(tensor):
    """The tensor itself, or in a graph what stands before its padding.

    oneDNN merges a Pad into the convolution behind it; with the kernel's decode between the two,
    the merged op would wait for itself ("nodes in a cycle").
    """
    if tf.is_symbolic_tensor(tensor):
        while tensor.op.type in ("Pad", "PadV2", "MirrorPad", "Identity"):
            tensor = tensor.op.inputs[0]
    return tensor
