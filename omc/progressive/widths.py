"""Nested models (`omc.nest`) in parts: what a width has of its own goes along in the base.

A base of INT4 then computes what `omc.nested.switch(model, 4)` does: quantizers of activations and
BatchNorm sets of all widths are raw variables of the base, and the first and last matrix keep all
their bits from the base on. At a stage the model has the widths up to it, to switch to and to
train; read out of a stage before the last, a width is rounded twice, and a little off.
"""

import dataclasses

from omc import nested
from omc.errors import InputError, ModelError
from omc.formats import Format
from omc.keras import nesting


def check_stages(model, formats):
    """Raises for stages that are no widths of a nested model.

    Args:
        model: A nested model.
        formats: List of `Format`, the last one what it stores.

    Raises:
        InputError: A format that its codes do not hold, or a width that is not prepared.
        ModelError: Its widths are read by a bare shift.
    """
    state = nesting.nesting_of(model)
    if state.options.rounding != "nearest":
        tip = "omc.nest(..., rounding='nearest')."
        got = f"{model.name!r}, nested with 'shift'"
        raise ModelError("model", "a model nested with rounding 'nearest'", got, tip)
    for variable in state.variables:
        stored = nested.stored_format(variable.codec.format)
        for fmt in formats:
            if fmt.bits < stored.bits:
                held = _without_rest(stored, fmt.bits)
                if held is not None and held == fmt.name:
                    continue
            elif fmt == stored:
                continue
            expected = f"widths of the nested {stored.name}"
            raise InputError("stages", expected, fmt.name, f"for example {_example(stored)!r}.")
    for fmt in formats:
        try:
            nesting.check_prepared(state, fmt.bits)
        except InputError as error:
            raise InputError("stages", error.expected, fmt.name, error.tip) from error


def _example(stored):
    least = 2 if stored.kind == "int" else stored.sign_bits + stored.exponent_bits
    return _without_rest(stored, max(least, stored.bits - 4))


def _without_rest(stored, bits):
    """Name of the format that a width of stored codes has, or None."""
    try:
        return nested.format_at(stored, bits).name.partition("+")[0]
    except InputError:
        return None


def described(model, variables, formats):
    """What a receiver needs to know of a nested model, as JSON has it; None for another one.

    Args:
        model: A `tf.keras.Model`.
        variables: List of `omc.keras.saving.stored_order(model)`.
        formats: List of `Format` of the stages.
    """
    structure = nesting.described(model, variables)
    return structure and {**structure, "bits": formats[-1].bits, "format": formats[-1].name}


def restore(model, variables, structure):
    """Makes a receiver's wrapped model nested; its added variables are still to be filled.

    Args:
        model: A wrapped model whose variables store a base.
        variables: List of its variables in stored order.
        structure: What `described` gave.
    """
    chosen = [variables[place] for place in structure["variables"]]
    held = [variable.codec for variable in chosen]
    full = Format.parse(structure["format"])
    for variable in chosen:  # Tables have a row for each width that there will be.
        variable.codec = dataclasses.replace(variable.codec, format=full)
    fields = {key: value for key, value in structure.items() if key != "format"}
    nesting.restore(model, variables, fields)
    for variable, codec in zip(chosen, held):
        variable.codec = dataclasses.replace(codec, saturates=True)


def use_stage(model, structure, name):
    """Has a nested model use a stage, with the widths up to it.

    Args:
        model: A receiver's model.
        structure: What `described` gave.
        name: Name of the stage.
    """
    state, bits = nesting.nesting_of(model), Format.parse(name).bits
    trained = tuple(width for width in structure["widths"] if width <= bits)
    state.options = dataclasses.replace(state.options, widths=trained or (bits,))
    state.prepared = {width for width in structure["prepared"] if width <= bits}
    state.use(bits)
