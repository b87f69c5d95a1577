"""nest() and calibrate(): prepare a Keras model to be read, and trained, at many widths."""

import contextlib
import numbers
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from omc import checks, nested, transforms
from omc.codecs import Codec
from omc.errors import InputError, InputTypeError, ModelError
from omc.keras import wrapping
from omc.keras.batchnorm_statistics import (
    batchnorm_layers,
    check_estimated,
    estimate,
    others_unchanged,
    still,
    try_out,
    unchanged,
)
from omc.keras.calibration_data import checked_batches
from omc.keras.nesting import (
    Options,
    add_tables,
    assigned,
    attach,
    checked_nesting,
    detach,
    nesting_of,
)
from omc.keras.quantizers import Recorder
from omc.keras.readings import eagerly
from omc.keras.switching import Switching
from omc.keras.variable import CompressedVariable
from omc.policies import Policy, VariableSpec, is_matrix, told_apart

BATCHNORMS = ("sets", "shared")
_CLIPS = np.linspace(1.0, 0.3, 29)  # Shares of a variable's largest magnitude that are tried.
_SAMPLE = 1 << 16  # Weights of a variable on which they are tried.


def nest(
    model,
    bits=(8, 6, 4, 3, 2),
    calibration=None,
    activations="same",
    batchnorm="sets",
    policy="INT8",
    fixed=None,
    rounding="nearest",
    distillation=0.5,
    alrs=True,
    switching=None,
):
    """Prepares a model to be used, and trained, at many widths, in place, and returns it.

    The model is wrapped (if it is not yet), and stays at the highest width. Then

    - `omc.nested.switch(model, bits)` sets the width of `predict`, `evaluate` and the like;
    - after `compile`, `fit` takes a step at every width for each batch, the highest first
      (`omc.keras.joint_training`);
    - without training, it is a calibration of what was trained before.

    The first and the last weight matrix keep all stored bits at every width, and float32
    activations (the paper leaves these layers in float32; their codes are ours).

    An error leaves the model untouched; but for what a layer raises that computes with plain
    weights, but not with codes: a plain model is then wrapped, and not nested.

    Args:
        model: A built `tf.keras.Model`, plain or wrapped.
        bits: Widths to train, each at most what the policy stores.
        calibration: Batches of inputs: an array or tensor [n, ...], or an iterable of them (pairs
            count as inputs and labels), to fit activation quantizers and BatchNorm statistics to.
            Not needed without activations to quantize and without BatchNorm.
        activations: "same": as many bits as the weights; a number from 1 to 8 for every width;
            or None to leave activations in float32. Quantized is what a dense, convolutional or
            einsum layer multiplies its weights with; other ops' inputs stay float32.
        batchnorm: "sets": each width has its own gamma, beta and statistics; or "shared": gamma and
            beta are one, and only the statistics are the width's own.
        policy: `omc.Policy` or format of a plain model's codes: INTn, or minifloats whose mantissa
            shrinks.
        fixed: Glob patterns of the variables that keep all bits; None for the first and the last
            weight matrix, () for none.
        rounding: "nearest" (Double Rounding) or "shift", the bare shift, for comparison.
        distillation: Share, 0 to 1, of what a width is taught by the next higher one instead of the
            labels. For models with one output of logits, of a softmax or of sigmoids; 0 suits all.
        alrs: Whether the rates of the scales are adapted to each width (ALRS).
        switching: None, or how `fit` draws a width for each layer, as
            `omc.mixed_precision.hasb(model, ...)` gives it: a batch's steps are then at the highest
            width, at the drawn ones and at the lowest (HASB, `omc.keras.switching`).

    Returns:
        `model`.

    Raises:
        InputTypeError: An argument of the wrong type.
        InputError: A width that is not stored, no calibration where it is needed, a pattern that
            matches nothing, or another argument outside of what is allowed.
        ModelError: The model is not built, nested already, or has no weight left to nest.
    """
    wrapping.check_built(model)
    if nesting_of(model) is not None:
        tip = "for more widths, omc.calibrate(model, data, bits=...)."
        got = f"{model.name!r}, a nested one"
        raise ModelError("model", "a model that is not nested yet", got, tip)
    widths = _checked_widths(bits)
    _check_choices(activations, batchnorm, distillation, alrs)
    _check_switching(switching, widths)
    policy = Policy.of(policy)
    plain = "_omc_plan" not in vars(model)
    if plain:
        wrapping.check_kind(model)
        wrapping.check_variables(model)
    wrapping.check_optimizer(model, grows=True)
    variables = wrapping.variables_of(model)
    codecs = _nested_codecs(variables, policy if plain else None, widths, fixed, rounding)
    if switching is not None:
        switching = switching.of([VariableSpec.of(variables[place]).name for place in codecs])
    layers = batchnorm_layers(model)
    if calibration is None and (activations is not None or layers):
        what = "its activations" if activations is not None else "its BatchNorm statistics"
        tip = "a few hundred examples will do: calibration=x[:256]."
        raise InputError("calibration", f"batches to fit {what} to", "none", tip)
    batches = None if calibration is None else checked_batches(calibration, "calibration", layers)
    try_out(model, batches, "calibration", layers)  # While the model is as it was.
    ends = {place: _end(variables[place], codec.format, widths) for place, codec in codecs.items()}
    ends = {place: end for place, end in ends.items() if end is not None}
    del variables
    if plain:
        wrapping.wrap_built(model, policy, ends)  # Which checks the rest, and changes nothing then.
        wrapping.forget_functions(model)
    every = wrapping.variables_of(model)
    nested_variables = [every[place] for place in codecs]
    if activations not in ("same", None):
        activations = int(activations)
    options = Options(
        widths, activations, batchnorm, rounding, float(distillation), bool(alrs), switching
    )
    with _all_or_nothing(model, nested_variables), unchanged(layers, failing_only=True):
        state = attach(model, nested_variables, options)
        for place, end in ends.items() if not plain else ():
            clipped = tf.clip_by_value(every[place].decode(), -end, end)
            every[place].buffer.assign(every[place].codec.encode(clipped))
        for variable in nested_variables:
            _give_range(variable)
        recorders = _record(model, state, batches)
        add_tables(model, state, [v for v in nested_variables if recorders[id(v)].seen])
        for width in widths:
            _prepare(model, state, width, batches)
        state.use(widths[0])
    wrapping.forget_functions(model)
    return model


@contextlib.contextmanager
def _all_or_nothing(model, variables):
    """Context in which a wrapped model is nested; after an error it is as it was before."""
    buffers = [variable.buffer.numpy() for variable in variables]
    try:
        yield
    except BaseException:
        if nesting_of(model) is not None:
            detach(model)
        for variable, buffer in zip(variables, buffers):
            variable.buffer.assign(buffer)
        raise


def calibrate(model, data, bits=None):
    """Estimates BatchNorm statistics anew, and prepares widths of a nested model.

    Weights of few bits give activations of other means and variances than training saw. Of a plain
    or wrapped model the moving statistics become those of `data`; of a nested one each width's set.
    There a new width also gets activation quantizers fitted to the data, and the BatchNorm set of
    the next higher width; a trained one keeps what it learned. The width in use stays.

    Given an allocation, the BatchNorm sets that it uses get the statistics of that allocation, in
    place of those of a model of one width; `calibrate(model, data)` brings these back.

    Args:
        model: A built `tf.keras.Model`: plain, wrapped, or prepared by `nest`. It is called as in
            training, and nothing but statistics changes. Layers that are frozen, or called with
            `training=False`, keep theirs; without BatchNorm nothing changes.
        data: Batches of inputs, as `calibration` of `nest`; a few hundred examples of the training.
        bits: Of a nested model: a width, or a sequence of them; None for the trained ones. Or an
            allocation of prepared widths, a dict or a policy, as `omc.nested.switch` takes it.

    Returns:
        `model`. An error, or an interrupt, leaves it as it was.

    Raises:
        InputTypeError, InputError: A width that is not stored, no data, or data that the model does
            not take.
        ModelError: The model is not built, `bits` is given and it is not nested, or all of its
            BatchNorm is frozen (and it is not nested).
    """
    wrapping.check_built(model)
    if bits is None and nesting_of(model) is None:
        return _calibrate_statistics(model, data)
    state = checked_nesting(model)
    if isinstance(bits, (Mapping, Policy)):
        return _calibrate_allocation(model, state, data, assigned(model, state, bits))
    widths = state.options.widths if bits is None else _checked_widths(bits)
    layers = [sets.layer for sets in state.batchnorms]
    batches = checked_batches(data, "data", layers)
    for width in widths:
        for variable in state.variables:
            nested.format_at(variable.codec.format, width)
    try_out(model, batches, "data", layers)
    with _whole_or_not(state):
        for width in widths:
            _prepare(model, state, width, batches)
    return model


@contextlib.contextmanager
def _whole_or_not(state):
    """Context that changes what widths have of their own; after an error all is as it was before.

    The width in use is, either way.
    """
    before, prepared = state.bits, set(state.prepared)
    widths = [sets.widths for sets in state.batchnorms]
    held = [*state.tables.values(), *(v for sets in state.batchnorms for v in sets.variables)]
    values = [variable.numpy() for variable in held]
    try:
        yield
    except BaseException:
        for sets, kept in zip(state.batchnorms, widths):
            sets.remove([bits for bits in sets.widths if bits not in kept])
        for variable, value in zip(held, values):
            variable.assign(value)
        state.prepared = prepared
        raise
    finally:
        state.use(before)


def _calibrate_statistics(model, data):
    layers = batchnorm_layers(model)
    batches = checked_batches(data, "data", layers)
    try_out(model, batches, "data", layers)
    check_estimated(layers, estimate(model, layers, batches, "data"))
    return model


def _calibrate_allocation(model, state, data, bits):
    layers = [sets.layer for sets in state.batchnorms]
    batches = checked_batches(data, "data", layers)
    try_out(model, batches, "data", layers)
    with _whole_or_not(state):
        state.use(bits)
        _estimate(model, state, batches)
    return model


def _estimate(model, state, batches):
    """Statistics of the BatchNorm sets in use, from batches."""
    estimate(model, [sets.layer for sets in state.batchnorms], batches, "data")


def _prepare(model, state, width, batches):
    """Fits what a width has of its own; `batches` may be None where that is nothing."""
    trained = width in state.options.widths and width in state.prepared
    higher = [other for other in state.prepared if other > width] or list(state.prepared)
    for sets in state.batchnorms:
        sets.add(width, min(higher, default=None))
    if state.tables and not trained:
        recorders = _record(model, state, batches, width)
        for variable in state.variables:
            table = state.tables.get(id(variable))
            if table is not None:
                fitted = recorders[id(variable)].fit(state.activation_bits(width))
                table.assign(tf.tensor_scatter_nd_update(table, [[width]], [fitted]))
    state.use(width)
    # At full width the statistics of training are better than those of a few batches.
    full = all(not variable.codec.format.feedback_bits for variable in state.variables)
    if batches is not None and not (full and not trained):
        _estimate(model, state, batches)
    state.prepared.add(width)


def _record(model, state, batches, width=None):
    """Runs the batches with a `Recorder` for each variable: dict of a variable's id -> Recorder."""
    recorders = {id(variable): Recorder() for variable in state.variables}
    if state.options.activations is None:
        return recorders
    if width is not None:
        state.use(width)
    for variable in state.variables:
        variable.input_quantizer = recorders[id(variable)]
    layers = [sets.layer for sets in state.batchnorms]
    with eagerly(), still(layers), others_unchanged(model, layers):
        for batch in batches:
            model(batch, training=True if layers else None)
    for variable in state.variables:
        variable.input_quantizer = None
    return recorders


def _nested_codecs(variables, policy, widths, fixed, rounding):
    """Dict of place -> `Codec` of the variables that change their width; raises where none does.

    Args:
        variables: The model's variables.
        policy: `Policy` of a plain model; None where the variables are wrapped.
        widths, fixed, rounding: As in `nest`.
    """
    specs = told_apart([VariableSpec.of(variable) for variable in variables])
    if policy is None:
        codecs = [getattr(variable, "codec", None) for variable in variables]
    else:
        plan = policy.plan(specs)
        wrapping.check_finite(variables, plan)
        codecs = [planned.codec for planned in plan]
    places = [i for i, c in enumerate(codecs) if c is not None and is_matrix(specs[i])]
    for place in places:
        for width in widths:
            nested.format_at(codecs[place].format, width, rounding)
        if not codecs[place].transform:
            raise InputError("policy", "codes with a transform", "bare codes", "transform='pvt'.")
    if not places and policy is not None and any(map(is_matrix, specs)):
        tip = (
            "name a format of a few bits, such as 'INT8'; `fraction` and overrides leave some out."
        )
        raise InputError("policy", "one that compresses weight matrices", policy.format.name, tip)
    left = places[1:-1] if fixed is None else _not_matching(places, specs, fixed)
    if not left:
        raise ModelError(
            "model",
            "a model with compressed weight matrices that may change their width",
            f"{len(places)} compressed ones, all of which are fixed",
            "wrap it in INT8, or pass fixed=() so that the first and the last change, too.",
        )
    return {place: codecs[place] for place in left}


def _not_matching(places, specs, fixed):
    if isinstance(fixed, str) or not isinstance(fixed, Sequence):
        raise InputTypeError("fixed", "a sequence of glob patterns", fixed)
    names = [specs[place].name for place in places]
    for pattern in fixed:
        if not any(specs[place].matches(pattern) for place in places):
            raise InputError("fixed", f"patterns that match one of {names}", pattern)
    return [p for p in places if not any(specs[p].matches(pattern) for pattern in fixed)]


def _end(variable, fmt, widths):
    """Magnitude at which a weight is cut off so that its range suits all widths; None for nowhere.

    One scale is to serve every width (ours): of a few ranges the one with the least geometric mean,
    over the widths, of the squared errors.
    """
    compressed = isinstance(variable, CompressedVariable)
    flat = np.asarray(tf.reshape(variable.decode() if compressed else variable, [-1]))
    sample = flat[:: max(len(flat) // _SAMPLE, 1)]
    largest, best = float(np.abs(flat).max(initial=0.0)), None
    codec = Codec(fmt, (len(sample) + 1,))  # And the end of the range, which sets the scale.
    for share in _CLIPS if largest else ():
        end = np.float32(share * largest)  # Of numpy's float64 all would become that.
        buffer = codec.encode(np.append(sample.clip(-end, end), end))
        reads = [nested.codec_at(codec, bits).decode(buffer)[:-1] for bits in widths]
        errors = [float(np.mean((read - sample) ** 2)) for read in reads]
        mean = float(np.mean(np.log(np.maximum(errors, 1e-30))))
        if best is None or mean < best[0]:
            best = mean, share
    return None if best is None or best[1] == 1.0 else best[1] * largest


def _give_range(variable):
    """Gives a weight that is all 0 the range of He's initializer, for it has none of its own."""
    codec = nested.full_codec(variable.codec)
    if np.any(codec.decode(variable.buffer)):
        return
    end = float((6.0 / max(np.prod(codec.shape[:-1]), 1)) ** 0.5)
    scale, _ = transforms.prescale(-end, end, codec.format)
    variable.buffer.assign(codec.zeros(scale))


def _checked_widths(bits):
    """Widths, the highest first, each once."""
    if isinstance(bits, numbers.Integral) and not isinstance(bits, bool):
        bits = (bits,)
    bits = bits.tolist() if isinstance(bits, np.ndarray) and bits.ndim else bits
    if isinstance(bits, str) or not isinstance(bits, Sequence):
        raise InputTypeError("bits", "a width or a sequence of widths", bits)
    for width in bits:
        checks.integer("bits", width, "widths, integers")
    if not bits or len(set(bits)) != len(bits) or min(bits) < 1:
        raise InputError("bits", "one width or more, each once and above 0", bits)
    return tuple(sorted(map(int, bits), reverse=True))


def _check_choices(activations, batchnorm, distillation, alrs):
    if not isinstance(alrs, (bool, np.bool_)):
        raise InputTypeError("alrs", "True or False", alrs)
    checks.real("distillation", distillation, "a number from 0 to 1", lambda v: 0 <= v <= 1)
    if activations is not None and not (isinstance(activations, str) and activations == "same"):
        checks.integer("activations", activations, "'same', 1 to 8 bits, or None", 1, 8)
    checks.choice("batchnorm", batchnorm, BATCHNORMS)


def _check_switching(switching, widths):
    if switching is None:
        return
    if not isinstance(switching, Switching):
        tip = "omc.mixed_precision.hasb(model, data, epochs=..., batches=...) makes one."
        raise InputTypeError("switching", "an omc.keras.Switching, or None", switching, tip)
    if len(widths) < 2:
        raise InputError("switching", "two widths or more to switch between", widths)
