"""What each variable of a nested model loses at each width: read out of its stored codes."""

import functools

import numpy as np

from omc import nested
from omc.errors import InputError
from omc.formats import Format
from omc.keras import CompressedVariable
from omc.keras.nesting import check_prepared, nesting_of
from omc.keras.wrapping import variables_of
from omc.mixed_precision.allocation import pattern
from omc.mixed_precision.measuring import Measured, counted
from omc.policies import Policy, VariableSpec


class NestedMeasured(Measured):
    """`Measured` of a nested model: lines are its variables that change their width.

        error at b bits = ||W_h - W_b||^2,   W_h all stored bits, W_b the read at b bits

    Bytes are those of a device that has this width alone (`omc.nested.extract`), traces those at
    the stored values with float32 activations. Nothing is encoded anew.
    """

    def __init__(self, model, formats, hessian, coded_nbytes):
        """Arguments as those of `Measured`, without the policy: what is stored is stored."""
        super().__init__(model, formats, stored_policy(model), hessian, coded_nbytes)
        growing = {id(variable) for variable in nesting_of(model).variables}
        self.members = {}
        for place, variable in enumerate(variables_of(model)):
            if id(variable) in growing:
                self.members.setdefault(self.plan[place].spec.name, []).append(place)

    @functools.cached_property
    def traces(self):
        """As in `Measured`."""
        with nesting_of(self._model).as_stored():
            return super().traces

    @functools.cached_property
    def errors(self):
        """As in `Measured`."""
        return {place: np.array(list(self._errors(place))) for place in self.places}

    def _errors(self, place):
        variable, rounding = self._stored(place)
        buffer, codec = variable.buffer.read_value(), _full(variable)
        whole = codec.decode(buffer).numpy().astype(np.float64)
        for fmt in self.formats:
            read = nested.codec_at(codec, fmt.bits, rounding).decode(buffer).numpy()
            yield float(np.square(read - whole).sum())

    @functools.cached_property
    def increases(self):
        """As in `Measured`, of what `omc.nested.switch` would have the model compute."""
        state = nesting_of(self._model)
        before = state.bits
        try:
            state.use(state.options.widths[0])
            return super().increases
        finally:
            state.use(before)

    def _each_format(self, place):
        own, state = variables_of(self._model)[place], nesting_of(self._model)
        full = state.options.widths[0]
        for fmt in self.formats:
            each = tuple(fmt.bits if variable is own else full for variable in state.variables)
            state.use(full if fmt.bits == full else each)
            yield
        state.use(full)

    def _coded_in(self, place, codecs):
        if place not in self.places:
            return super()._coded_in(place, codecs)
        variable, _ = self._stored(place)
        buffer, codec = variable.buffer.read_value(), _full(variable)
        found = []
        for own in codecs:
            extracted = nested.extract_buffer(buffer, codec, own.format.bits)
            found.append(counted("coded_nbytes", self._coded_nbytes(extracted, own)))
        return found

    def _stored(self, place):
        return variables_of(self._model)[place], nesting_of(self._model).options.rounding


def stored_policy(model):
    """The `Policy` that says how a nested model is stored, a format for each name."""
    overrides = {}
    for variable in variables_of(model):
        if isinstance(variable, CompressedVariable):
            name = VariableSpec.of(variable).name
            overrides[pattern(name)] = nested.stored_format(variable.codec.format)
    return Policy("FP32", overrides=overrides)


def formats_of(model, formats=None):
    """The formats to choose from for a nested model, narrowest first.

    Args:
        model: A nested model.
        formats: Tuple of `Format`; None for all widths that are prepared (but for 1 bit, which no
            format has).

    Raises:
        InputError: A format that is no prepared width of what is stored.
    """
    state = nesting_of(model)
    widths = [bits for bits in sorted(state.prepared) if bits > 1]
    if formats is None:
        formats = [_name_at(state.variables[0], bits) for bits in widths]
    found = tuple(Format.parse(fmt) for fmt in formats)
    for fmt in found:
        for variable in state.variables:
            if _name_at(variable, fmt.bits) != fmt.name:
                stored = nested.stored_format(variable.codec.format).name
                expected = f"widths of {stored}, as {VariableSpec.of(variable).name!r} is stored"
                raise InputError("formats", expected, fmt.name)
        try:
            check_prepared(state, fmt.bits)
        except InputError as error:
            raise InputError("formats", error.expected, fmt.name, error.tip) from error
    return found


def _name_at(variable, bits):
    """Name of the format of a width alone; None where there is none."""
    try:
        return nested.format_at(variable.codec.format, bits).name.partition("+")[0]
    except InputError:
        return None


def _full(variable):
    return nested.full_codec(variable.codec)
