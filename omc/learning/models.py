"""What the processes know of a model: its variables, their plan, and how to build it on codes."""

import collections
import dataclasses
import functools
import itertools
from typing import Any, Optional

import tensorflow as tf
import tensorflow_federated as tff

from omc.alternative_codecs import AlternativeCodec, raw_codec
from omc.errors import InputError, InputTypeError, OmcError
from omc.keras import CompressedVariable
from omc.keras.originals import become
from omc.keras.wrapping import rounding_seed
from omc.learning.uplinks.base import TrainableVariable
from omc.learning.widths import ClientWidths
from omc.policies import Policy, VariableSpec, quantized_mask


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """A model's variables and how a policy treats them in federated training.

    Attributes:
        model_fn: No-arg function that returns a `tff.learning.models.VariableModel`.
        policy: The `Policy`.
        planned: Tuple of PlannedVariable, trainable variables first, then the others.
        num_trainable: How many of them are trainable.
        creation: For each variable, its rank in the order in which `model_fn` creates variables
            (integer ones not counted; -1 for those).
        widths: `ClientWidths`, or None where all hold the policy's format.
        allocation: What the server knows of the clients' widths in a round, tensors, where widths
            allocate; None for that before the first round.
    """

    model_fn: collections.abc.Callable
    policy: Policy
    planned: tuple
    num_trainable: int
    creation: tuple
    widths: Optional[ClientWidths] = None
    allocation: Any = None

    @classmethod
    def of(cls, model_fn, policy, widths=None):
        """Builds the model once in a scratch graph and plans its variables.

        Raises:
            InputTypeError: `model_fn` is not callable or returns no VariableModel.
            InputError: `model_fn` takes its model from outside, sets weights, or has weights that
                are not float32; an override of the policy matches nothing; or `widths` are wrong,
                or have nothing to allocate.
        """
        policy, widths = Policy.of(policy), ClientWidths.of(widths)
        if widths is not None:
            widths.check(policy)
        if not callable(model_fn):
            raise InputTypeError("model_fn", "a no-arg function", type(model_fn).__name__)
        created = []

        def record(next_creator, **kwargs):
            variable = next_creator(**kwargs)
            if _may_be_float(kwargs):
                created.append(variable)
            return variable

        with tf.Graph().as_default(), tf.variable_creator_scope(record):
            model = _called(model_fn)
        if not isinstance(model, tff.learning.models.VariableModel):
            raise InputTypeError(
                "model_fn",
                "a function that returns a tff.learning.models.VariableModel",
                f"one that returns a {type(model).__name__}",
                "wrap the Keras model with tff.learning.models.from_keras_model.",
            )
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        ranks = {id(variable): rank for rank, variable in enumerate(created)}
        _check(variables, ranks)
        planned = policy.candidates([VariableSpec.of(v) for v in variables])
        if getattr(widths, "allocates", False) and not any(p.partial for p in planned):
            tip = "no weight matrix is left to the policy's own format."
            raise InputError("widths", "a model with something to allocate", "none", tip)
        return cls(
            model_fn=model_fn,
            policy=policy,
            planned=planned,
            num_trainable=len(model.trainable_variables),
            creation=tuple(ranks.get(id(_innermost(variable)), -1) for variable in variables),
            widths=widths,
        )

    @property
    def allocates(self):
        """Whether clients' widths are allocated anew in every round."""
        return self.widths is not None and self.widths.allocates

    def initial_allocation(self):
        """What the server knows of the clients' widths before the first round; () for nothing."""
        return self.widths.initial(self) if self.allocates else ()

    def allocated(self, allocation):
        """The plan of a round, with what the server knows in it; itself where that is nothing."""
        return dataclasses.replace(self, allocation=allocation) if self.allocates else self

    @functools.cached_property
    def alternatives(self):
        """For each variable the `Codec`s that its buffers may be of, a tuple; empty for float32.

        Several where clients have widths, and raw float32 last where partial quantization draws.
        """
        found = []
        for planned in self.planned:
            codecs = [] if planned.codec is None else [planned.codec]
            if planned.partial and self.widths is not None:
                codecs = self.widths.codecs(planned.codec)
            if planned.partial and self.policy.fraction < 1:
                codecs = [*codecs, raw_codec(planned.spec.shape)]
            found.append(tuple(codecs))
        return tuple(found)

    @functools.cached_property
    def codecs(self):
        """For each variable its codec, or None where it always travels as float32.

        Where there are alternatives it is an `AlternativeCodec`: the buffer's length tells.
        """
        return tuple(
            AlternativeCodec(codecs) if len(codecs) > 1 else codecs[0] if codecs else None
            for codecs in self.alternatives
        )

    @functools.cached_property
    def described(self):
        """`TrainableVariable` of every variable, a tuple; the first `num_trainable` train."""
        return tuple(
            TrainableVariable(index, planned.spec, codec)
            for index, (planned, codec) in enumerate(zip(self.planned, self.codecs))
        )

    @property
    def trainable(self):
        """`TrainableVariable` of those that train, a tuple."""
        return self.described[: self.num_trainable]

    def mask(self, round_number, client):
        """For each variable, whether this client quantizes it in this round; list of bool tensors.

        Args:
            round_number, client: int32 scalars.
        """
        count = sum(planned.partial for planned in self.planned)
        drawn = quantized_mask(count, self.policy.fraction, self.policy.seed, round_number, client)
        drawn = iter(tf.unstack(drawn))
        return [
            next(drawn) if planned.partial else tf.constant(planned.codec is not None)
            for planned in self.planned
        ]

    def choices(self, round_number, client):
        """For each variable, which of its alternatives this client holds in this round.

        Args:
            round_number, client: int32 scalars.

        Returns:
            List of int32 scalars, 0 where there is no choice.
        """
        places = itertools.repeat(tf.constant(0))
        if self.widths is not None:
            places = iter(tf.unstack(self.widths.places_of(self, self.widths.index(client))))
        return [
            tf.where(quantized, next(places), len(codecs) - 1)
            if planned.partial and len(codecs) > 1
            else tf.constant(0)
            for planned, codecs, quantized in zip(
                self.planned, self.alternatives, self.mask(round_number, client)
            )
        ]

    def build(self, payload):
        """Builds the model with its weights on received payloads; nothing dense is ever made.

        Args:
            payload: List of tensors, one a variable: a codec's buffer, or the float value.

        Returns:
            The model of `model_fn`, with `CompressedVariable`s where the plan has codecs.
        """
        # Made before the scope, for their buffers are variables that it would count.
        compressed = {
            rank: CompressedVariable(
                codec,
                payload[position],
                name=self.planned[position].spec.name,
                trainable=self.planned[position].spec.trainable,
                seed=rounding_seed(self.policy, position),
            )
            for position, (rank, codec) in enumerate(zip(self.creation, self.codecs))
            if codec is not None
        }
        created = itertools.count()

        def create(next_creator, **kwargs):
            variable = compressed.get(next(created)) if _may_be_float(kwargs) else None
            return next_creator(**kwargs) if variable is None else variable

        with tf.variable_creator_scope(create):
            model = self.model_fn()
        for variable in self.variables(model):
            inner = _innermost(variable)
            if inner is not variable and isinstance(inner, CompressedVariable):
                become(variable, inner)  # Keras' AutoCastVariable reads it dense, as the build did.
                inner.served = None
        _inline(model)
        return model

    def variables(self, model):
        """Variables of a built model, in the plan's order."""
        return [*model.trainable_variables, *model.non_trainable_variables]


_INSIDE = "a function that builds its model, every layer of it, each time it is called"
_GIVEN = (
    "to start from given weights: state = process.set_model_weights(process.initialize(), "
    "tff.learning.models.ModelWeights.from_model(keras_model))."
)
_FROM_OUTSIDE = ("capture an EagerTensor", "made outside of the graph", "have not yet been created")


def _called(model_fn):
    """What model_fn returns, in a graph of its own."""
    try:
        model = model_fn()
        getattr(model, "trainable_variables", None)  # Here Keras says that a model is not built.
        return model
    except (RuntimeError, ValueError) as error:  # What TensorFlow and Keras say of captured ones.
        if isinstance(error, OmcError) or not any(part in str(error) for part in _FROM_OUTSIDE):
            raise
        raise InputError("model_fn", _INSIDE, f"one that fails with: {error}", _GIVEN) from error


def _check(variables, created):
    """Raises the error of variables of which the server's master cannot be made.

    Args:
        variables: The model's, as it was built in a graph.
        created: Ids of the floating ones that were made there.
    """
    for variable in variables:
        name, inner = variable.name.split(":")[0], _innermost(variable)
        if not variable.dtype.is_floating:
            continue
        if id(inner) not in created:
            raise InputError("model_fn", _INSIDE, f"one whose {name!r} is made elsewhere", _GIVEN)
        if variable.dtype != tf.float32:
            raise InputError(
                "model_fn",
                "a model of float32 variables",
                f"{name!r} in {variable.dtype.name}",
                "to compute in 16 bits, give the layer the dtype 'mixed_float16' or "
                "'mixed_bfloat16': its variables are float32.",
            )
        # In a graph a variable is assigned once, by its initializer; more never runs.
        if sum(op.type == "AssignVariableOp" for op in inner.handle.consumers()) > 1:
            raise InputError(
                "model_fn", "a function that sets no weights", f"one that sets {name!r}", _GIVEN
            )


def _innermost(variable):
    """The variable itself, or what Keras' AutoCastVariable stands around."""
    return getattr(variable, "_variable", variable)


def _may_be_float(creation):
    # Integers are not counted: Keras makes random generators' states in some modes only.
    dtype = creation.get("dtype")
    return dtype is None or tf.as_dtype(dtype).is_floating


def _inline(model):
    # Forward and backward have to be in one graph to be ordered (omc.keras.schedule).
    for name in ("predict_on_batch", "forward_pass"):
        function = getattr(model, name)
        if hasattr(function, "python_function"):
            setattr(model, name, function.python_function)


def payload(tensors):
    """One side's payload: the tensors under names in alphabetical order, as TFF wants them."""
    return collections.OrderedDict((f"v{i:05d}", tensor) for i, tensor in enumerate(tensors))


def weights_type(plan):
    """TFF type of the server's float32 master: ModelWeights of the model."""
    specs = [planned.spec for planned in plan.planned]
    types = [tff.TensorType(spec.dtype.as_numpy_dtype, spec.shape) for spec in specs]
    return tff.to_type(
        tff.learning.models.ModelWeights(
            trainable=types[: plan.num_trainable], non_trainable=types[plan.num_trainable :]
        )
    )


def serialized_nbytes(tensors):
    """Bytes (int64) of tensors as they are serialized for the wire, one TensorProto each."""
    sizes = [tf.strings.length(tf.io.serialize_tensor(tensor)) for tensor in tensors]
    return tf.cast(tf.add_n(sizes), tf.int64) if sizes else tf.constant(0, tf.int64)


def untuned(dataset):
    """A client's dataset without tf.data's tuner and optimizer, which only cost a client time.

    The tuner's thread sleeps for 10, 20, 40, ... 60,000 ms, and the end of an iterator waits for
    it: it is woken before it can see that this is the end, and where it gets hold of a core at once
    it sleeps on (TensorFlow 2.14). A client's few batches leave nothing to tune or to rewrite.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)
