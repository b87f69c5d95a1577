"""A width for each layer, as a user says it: by name, or by the policy that `omc.allocate` made."""

import fnmatch
from collections.abc import Mapping

from omc import checks, nested
from omc.errors import InputError, InputTypeError
from omc.keras import wrapping
from omc.keras.owners import owners
from omc.policies import Policy, VariableSpec, told_apart


def widths(model, variables, highest, bits):
    """A width for each of a nested model's variables.

    Args:
        model: A nested model.
        variables: List of its `CompressedVariable`s that change their width.
        highest: Width of what a dict does not name.
        bits: Dict of a name (of a variable or a layer, or a glob pattern of them) -> width, of
            which the first that matches counts; or a `Policy` whose formats are widths of what is
            stored. It says nothing of the matrices that keep all bits.

    Returns:
        Tuple of ints, or None where `bits` is neither: one width for all.

    Raises:
        InputTypeError: A name that is no str, a width that is no integer.
        InputError: A pattern that matches none of the variables, a policy of another model, a
            format that is no width of the stored codes.
    """
    if isinstance(bits, Mapping):
        return _named(model, variables, highest, bits)
    if isinstance(bits, Policy):
        return _planned(model, variables, bits)
    return None


def names_of(model, variables):
    """(spec of the variable, name of the layer that owns it) of each variable."""
    held = owners(model)
    specs = told_apart([VariableSpec.of(variable) for variable in variables])
    return [(spec, held[id(variable)].name) for spec, variable in zip(specs, variables)]


def _named(model, variables, highest, bits):
    names, matched, found = names_of(model, variables), set(), []
    for pattern, width in bits.items():
        if not isinstance(pattern, str):
            raise InputTypeError("bits", "names of variables or layers, or patterns", pattern)
        checks.integer("bits", width, f"an integer for {pattern!r}")
    for spec, layer in names:
        fitting = [p for p in bits if spec.matches(p) or fnmatch.fnmatchcase(layer, p)]
        matched.update(fitting)
        found.append(int(bits[fitting[0]]) if fitting else highest)
    for pattern in bits:
        if pattern not in matched:
            known = ", ".join(repr(spec.name) for spec, _ in names)
            tip = "matrices that omc.nest(fixed=...) keeps fixed have no width to choose."
            raise InputError("bits", f"names or patterns that match one of {known}", pattern, tip)
    return tuple(found)


def _planned(model, variables, policy):
    every = wrapping.variables_of(model)
    try:
        plan = policy.candidates([VariableSpec.of(variable) for variable in every])
    except InputError as error:  # It names variables that this model does not have.
        tip = "allocate on this model, or on one of the same architecture."
        raise InputError(
            "bits", "a policy of this model", f"one of another: {error}", tip
        ) from error
    formats = {id(variable): planned.format for variable, planned in zip(every, plan)}
    return tuple(_width(variable, formats[id(variable)]) for variable in variables)


def _width(variable, fmt):
    """The width at which stored codes read as a format does."""
    stored, bits = nested.stored_format(variable.codec.format), fmt.bits
    if not fmt.is_fp32:
        try:
            if nested.format_at(stored, bits).name.partition("+")[0] == fmt.name:
                return bits
        except InputError:
            pass
    name = VariableSpec.of(variable).name
    raise InputError("bits", f"a width of {stored.name} for {name!r}", fmt.name)
