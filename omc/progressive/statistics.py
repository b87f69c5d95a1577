"""BatchNorm statistics of each stage: at few bits activations have other means and variances.

A stage then brings its own moving statistics, raw, in the base or the delta; the last stage has the
target's, bit for bit. [ours]
"""

import contextlib

import tensorflow as tf

from omc.keras import host
from omc.keras.batchnorm_statistics import (
    STATISTICS,
    batchnorm_layers,
    check_estimated,
    estimate,
    try_out,
    unchanged,
)
from omc.keras.calibration_data import checked_batches
from omc.keras.wrapping import holding

_ENOUGH_BITS = 8  # A weight, from which on the target's statistics are as good.


def of_stages(model, held, held_at, stages, calibration):
    """Estimates the statistics of every stage; the model is changed meanwhile, and left as it was.

    Args:
        model: The model that is split, plain or wrapped. Its dense weights are copied meanwhile.
        held: List of (variable, codec of the last stage or None) in stored order.
        held_at: Function (stage, place) -> (buffer, codec) of a variable that is quantized.
        stages: Number of stages.
        calibration: As for `omc.progressive.split`.

    Returns:
        Dict of place -> list of arrays, one a stage, of the moving means and variances.

    Raises:
        InputTypeError, InputError: `calibration` is none, or not what the model takes.
        ModelError: All of the model's BatchNorm is frozen.
    """
    layers = batchnorm_layers(model)
    batches = checked_batches(calibration, "calibration", layers)
    try_out(model, batches, "calibration", layers)
    places = {id(variable): place for place, (variable, _) in enumerate(held)}
    kept = [host.value_of(getattr(layer, name)) for layer in layers for name in STATISTICS]
    found = {places[id(variable)]: [] for variable in kept}
    quantized = {place: codec for place, (_, codec) in enumerate(held) if codec is not None}
    for stage in range(stages) if found else ():
        last = stage + 1 == stages
        states = {} if last else {place: held_at(stage, place) for place in quantized}
        with contextlib.ExitStack() as stack:
            if any(_is_coarse(codec, quantized[place]) for place, (_, codec) in states.items()):
                stack.enter_context(unchanged(layers))
                for place, (buffer, codec) in states.items():
                    stack.enter_context(holding(held[place][0], codec, tf.constant(buffer)))
                check_estimated(layers, estimate(model, layers, batches, "calibration"))
            for variable in kept:
                found[places[id(variable)]].append(variable.numpy())
    return found


def _is_coarse(codec, last):
    """Whether a variable is held in few bits, and not yet as the last stage has it."""
    return codec.format.bits < _ENOUGH_BITS and codec.format != last.format
