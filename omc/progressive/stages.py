"""Stages of a chain: one format for all quantized variables, or a format for each (a policy)."""

import re
from typing import NamedTuple, Optional

from omc.errors import FormatError, InputError, InputTypeError
from omc.formats import Format
from omc.keras import wrapping
from omc.policies import Policy, VariableSpec
from omc.progressive import streams

_MIXED = re.compile(r"mixed-\d+\.\d\d")


class Stage(NamedTuple):
    """One stage, as the caller of `split` gave it.

    Attributes:
        format: `Format` of all variables that are quantized; None where a policy says it.
        policy: `Policy`, such as `omc.allocate` returns; None where there is one format.
    """

    format: Optional[Format] = None
    policy: Optional[Policy] = None

    @property
    def is_fp32(self):
        """Whether it is the dense model."""
        return self.format is not None and self.format.is_fp32


def parsed(stages):
    """List of `Stage`.

    Args:
        stages: As for `omc.progressive.split`.

    Raises:
        FormatError: Unknown format.
        InputError: No stages; formats out of order or too wide; a policy that is the last stage, or
            with partial quantization.
        InputTypeError: No list.
    """
    if isinstance(stages, (str, Format, Policy)) or not hasattr(stages, "__iter__"):
        raise InputTypeError("stages", "a list of formats, such as ['INT4', 'FP32']", stages)
    found = [
        Stage(policy=stage) if isinstance(stage, Policy) else Stage(_format(stage, "stages"))
        for stage in stages
    ]
    if not found:
        raise InputError("stages", "at least one format", "none")
    if found[-1].policy is not None:
        tip = "end with 'INT8' or 'FP32', say; or split a model that is wrapped in the policy."
        raise InputError("stages", "a format as the last stage", "a policy", tip)
    bits = [stage.format.bits for stage in found if stage.format is not None]
    if any(low >= high for low, high in zip(bits, bits[1:])):
        names = [stage.format.name for stage in found if stage.format is not None]
        raise InputError("stages", "formats of more and more bits", names)
    for stage in found[:-1]:
        if stage.policy is not None and stage.policy.fraction != 1:
            got = f"one of fraction {stage.policy.fraction}"
            raise InputError("stages", "policies without partial quantization", got)
        if stage.format is not None:
            _check_sent(stage.format)
    return found


class Chain:
    """Formats of each variable at each stage, and the stages' names.

    Attributes:
        names: Tuple of the stages' names: of the format, or "mixed-3.87" for 3.87 bits a weight.
    """

    def __init__(self, model, stages, held):
        """Looks up what policies say, and checks that every variable only grows.

        Args:
            model: The model, plain or wrapped.
            stages: What `parsed` returned.
            held: List of (variable, codec of the last stage or None), as `split` has it.

        Raises:
            InputError: A variable would shrink, a stage would not grow, a policy quantizes what is
                raw at the last stage, or has formats that are too wide to be sent.
        """
        self._stages, variables = stages, wrapping.variables_of(model)
        specs = [VariableSpec.of(variable) for variable in variables]
        raw = {id(variable) for variable, codec in held if codec is None}
        self._planned = []
        for stage in stages:
            plan = stage.policy.candidates(specs) if stage.policy is not None else ()
            planned = {id(v): each.format for v, each in zip(variables, plan) if each.codec}
            for variable, spec in zip(variables, specs):
                if id(variable) in planned and id(variable) in raw:
                    expected = f"policies that leave {spec.name!r} as the last stage has it, raw"
                    raise InputError("stages", expected, planned[id(variable)].name)
            for fmt in planned.values():
                _check_sent(fmt)
            self._planned.append(planned)
        quantized = [(v, codec) for v, codec in held if codec is not None]
        self._formats = {
            id(variable): self._grown(variable, codec) for variable, codec in quantized
        }
        each = [(codec.count, self._formats[id(variable)]) for variable, codec in quantized]
        self.names, before = (), 0.0
        for place, stage in enumerate(stages):
            bits = sum(n * formats[place].bits for n, formats in each)
            bits /= max(sum(n for n, _ in each), 1)
            mixed = stage.policy is not None
            neighbour = place > 0 and self._stages[place - 1].policy is not None
            if (mixed or neighbour) and bits <= before:
                expected = f"more bits a weight than the {before:.2f} of the stage before"
                raise InputError("stages", expected, f"{bits:.2f}")
            self.names += (f"mixed-{bits:.2f}" if mixed else stage.format.name,)
            before = bits

    def of(self, variable):
        """Formats of a variable that is quantized at the last stage, a list, one a stage.

        At most those that it has there; a policy that says nothing of it gives it what the next
        stage does.
        """
        return self._formats[id(variable)]

    def _grown(self, variable, codec):
        found = []
        for stage, planned in zip(reversed(self._stages), reversed(self._planned)):
            fmt = stage.format
            if fmt is None:
                fmt = planned.get(id(variable), found[0] if found else codec.format)
            fmt = codec.format if fmt.bits >= codec.format.bits else fmt
            if found and fmt.bits > found[0].bits:
                name, after = VariableSpec.of(variable).name, found[0]
                expected = f"at most the {after.bits} bits that {name!r} has at the stage after"
                raise InputError("stages", expected, fmt.name)
            found.insert(0, fmt)
        return found


def checked_name(name):
    """The name of a stage, as it is written into parts.

    Raises:
        FormatError: Neither a format's nor a mixed stage's.
    """
    return name if is_mixed(name) else _format(name, "stage").name


def _format(value, argument):
    """A `Format`; the error of an unknown one names the argument that it is of."""
    try:
        return Format.parse(value)
    except FormatError as error:
        raise FormatError(argument, error.expected, error.got, error.tip) from error


def is_mixed(name):
    """Whether a stage's name is that of a policy."""
    return isinstance(name, str) and _MIXED.fullmatch(name) is not None


def _check_sent(fmt):
    if not streams.can_predict(fmt):
        expected = "formats of at most 16 bits, none of them feedback, before the last"
        raise InputError("stages", expected, fmt.name)
