"""wrap(): replaces a Keras model's variables by compressed ones, in place."""

import functools
import gc
from collections.abc import MutableMapping, MutableSequence

import numpy as np
import tensorflow as tf

import omc.keras.dispatch  # noqa: F401 - ops meet compressed variables
import omc.keras.optimizers  # noqa: F401 - optimizers meet them
from omc.compressed import Codec
from omc.errors import InputError, InputTypeError, ModelError
from omc.keras.variable import CompressedVariable
from omc.keras.whole import penalty
from omc.policies import Policy, VariableSpec

_Reference = tf.__internal__.tracking.TrackableReference
_CONTAINERS = (MutableSequence, MutableMapping, tuple, functools.partial)


def wrap(model, policy):
    """Stores a built Keras model's weights compressed, in place, and returns the model.

    Nothing but the storage changes: `compile`, `fit`, `evaluate`, `predict`, tapes and Keras'
    optimizers work as before. Each variable is compressed and its dense original dropped before the
    next one's turn.

    Args:
        model: A built `tf.keras.Model`, not yet trained with an optimizer.
        policy: `omc.Policy`, or a format's name for the default policy.

    Returns:
        `model`.

    Raises:
        InputTypeError: `model` is no Keras model, or `policy` no policy.
        ModelError: The model is unbuilt, already wrapped, or its optimizer already has slots.
        InputError: NaN or Inf weights, or an override that matches nothing; the model is untouched.
    """
    policy = Policy.of(policy)
    check_model(model)
    variables = variables_of(model)
    plan = policy.plan([VariableSpec.of(variable) for variable in variables])
    _check_finite(variables, plan)

    def create(original, planned, index):
        return compressed_variable(original, planned, policy, index)

    install(model, variables, plan, create)
    return model


def variables_of(model):
    """A model's variables, each once, in the order of `model.variables` and of a plan."""
    return list({id(v): v for v in model.variables}.values())


def install(model, variables, plan, create):
    """Puts a plan's compressed variables in the place of a plain model's own.

    Args:
        model: A plain model that `check_model` has let pass.
        variables: List of `variables_of(model)`, which must not be held elsewhere; it is emptied of
            the originals one by one, so that each is gone before the next one's turn.
        plan: Tuple of PlannedVariable, in the same order.
        create: (original, planned, index) -> `CompressedVariable`.
    """
    _forget_masks(model)
    gc.collect()  # Building leaves initial values behind, in cycles that hold them dense.
    for index, planned in enumerate(plan):
        if planned.codec is None:
            continue
        original, variables[index] = variables[index], None
        variables[index] = create(original, planned, index)
        _replace(model, original, variables[index])
        del original
    _settle([v for v in variables if isinstance(v, CompressedVariable)])
    vars(model)["_omc_plan"] = plan  # Not by attribute: Keras would track the tuples.
    model.train_function = model.test_function = model.predict_function = None


def compressed_variable(original, planned, policy, index):
    """The compressed variable that takes an original's place.

    Args:
        original: tf.Variable, float32.
        planned: Its `PlannedVariable`, with a codec.
        policy: The `Policy`, for rounding and seed.
        index: Position in the model, so that equal variables round differently.
    """
    return CompressedVariable(
        planned.codec,
        planned.codec.encode(original.read_value()).numpy(),
        name=planned.spec.name,
        trainable=original.trainable,
        constraint=original.constraint,
        seed=rounding_seed(policy, index),
        slot_codec=policy.slots and Codec(policy.slots, planned.spec.shape),
    )


def _settle(variables):
    """Lays the buffers side by side, now that the dense originals are gone.

    Codes written between dense neighbours sit in chunks up to twice their size: the allocator
    splits a free chunk only when it is at least double the request. So all of them leave its memory
    first, and come back into the free space that the originals left together.
    """
    codes = [np.array(variable.buffer) for variable in variables]
    for variable in variables:
        _put(variable, tf.zeros([0], tf.uint8))
    for index, variable in enumerate(variables):
        _put(variable, tf.raw_ops.DeepCopy(x=codes[index]))
        codes[index] = None


def _put(variable, codes):
    # A raw op, because a variable's own assign() wants its shape.
    tf.raw_ops.AssignVariableOp(resource=variable.buffer.handle, value=codes, validate_shape=False)


def _forget_masks(model):
    # Masks that cells cached while the model was built; tf.Module cannot walk over those of loops.
    for layer in model._flatten_layers():
        if hasattr(layer, "reset_recurrent_dropout_mask"):
            layer.reset_recurrent_dropout_mask()
            layer.reset_dropout_mask()


def rounding_seed(policy, index):
    """Seed (int32 [2]) of a variable's stochastic rounding; None for nearest."""
    if policy.rounding == "nearest":
        return None
    return tf.constant([policy.seed % 2**31, index], tf.int32)


def check_model(model):
    """Raises the error of a model that cannot be wrapped."""
    if not isinstance(model, tf.keras.Model):
        raise InputTypeError("model", "a tf.keras.Model", type(model).__name__)
    if hasattr(model, "_omc_plan"):
        raise ModelError(
            "model", "a model that is not wrapped yet", "a wrapped one", "wrap a fresh copy."
        )
    if not model.built or not model.variables:
        raise ModelError(
            "model",
            "a built model",
            f"{model.name!r}, which has no variables yet",
            "call model.build(input_shape), or the model on a batch, first.",
        )
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and getattr(optimizer, "_built", False):
        raise ModelError(
            "model",
            "a model whose optimizer has not been used yet",
            "one whose optimizer holds slots of the dense variables",
            "wrap first, then compile.",
        )


def _check_finite(variables, plan):
    for variable, planned in zip(variables, plan):
        if planned.codec is not None and not tf.reduce_all(tf.math.is_finite(variable)):
            raise InputError(
                "model",
                "finite weights",
                f"NaN or Inf in {planned.spec.name!r}",
                "a diverged model cannot be compressed; wrap it before training diverges.",
            )


def _replace(model, original, compressed):
    """Puts `compressed` in every place where the model's layers refer to `original`."""
    for module in (model, *model.submodules):
        for name, value in list(vars(module).items()):
            replaced = _replaced(value, original, compressed)
            if replaced is not value:
                vars(module)[name] = replaced
        counts = vars(module).get("_obj_reference_counts_dict")
        if counts is not None and original in counts:
            counts[compressed] = counts.pop(original)


def _replaced(value, original, compressed):
    """`value` with `original` replaced: containers in place, tuples and partials rebuilt."""
    if value is original:
        return compressed
    if isinstance(value, _Reference):
        return _Reference(value.name, compressed) if value.ref is original else value
    if not isinstance(value, _CONTAINERS):
        return value
    if isinstance(value, functools.partial):
        args = tuple(_replaced(item, original, compressed) for item in value.args)
        if any(new is not old for new, old in zip(args, value.args)):
            if not any(item is original for item in value.args):
                return functools.partial(value.func, *args, **value.keywords)
            # What Keras holds so is a weight's penalty.
            return functools.partial(penalty, value.func, *args, **value.keywords)
        return value
    if isinstance(value, tuple):
        items = [_replaced(item, original, compressed) for item in value]
        if all(new is old for new, old in zip(items, value)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    pairs = value.items() if isinstance(value, MutableMapping) else enumerate(value)
    for key, item in list(pairs):
        replaced = _replaced(item, original, compressed)
        if replaced is not item:
            value[key] = replaced
    return value
