"""wrap(): replaces a Keras model's variables by compressed ones, in place."""

import contextlib

import numpy as np
import tensorflow as tf

import omc.keras.dispatch  # noqa: F401 - ops meet compressed variables
import omc.keras.layers  # noqa: F401 - so do layers that are served as a whole
import omc.keras.raw_ops  # noqa: F401 - and functions of handles
from omc.codecs import Codec
from omc.errors import InputError, ModelError
from omc.keras import adapters, host, originals
from omc.keras.deferral import is_deferred
from omc.keras.variable import CompressedVariable
from omc.policies import Policy, VariableSpec


def wrap(model, policy):
    """Stores a Keras model's weights compressed, in place, and returns the model.

    Nothing but the storage changes: `compile`, `fit`, `evaluate`, `predict`, tapes and Keras'
    optimizers work as before. Each variable is compressed and its dense original dropped before the
    next one's turn.

    A model that is not built yet is wrapped at its first call, or in `build`; the errors about
    weights and override patterns then come from there.

    Of a model that is wrapped in part (a new head on a wrapped base, layers added since) the rest
    is wrapped: the policy decides on what no wrap has decided on yet, and everything else stays as
    it is.

    Args:
        model: A `tf.keras.Model`, not yet trained with an optimizer.
        policy: `omc.Policy`, or a format's name for the default policy.

    Returns:
        `model`.

    Raises:
        InputTypeError: `model` is no Keras model, or `policy` no policy.
        ModelError: The model has no variables, is already wrapped as a whole, belongs to a
            `tf.distribute` strategy or to a graph, its optimizer already has slots, or a concrete
            function was traced with its weights.
        InputError: NaN or Inf weights, or an override that matches nothing; the model is untouched.
    """
    policy = Policy.of(policy)
    check_model(model)
    if host.is_built(model):
        wrap_built(model, policy)
        forget_functions(model)
    else:
        adapters.defer(model, lambda model: wrap_built(model, policy))
    return model


def wrap_built(model, policy, ends=None):
    """As `wrap`, of a built model that `check_model` let pass.

    Args:
        model: As there.
        policy: As there, a `Policy`.
        ends: Dict of a variable's place in `variables_of(model)` -> magnitude at which its values
            are cut off, for some of them.

    Raises:
        ModelError, InputError: As there.
    """
    ends = ends or {}
    _check_eager(model)
    _check_has_variables(model)
    every = variables_of(model)
    places = [place for place, variable in enumerate(every) if not _decided(variable)]
    if not places:
        raise _wrapped_already("a wrapped one")
    check_optimizer(model, slots=policy.slots)
    variables = [every[place] for place in places]
    del every
    plan = policy.plan([VariableSpec.of(variable) for variable in variables])
    check_finite(variables, plan)

    def create(original, planned, index):
        end = ends.get(places[index])
        return compressed_variable(original, planned, policy, places[index], end)

    install(model, variables, plan, create)


def _decided(variable):
    """Whether a wrap has decided how a variable is stored."""
    return isinstance(variable, CompressedVariable) or reason_of(variable, None) is not None


def forget_functions(model):
    """Lets go of what Keras traced with the dense variables."""
    for name in ("train_function", "train_tf_function", "test_function", "predict_function"):
        if name in vars(model):
            delattr(model, name)  # Or Keras' tracking would keep what it once was, and its weights.
            setattr(model, name, None)


def variables_of(model):
    """A model's variables, each once, in the order of `model.variables` and of a plan."""
    return host.variables_of(model)


def install(model, variables, plan, create):
    """Puts a plan's compressed variables in the place of a plain model's own.

    Args:
        model: A model that was checked.
        variables: List of its plain variables, as `variables_of` gives them, which must not be held
            elsewhere; it is emptied of the originals one by one, so that each is gone before the
            next one's turn.
        plan: Tuple of PlannedVariable, in the same order.
        create: (original, planned, index) -> `CompressedVariable`.

    Raises:
        ModelError: A concrete function was traced with one of them; the model is untouched.
    """
    adapters.prepare(model)
    originals.release([v for v, planned in zip(variables, plan) if planned.codec is not None])
    references = adapters.References(model, variables)
    # The largest last, when most of the others are packed: encoding takes its dense size once more.
    order = sorted(range(len(plan)), key=lambda index: plan[index].spec.dense_bytes)
    for index in order:
        planned = plan[index]
        if planned.codec is None:
            give_reason(variables[index], planned.reason)
            continue
        original, variables[index] = variables[index], None
        variables[index] = create(original, planned, index)
        give_reason(variables[index], planned.reason)
        references.replace(original, variables[index])
        originals.become(original, variables[index])
        del original
    _settle([v for v in variables if isinstance(v, CompressedVariable)])
    adapters.finish(model)
    vars(model)["_omc_plan"] = plan  # Not by attribute: Keras would track the tuples.


def give_reason(variable, reason):
    """Notes at a variable why it is stored as it is; `reason_of` finds it."""
    variable._omc_reason = reason


def reason_of(variable, otherwise):
    """Why a variable is stored as it is, or `otherwise` where nobody said."""
    return getattr(variable, "_omc_reason", otherwise)


def compressed_variable(original, planned, policy, index, end=None):
    """The compressed variable that takes an original's place.

    Args:
        original: tf.Variable, float32; of a mixed precision layer also Keras' AutoCastVariable.
        planned: Its `PlannedVariable`, with a codec.
        policy: The `Policy`, for rounding and seed.
        index: Position in the model, so that equal variables round differently.
        end: Magnitude at which its values are cut off, or None.
    """
    values = original.read_value()
    if end is not None:
        values = tf.clip_by_value(values, -end, end)
    return CompressedVariable(
        planned.codec,
        planned.codec.encode(values).numpy(),
        name=planned.spec.name,
        trainable=original.trainable,
        constraint=original.constraint,
        seed=rounding_seed(policy, index),
        autocast=host.autocasts(original),
        slot_codec=policy.slots and Codec(policy.slots, planned.spec.shape),
    )


def _settle(variables):
    """Lays the buffers side by side, now that the dense originals are gone.

    Codes written between dense neighbours sit in chunks up to twice their size: the allocator
    splits a free chunk only when it is at least double the request. So all of them leave its memory
    first, and come back into the free space that the originals left together.
    """
    codes = [np.array(variable.buffer.numpy()) for variable in variables]
    for variable in variables:
        put(variable.buffer, tf.zeros([0], tf.uint8))
    for index, variable in enumerate(variables):
        put(variable.buffer, tf.raw_ops.DeepCopy(x=codes[index]))
        codes[index] = None


def put(variable, value):
    """Assigns a value of another length, which a plain variable's own `assign` refuses."""
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value, validate_shape=False)


@contextlib.contextmanager
def holding(variable, codec, buffer):
    """Context in which one variable, plain or compressed, has the values of a buffer.

    Args:
        variable: `tf.Variable` or `CompressedVariable`; it is as it was afterwards.
        codec: `Codec` of the buffer.
        buffer: uint8 tensor [codec.nbytes].
    """
    if isinstance(variable, CompressedVariable):
        before = variable.codec, variable.buffer
        try:
            variable.restore(codec, tf.Variable(buffer, trainable=False))
            yield
        finally:
            variable.restore(*before)
    else:
        before = variable.numpy()
        try:
            variable.assign(codec.decode(buffer))
            yield
        finally:
            variable.assign(before)


def rounding_seed(policy, index):
    """Seed (int32 [2]) of a variable's stochastic rounding; None for nearest."""
    if policy.rounding == "nearest":
        return None
    return tf.constant([policy.seed % 2**31, index], tf.int32)


def check_model(model):
    """Raises the error of what can be wrapped neither in whole nor in part, built or not."""
    host.check_model(model)
    if is_deferred(model):
        raise _wrapped_already("a wrapped one")
    _check_strategy(model)


def check_kind(model):
    """As `check_model`, also of a wrapped one."""
    check_model(model)
    if "_omc_plan" in vars(model):
        raise _wrapped_already("a wrapped one")
    if model.built:
        _check_eager(model)


def check_built(model):
    """Raises the error of what is no built Keras model, plain or wrapped, outside of a graph."""
    host.check_model(model)
    if not host.is_built(model) or not model.weights:
        tip = "call model.build(input_shape), or the model on a batch, first."
        raise ModelError("model", "a built model", f"{model.name!r}, which is not", tip)
    _check_eager(model)


def _wrapped_already(got):
    return ModelError("model", "a model that is not wrapped yet", got, "wrap a fresh copy.")


def _check_eager(model):
    if not tf.executing_eagerly():
        raise ModelError(
            "model",
            "a model outside of a graph",
            f"{model.name!r} in one (inside a model_fn, or a tf.function)",
            "in a model_fn build the plain model; omc.learning compresses it by the policy that it"
            " is given.",
        )


def _check_strategy(model):
    own = adapters.strategy_of(model)
    if own is None and not tf.distribute.has_strategy():
        return
    strategy = own if own is not None else tf.distribute.get_strategy()
    raise ModelError(
        "model",
        "a model outside of tf.distribute",
        f"one under {type(strategy).__name__}",
        "leave strategy.scope(); to train over many clients, see omc.learning.",
    )


def check_variables(model):
    """Raises the error of a built model that is not plain, or whose variables are in use."""
    _check_has_variables(model)
    if any(isinstance(variable, CompressedVariable) for variable in variables_of(model)):
        raise ModelError(
            "model",
            "a model that is not wrapped yet",
            f"{model.name!r}, a part of which is wrapped",
            "omc.wrap(model, policy) wraps the rest of it.",
        )
    check_optimizer(model)


def _check_has_variables(model):
    if not model.weights:
        raise ModelError(
            "model",
            "a model with variables",
            f"{model.name!r}, which is built and has none",
            "there is nothing to compress.",
        )


def check_optimizer(model, grows=False, slots=None):
    """Raises the error of a model whose optimizer does not go on with what is to come.

    Args:
        model: Keras model.
        grows: Whether it is to get more weights, which the optimizer would have no slots for.
        slots: Format in which slots are to be stored, or None; those that are there are dense.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not adapters.is_in_use(optimizer):
        return
    if adapters.SLOTS_FOLLOW and not grows and slots is None:
        return
    partly = any(isinstance(variable, CompressedVariable) for variable in variables_of(model))
    which = f"{model.name!r}, a part of which is wrapped, and" if partly else "one"
    raise ModelError(
        "model",
        "a model whose optimizer has not been used yet",
        f"{which} whose optimizer holds slots of the dense variables",
        "wrap first, then compile; to wrap now, compile anew before it.",
    )


def check_finite(variables, plan):
    """Raises the error of variables with NaN or Inf that a plan would compress."""
    for variable, planned in zip(variables, plan):
        if planned.codec is not None and not tf.reduce_all(tf.math.is_finite(variable)):
            raise InputError(
                "model",
                "finite weights",
                f"NaN or Inf in {planned.spec.name!r}",
                "a diverged model cannot be compressed; wrap it before training diverges.",
            )
