"""Uplink: what a client answers after its local training, and what the server reads out of it."""

import abc
import dataclasses
import math
from typing import Any, Optional

import tensorflow as tf

from omc.alternative_codecs import AlternativeCodec
from omc.keras import CompressedVariable
from omc.policies import VariableSpec


@dataclasses.dataclass(frozen=True)
class TrainableVariable:
    """What both ends know of a trainable variable.

    Attributes:
        index: Its position among the trainable variables.
        spec: `VariableSpec`: name, shape, dtype.
        codec: `Codec` or `AlternativeCodec` that clients store it in, or None for float32.
    """

    index: int
    spec: VariableSpec
    codec: Optional[Any]

    @property
    def shape(self):
        """Shape, a tuple of ints."""
        return tuple(self.spec.shape)

    @property
    def count(self):
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def buffer_spec(self):
        """tf.TensorSpec of what a client stores: a buffer of codes, or the float32 value."""
        if self.codec is None:
            return tf.TensorSpec(self.shape, self.spec.dtype)
        return tf.TensorSpec([getattr(self.codec, "nbytes", None)], tf.uint8)


@dataclasses.dataclass(frozen=True)
class LocalResult:
    """A trainable variable of one client after its local training.

    Attributes:
        described: `TrainableVariable`.
        received: What the client started from: a buffer of codes, or a float32 tensor.
        variable: The model's own variable.
    """

    described: TrainableVariable
    received: Any
    variable: Any

    def stored(self):
        """What the client holds now, in the form of `received`."""
        compressed = isinstance(self.variable, CompressedVariable)
        return (self.variable.buffer if compressed else self.variable).read_value()

    def change(self):
        """w' - w, float32: what the client started from less what it ended with."""
        codec = self.described.codec
        if codec is None:
            return tf.identity(self.received) - self.variable.read_value()
        return codec.decode(tf.identity(self.received)) - self.variable.decode()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one client sends.

    Attributes:
        tensors: List of tensors, of the uplink's `specs`.
        error: ||what the server reads - the change||^2, a float32 scalar; 0 where nothing is
            rounded for the uplink.
        energy: ||change||^2 of what was rounded, a float32 scalar.
    """

    tensors: list
    error: tf.Tensor
    energy: tf.Tensor


class Uplink(abc.ABC):
    """A client's answer in tensors, and the server's reading of them.

    All methods are pure functions of tensors: they are traced into the computation of a client and
    into the server's sum, in the composed process and in the controlled one alike. An uplink holds
    settings only.

    Attributes:
        averages: "changes", where the server reads w' - w of each client and steps along their
            mean, or "weights", where it reads weights and moves to their mean.
        needs_native_ops: Whether it codes, which TFF's workers can only with OMC's native ops.
        common_seed: Whether all clients of a round get the same seed, and not each its own.
    """

    averages = "changes"
    needs_native_ops = False
    common_seed = False

    def check(self, policy, widths):  # noqa: B027 - Most refuse nothing.
        """Refuses what this uplink cannot serve; by default nothing.

        Args:
            policy: `omc.Policy`.
            widths: `omc.learning.Widths` of the clients, or None.

        Raises:
            InputError: With the argument and the way out.
        """

    @abc.abstractmethod
    def specs(self, variables):
        """tf.TensorSpecs of what crosses.

        Args:
            variables: List of `TrainableVariable`.
        """

    @abc.abstractmethod
    def encode(self, results, seed):
        """A client's `Answer`.

        Args:
            results: List of `LocalResult`. One after the other should be dense, not all at once:
                see `one_at_a_time`.
            seed: int32 [2], another one for each client and round; whoever has to know it at the
                server sends it along.
        """

    @abc.abstractmethod
    def decode(self, variables, tensors):
        """What the server reads: list of float32 tensors, one a trainable variable.

        Args:
            variables: List of `TrainableVariable`.
            tensors: One client's `Answer.tensors`.
        """

    def decode_at(self, variables, tensors, place):
        """As `decode`, of the variable at one place alone."""
        return self.decode(variables, tensors)[place]

    def fitted(self, variables, tensors):
        """Tensors cut or filled up to the lengths that `specs` want.

        Args:
            variables: List of `TrainableVariable`.
            tensors: List of tensors with the dtypes and ranks of `specs`, from anybody.

        Returns:
            (bool scalar, whether all of them had these lengths; list of tensors).
        """
        pairs = [fit(tensor, spec.shape) for spec, tensor in zip(self.specs(variables), tensors)]
        return tf.reduce_all(tf.stack([fits for fits, _ in pairs])), [t for _, t in pairs]

    def try_decode(self, variables, tensors):
        """As `decode` for fitted tensors that may hold anything; by default that is no matter.

        Args:
            variables: List of `TrainableVariable`.
            tensors: As of `fitted`.

        Returns:
            (bool scalar, whether they could be decoded; what `decode` gives, or anything).
        """
        return tf.constant(True), self.decode(variables, tensors)

    def read(self, variables, tensors):
        """What the server reads of an answer that may be anything of the right types.

        Args:
            variables: List of `TrainableVariable`.
            tensors: List of tensors with the dtypes and ranks of `specs`.

        Returns:
            (bool scalar, whether it could be decoded; what `decode` gives, or anything).
        """
        fits, tensors = self.fitted(variables, tensors)
        right, values = self.try_decode(variables, tensors)
        return fits & right, values


class VariableUplink(Uplink):
    """An uplink that answers variable by variable, with one tensor for each.

    Subclasses say `spec`, `encode_variable` and `decode_variable`; docs/uplinks.md has one of 30
    lines.
    """

    @abc.abstractmethod
    def spec(self, variable):
        """tf.TensorSpec of what crosses of a `TrainableVariable`."""

    @abc.abstractmethod
    def encode_variable(self, result, change, seed):
        """What is sent of one variable, a tensor.

        Args:
            result: `LocalResult`.
            change: w' - w, float32.
            seed: int32 [2], another one for each variable, client and round.
        """

    @abc.abstractmethod
    def decode_variable(self, variable, tensor):
        """The change that the server reads, float32.

        Args:
            variable: `TrainableVariable`.
            tensor: What `encode_variable` gave.
        """

    def specs(self, variables):
        """As `Uplink.specs`."""
        return [self.spec(variable) for variable in variables]

    def encode(self, results, seed):
        """As `Uplink.encode`."""

        def encode_one(result):
            change = result.change()
            tensor = self.encode_variable(result, change, fold_in(seed, result.described.index))
            if result.described.codec is None and tensor is change:
                return tensor, 0.0, 0.0  # Sent as it is.
            read = self.decode_variable(result.described, tensor)
            return tensor, squared(read - change), squared(change)

        tensors, errors, energies = zip(*one_at_a_time(results, encode_one))
        return Answer(list(tensors), total(errors), total(energies))

    def decode(self, variables, tensors):
        """As `Uplink.decode`."""
        return [self.decode_variable(v, tensor) for v, tensor in zip(variables, tensors)]

    def decode_at(self, variables, tensors, place):
        """As `Uplink.decode_at`."""
        return self.decode_variable(variables[place], tensors[place])


def fit_buffers(variables, tensors):
    """As `Uplink.fitted`, of tensors as of `TrainableVariable.buffer_spec`.

    Where a variable has alternatives, a length that is none of theirs becomes the first one's.
    """
    pairs = []
    for variable, tensor in zip(variables, tensors):
        if not isinstance(variable.codec, AlternativeCodec):
            pairs.append(fit(tensor, variable.buffer_spec.shape))
            continue
        lengths = [codec.nbytes for codec in variable.codec.codecs]
        size = tf.size(tensor)
        known = tf.reduce_any(tf.equal(size, lengths))
        length = tf.where(known, size, lengths[0])
        padded = tf.pad(tensor, [[0, tf.maximum(length - size, 0)]])
        pairs.append((known, padded[:length]))
    return tf.reduce_all(tf.stack([fits for fits, _ in pairs])), [t for _, t in pairs]


def fit(tensor, shape):
    """(whether a tensor has a shape, bool scalar; the tensor cut or filled up to it).

    Args:
        tensor: Of the shape's rank.
        shape: tf.TensorShape; as it is where that is not all known, whatever the tensor's.
    """
    if not shape.is_fully_defined():
        return tf.constant(True), tensor
    fits = tf.reduce_all(tf.equal(tf.shape(tensor), shape.as_list()))
    flat, count = tf.reshape(tensor, [-1]), shape.num_elements()
    padded = tf.pad(flat, [[0, tf.maximum(count - tf.size(flat), 0)]])
    return fits, tf.reshape(padded[:count], shape)


def one_at_a_time(items, function):
    """Calls a function for each item; in a graph, each waits for what the one before gave.

    Else TensorFlow would run all of them together, and every variable would be dense at once.

    Args:
        items: Sequence.
        function: item -> tensor or tuple of tensors.

    Returns:
        List of what the function gave.
    """
    given = []
    for item in items:
        before = [t for t in tf.nest.flatten(given[-1:]) if tf.is_tensor(t)]
        with tf.control_dependencies(before):
            given.append(function(item))
    return given


def fold_in(seed, number):
    """Seed of one of many streams, int32 [2].

    Args:
        seed: int32 [2].
        number: int or int32 scalar.
    """
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def squared(values):
    """Sum of squares, a float32 scalar."""
    return tf.reduce_sum(tf.square(values))


def total(values):
    """Sum of float32 scalars or numbers."""
    return tf.add_n([tf.convert_to_tensor(value, tf.float32) for value in values])
