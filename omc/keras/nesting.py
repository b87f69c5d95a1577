"""Nested models: one stored model, many widths, of which one is in use.

Double Rounding (arXiv 2502.01199) on OMC's packed weights: one integer model of 8 bits is stored;
each width has its own activation quantizers and BatchNorm set, a few bytes a layer. Widths are
switched by reading the same buffers under another format (`omc.nested`), not by copying. All layers
may have one width, or each its own (`omc.keras.assigning`).
`omc.keras.calibration` prepares a model for it, `omc.keras.joint_training` trains it.
"""

import contextlib
import dataclasses
import functools
from typing import Optional

import numpy as np
import tensorflow as tf

from omc import checks, nested
from omc.errors import InputError, ModelError
from omc.keras import assigning, host, joint_training, originals, wrapping
from omc.keras.batchnorm_sets import BatchNormSets
from omc.keras.batchnorm_statistics import batchnorm_layers
from omc.keras.feeding import feeders
from omc.keras.owners import every_layer, owners, take_out
from omc.keras.quantizers import InputQuantizer
from omc.keras.readings import Reading, trained_at_all_widths
from omc.keras.switching import Switching, all_bits, plain_codec


@dataclasses.dataclass(frozen=True)
class Options:
    """What a caller of `omc.nest` chose; the attributes are its arguments.

    Attributes:
        widths: `bits`, a tuple, the highest first.
        activations, batchnorm, rounding, distillation, alrs: As there.
        switching: As there, with traces in the order of the nested variables.
    """

    widths: tuple
    activations: object = "same"
    batchnorm: str = "sets"
    rounding: str = "nearest"
    distillation: float = 0.5
    alrs: bool = True
    switching: Optional[Switching] = None


class Nesting:
    """What a nested model knows beside its weights; kept with the model.

    Attributes:
        options: `Options`.
        prepared: Set of the widths that can be switched to: those of the options, and what
            `calibrate` added.
        bits: The width now; a tuple with one for each of `variables` where they differ.
        variables: List of the `CompressedVariable`s that change their width.
        tables: Dict of id of a variable -> table of its input quantizers' parameters.
        batchnorms: List of `BatchNormSets`.
        reading: `Reading`, by which functions know that they are to be traced anew.
        before: List of (codec, reason) of each of `variables` before it was nested.
    """

    def __init__(self, options, variables, batchnorms):
        self.options = options
        self.prepared = set()
        self.bits = options.widths[0]
        self.variables = variables
        self.tables = {}
        self.batchnorms = batchnorms
        self.reading = Reading()
        self.before = [(v.codec, wrapping.reason_of(v, "")) for v in variables]
        self._usual = options.widths[0]

    def use(self, bits):
        """Has every variable and layer use prepared widths.

        Args:
            bits: A width, or a tuple with one for each of `variables`; BatchNorm sets are those of
                the width of the variable before the layer (`omc.keras.feeding`).
        """
        each = bits if isinstance(bits, tuple) else (bits,) * len(self.variables)
        for variable, width in zip(self.variables, each):
            variable.codec = nested.codec_at(plain_codec(variable), width, self.options.rounding)
            variable.input_quantizer = self.quantizer(variable, width)
        for sets in self.batchnorms:
            sets.use(each[sets.feeder])
        self.bits = bits
        self.reading.set(None if bits == self._usual else bits)

    @contextlib.contextmanager
    def all_bits(self):
        """Context in which reads give all that is stored, as who changes the weights needs it."""
        with all_bits(self.variables), self.reading.being(("all bits", self.reading.now)):
            yield

    @contextlib.contextmanager
    def as_stored(self):
        """Context in which a model computes with all that is stored and float32 activations."""
        before, scales = self.bits, [variable.learned_scale for variable in self.variables]
        try:
            self.use(self.options.widths[0])
            with self.all_bits():
                for variable in self.variables:
                    variable.input_quantizer = variable.learned_scale = None
                with self.reading.being("as stored"):
                    yield
        finally:
            for variable, scale in zip(self.variables, scales):
                variable.learned_scale = scale
            self.use(before)

    def activation_bits(self, bits):
        """Width of the activations beside weights of a width, or None."""
        return bits if self.options.activations == "same" else self.options.activations

    def quantizer(self, variable, bits):
        """The `InputQuantizer` of a variable at a width, or None."""
        table = self.tables.get(id(variable))
        if table is None:
            return None
        return InputQuantizer(table, bits, self.activation_bits(bits))


@contextlib.contextmanager
def at_width(model, bits):
    """Context in which a nested model is at a width, as after `omc.nested.switch`, for one's loops.

    Args:
        model: A model that `nest` has prepared.
        bits: A prepared width, or a width for each layer, as `omc.nested.switch` takes it.

    Raises:
        InputTypeError, InputError, ModelError: As `omc.nested.switch`.
    """
    state = checked_nesting(model)
    bits, before = assigned(model, state, bits), state.bits
    state.use(bits)
    try:
        yield model
    finally:
        state.use(before)


@nested.switch.register
def _(target: tf.keras.Model, bits):
    state = checked_nesting(target)
    state.use(assigned(target, state, bits))
    return target


def assigned(model, state, bits):
    """What a caller gave for a width, as `Nesting.use` takes it: an int, or a tuple of several.

    Raises:
        InputTypeError, InputError: As `omc.nested.switch`.
    """
    each = assigning.widths(model, state.variables, state.options.widths[0], bits)
    if each is None:
        check_prepared(state, bits)
        return int(bits)
    for variable, width in zip(state.variables, each):
        nested.format_at(variable.codec.format, width)
    for width in sorted(set(each)):
        _check_fitted(state, width)
    return each if len(set(each)) > 1 else each[0]


def switch_back(model, bits):
    """Has a nested model use widths that `described` gave."""
    nesting_of(model).use(tuple(bits) if isinstance(bits, list) else bits)


def nesting_of(model):
    """The `Nesting` of a model, or None."""
    return vars(model).get("_omc_nesting")


def checked_nesting(model):
    """The `Nesting` of a model.

    Raises:
        InputTypeError: `model` is no Keras model.
        ModelError: It is not nested.
    """
    host.check_model(model)
    state = nesting_of(model)
    if state is None:
        got = f"{model.name!r}, which has one width only"
        tip = "prepare it with omc.nest(model, bits=..., calibration=...)."
        raise ModelError("model", "a nested model", got, tip)
    return state


def attach(model, variables, options):
    """Gives a wrapped model its `Nesting`, without quantizers and sets yet.

    Args:
        model: A wrapped model.
        variables: List of its `CompressedVariable`s that change their width.
        options: `Options`.
    """
    quantizing = _quantizing(model, variables, options)
    for layer in quantizing:
        if layer.lora_enabled:
            _refuse_lora(layer.name)
    shared, layers = options.batchnorm == "shared", batchnorm_layers(model)
    fed = feeders(model, layers, variables)
    batchnorms = [BatchNormSets(layer, shared, place) for layer, place in zip(layers, fed)]
    state = Nesting(options, variables, batchnorms)
    for variable in variables:
        variable.codec = dataclasses.replace(variable.codec, saturates=True)
        wrapping.give_reason(variable, f"nested, read at {_listed(options.widths)} bits")
        with tf.init_scope():
            variable.learned_scale = tf.Variable(0.0, trainable=False, name="scale")
    for layer in quantizing:
        vars(layer)["enable_lora"] = functools.partial(_refuse_lora, layer.name)
    vars(model)["_omc_nesting"] = state  # Past Keras' attribute tracking.
    vars(model)["train_step"] = joint_training.joint_train_step(model, state)
    vars(model)["make_train_function"] = trained_at_all_widths(model, state.reading)
    originals.forget([variable.buffer for variable in variables])
    return state


def detach(model):
    """Makes a nested model what it was before `attach`, where what followed has failed."""
    added = added_variables(model)
    state = vars(model).pop("_omc_nesting")
    for variable, (codec, reason) in zip(state.variables, state.before):
        variable.codec, variable.learned_scale, variable.input_quantizer = codec, None, None
        wrapping.give_reason(variable, reason)
    for sets in state.batchnorms:
        if sets.widths:
            sets.use(sets.widths[0])
    for layer in every_layer(model):
        take_out(layer, added)
    for layer in _quantizing(model, state.variables, state.options):
        vars(layer).pop("enable_lora", None)
    for name in ("train_step", "make_train_function"):
        vars(model).pop(name, None)


def _quantizing(model, variables, options):
    """Layers whose inputs are quantized, of those that could have a low-rank update: a list."""
    held = owners(model)
    layers = [held[id(v)] for v in variables if options.activations is not None]
    return [layer for layer in layers if hasattr(type(layer), "enable_lora")]


def _refuse_lora(name, *args, **kwargs):
    raise ModelError(
        "model",
        "layers without a low-rank update, where activations are quantized",
        f"enable_lora of {name!r}",
        "nest with activations=None; or enable it on a model that is wrapped and not nested.",
    )


def add_tables(model, state, variables):
    """Makes the table of input quantizers of each variable, a weight of the layer that owns it."""
    held, names = owners(model), set()
    for variable in variables if state.options.activations is not None else ():
        owner = held[id(variable)]
        name = f"{_name(variable).rsplit('/', 1)[-1]}_inputs"
        while (owner.name, name) in names:  # Checkpoints know one weight by it.
            name += "_"
        names.add((owner.name, name))
        ones = np.ones((variable.codec.format.bits + 1, 2), np.float32)
        table = host.value_of(host.add_weight(owner, name, ones, trainable=False))
        state.tables[id(variable)] = table
        wrapping.give_reason(table, "quantizers of activations")


def check_prepared(state, bits):
    """Raises the error of a width that a `Nesting` cannot be switched to."""
    for variable in state.variables:
        nested.format_at(variable.codec.format, bits)
    _check_fitted(state, bits)


def _check_fitted(state, bits):
    if bits in state.prepared:
        return
    if not state.tables and not state.batchnorms:
        state.prepared.add(bits)  # The codes are all that a width has.
        return
    raise InputError(
        "bits",
        f"a width that is prepared: {_listed(sorted(state.prepared, reverse=True))}",
        bits,
        "prepare it with omc.calibrate(model, data, bits).",
    )


def added_variables(model):
    """What `nest` and `calibrate` gave a model to hold, in an order that is the same every time."""
    state = nesting_of(model)
    if state is None:
        return []
    found = [state.tables[id(v)] for v in state.variables if id(v) in state.tables]
    return found + [v for sets in state.batchnorms for v in sets.added_variables()]


def stored_codec(variable):
    """The codec of all that a compressed variable stores, whatever width it is read at."""
    codec = variable.codec
    if variable.learned_scale is None:
        return codec
    full = nested.full_codec(codec)
    return dataclasses.replace(full, saturates=False)


def described(model, variables):
    """A nested model's structure, as JSON has it; None for another model.

    Args:
        model: A `tf.keras.Model`.
        variables: List of its variables, those that `nest` added last.
    """
    state = nesting_of(model)
    if state is None:
        return None
    places = {id(variable): place for place, variable in enumerate(variables)}
    options = dataclasses.asdict(state.options)
    prepared = sorted(state.prepared, reverse=True)
    own, *added = state.batchnorms[0].widths if state.batchnorms else [state.options.widths[0]]
    sets = _set_order(own, added)
    if state.batchnorms and sets != _set_order(state.options.widths[0], prepared):
        options["sets"] = sets  # A progressive model has those of widths to come, too.
    if state.options.switching is None:
        del options["switching"]  # As files were written before there was any.
    else:
        options["switching"]["traces"] = list(state.options.switching.traces)
    return {
        **options,
        "bits": list(state.bits) if isinstance(state.bits, tuple) else state.bits,
        "widths": list(state.options.widths),
        "prepared": prepared,
        "variables": [places[id(variable)] for variable in state.variables],
        "tables": [id(variable) in state.tables for variable in state.variables],
        "variables_before": len(variables) - len(added_variables(model)),
    }


def check_described(structure, count):
    """Raises unless a dict, of whatever origin, is one that `described` may have given.

    Args:
        structure: What JSON had.
        count: Variables of the model.

    Raises:
        OmcError, LookupError, TypeError, ValueError: It is not.
    """
    if not isinstance(structure, dict):
        raise TypeError("a nested model's structure that is no dict")
    fields = {field.name for field in dataclasses.fields(Options)}
    options = {name: value for name, value in structure.items() if name in fields}
    if options.get("switching") is not None:
        Switching(**options["switching"])
    checks.choice("rounding", options["rounding"], ("nearest", "shift"))
    checks.choice("batchnorm", options["batchnorm"], ("sets", "shared"))
    before = checks.integer("variables_before", structure["variables_before"], least=0, most=count)
    places, tables = structure["variables"], structure["tables"]
    for place in places:
        checks.integer("variables", place, least=0, most=before - 1)
    bits = structure["bits"]
    sets = structure.get("sets", [])
    for widths in (bits if isinstance(bits, list) else [bits], sets, *map(structure.get, _WIDTHS)):
        for width in widths:
            checks.integer("bits", width, least=1, most=32)
    if len(set(places)) != len(places) or len(tables) != len(places) or not structure["widths"]:
        raise ValueError("nested variables that do not fit their tables")


_WIDTHS = ("widths", "prepared")


def restore(model, variables, structure):
    """Makes a wrapped model nested as another one was; its added variables are still to be filled.

    Args:
        model: A wrapped model that is not nested.
        variables: List of its variables, in the order of `described`.
        structure: What `described` gave.
    """
    fields = {field.name for field in dataclasses.fields(Options)}
    options = {name: value for name, value in structure.items() if name in fields}
    options["widths"] = tuple(options["widths"])
    if "switching" in options:
        options["switching"] = Switching(**options["switching"])
    chosen = [variables[place] for place in structure["variables"]]
    state = attach(model, chosen, Options(**options))
    add_tables(model, state, [v for v, has in zip(chosen, structure["tables"]) if has])
    for bits in structure.get("sets", _set_order(options["widths"][0], structure["prepared"])):
        for sets in state.batchnorms:
            sets.add(bits)
    state.prepared.update(structure["prepared"])
    switch_back(model, structure["bits"])


def _set_order(own, others):
    """Widths in the order of their BatchNorm sets: first that of the layers' own variables."""
    return [own, *sorted(set(others) - {own}, reverse=True)]


def _listed(widths):
    return ", ".join(map(str, widths))


def _name(variable):
    return variable.name.split(":")[0]
