"""Policies: which variable is stored in which format, and why.

Three rules of OMC (arXiv 2205.03494) decide: only weight matrices are quantized, only a random
fraction of them (partial quantization, by whole variable, another subset for each client and
round), and what the user overrides by name.
"""

import dataclasses
import fnmatch
import numbers
from collections.abc import Mapping
from typing import NamedTuple, Optional

import tensorflow as tf

from omc import checks
from omc.codecs import Codec
from omc.compressed import parse_transform
from omc.errors import InputError, InputTypeError
from omc.formats import FP32, Format

# Normalization over several axes gives them a rank of 2 and more.
_STATISTICS = ("mean", "variance", "moving_mean", "moving_variance")
_NOT_MATRICES = ("bias", "beta", "gamma", *_STATISTICS)
_ROUNDINGS = ("nearest", "stochastic")


class VariableSpec(NamedTuple):
    """What a policy looks at in a variable.

    Attributes:
        name: Name without ":0", for example "dense/kernel"; of Keras 3 its path.
        shape: Tuple of ints.
        dtype: tf.DType.
        trainable: Whether gradients update it.
        alias: Another name that patterns may match: of Keras 3 the path without its first part,
            which can be the model's name ("sequential_3/dense/kernel"); "" for none.
    """

    name: str
    shape: tuple
    dtype: tf.DType
    trainable: bool
    alias: str = ""

    @classmethod
    def of(cls, variable):
        """Spec of a tf.Variable; one behind a Keras 3 variable has the name that this one has."""
        holder = getattr(variable, "_omc_holder", lambda: None)()  # See `omc.keras.keras3.host`.
        name = variable.name.split(":")[0] if holder is None else holder.path
        trainable = variable.trainable if holder is None else holder.trainable
        rest = "" if holder is None else name.partition("/")[2]
        alias = rest if "/" in rest else ""  # Or "kernel" would be the name of many.
        return cls(name, tuple(variable.shape), variable.dtype, bool(trainable), alias)

    def matches(self, pattern):
        """Whether a glob pattern means this variable."""
        names = (self.name, self.alias) if self.alias else (self.name,)
        return any(fnmatch.fnmatchcase(name, pattern) for name in names)

    @property
    def dense_bytes(self):
        """Bytes of the dense variable."""
        return int(tf.TensorShape(self.shape).num_elements()) * self.dtype.size


class PlannedVariable(NamedTuple):
    """One line of a plan.

    Attributes:
        spec: The variable.
        format: Format it is stored in; FP32 stands for "left as it is".
        reason: Why, in a few words.
        partial: Whether partial quantization may leave it in FP32 for some client and round.
        transform: Whether a per-variable transform surrounds the codes.
    """

    spec: VariableSpec
    format: Format
    reason: str
    partial: bool = False
    transform: bool = True

    @property
    def codec(self):
        """Codec of the variable, or None where it is left as it is."""
        if self.format.is_fp32:
            return None
        return Codec(self.format, self.spec.shape, self.transform)


@dataclasses.dataclass(frozen=True)
class Policy:
    """How a model's variables are stored.

    Attributes:
        format: Format (or name) of quantized variables.
        weight_matrices_only: Quantize only variables of rank 2 and more that are no bias, gamma,
            beta, mean or variance; otherwise every trainable float32 variable.
        fraction: Share of the eligible variables that is quantized, 0 .. 1. Which ones is drawn
            from (seed, round, client); `fraction * n` is rounded up or down at random so that its
            mean is exact (ours).
        seed: Seed of that draw and of stochastic rounding.
        overrides: Glob pattern of variable names -> Format or name; the first match wins, "FP32"
            keeps a variable as it is. Overridden variables take no part in the draw.
        rounding: "stochastic" (unbiased) or "nearest": how an updated weight is rounded during
            training. Under nearest, updates below half a code step vanish; the experiment behind
            the default is in docs/training_quality.md.
        slots: None to leave an optimizer's slots (momentum, Adam's moments) in float32, or the
            format in which those of quantized variables are stored. They are rounded
            stochastically, for their updates are small, and need a range that minifloats with at
            least 5 exponent bits have: with fewer, Adam's second moments become 0 (ours).
        transform: "pvt" for a scale and an offset around each variable's codes, or None (also
            "none") for bare codes, to see what the transform does: a value is stored as the
            format's own value nearest to it. Nothing grows then: what moves beyond the format's
            largest magnitude saturates there, and what is below half its smallest step becomes 0
            (or, rounded stochastically, now and then one step). Bare codes are 8 bytes a variable
            shorter and updated by TensorFlow ops, not native ones. Slots keep their transform.

    Raises:
        FormatError: Unknown format.
        InputError: `fraction` outside 0..1, unknown `rounding` or `transform`.
        InputTypeError: An argument of the wrong type.
    """

    format: Format
    weight_matrices_only: bool = True
    fraction: float = 1.0
    seed: int = 0
    overrides: Mapping = dataclasses.field(default_factory=dict)
    rounding: str = "stochastic"
    slots: Optional[Format] = None
    transform: Optional[str] = "pvt"

    def __post_init__(self):
        checks.real("fraction", self.fraction, "a number from 0 to 1", lambda v: 0 <= v <= 1)
        checks.integer("seed", self.seed)
        if not isinstance(self.overrides, Mapping):
            raise InputTypeError("overrides", "a dict of glob pattern -> format", self.overrides)
        checks.choice("rounding", self.rounding, _ROUNDINGS)
        parsed = {pattern: Format.parse(fmt) for pattern, fmt in self.overrides.items()}
        object.__setattr__(self, "transform", parse_transform(self.transform))
        object.__setattr__(self, "format", Format.parse(self.format))
        object.__setattr__(self, "overrides", parsed)
        if self.slots is not None:
            slots = Format.parse(self.slots)
            if not slots.sign_bits or slots.exponent_bits < 5:
                allowed = "a minifloat with a sign and at least 5 exponent bits"
                raise InputError("slots", allowed, slots.name, "for example 'S1E5M2'.")
            object.__setattr__(self, "slots", None if slots.is_fp32 else slots)

    @classmethod
    def of(cls, policy):
        """The policy itself, or the default policy of a format's name.

        Raises:
            InputTypeError: `policy` is neither.
        """
        if isinstance(policy, cls):
            return policy
        if isinstance(policy, (str, Format)):
            return cls(policy)
        raise InputTypeError("policy", "an omc.Policy or a format's name", type(policy).__name__)

    def candidates(self, specs):
        """Plan before the draw of partial quantization.

        Args:
            specs: Sequence of VariableSpec.

        Returns:
            Tuple of PlannedVariable, in the order of `specs`.

        Raises:
            InputError: An override matches no variable, or one that is not float32.
        """
        names, specs = [spec.name for spec in specs], told_apart(specs)
        for pattern in self.overrides:
            if not any(spec.matches(pattern) for spec in specs):
                raise InputError(
                    "overrides",
                    "patterns that match a variable",
                    f"{pattern!r}, which matches none of {_shortened(names)}",
                    "patterns match whole names, as in '*/kernel'.",
                )
        return tuple(self.candidate(spec) for spec in specs)

    def plan(self, specs, round=0, client=0):
        """Plan of one client in one round.

        Args:
            specs: Sequence of VariableSpec.
            round: Round number, int.
            client: Client id, int.

        Returns:
            Tuple of PlannedVariable, in the order of `specs`.
        """
        candidates = self.candidates(specs)
        count = sum(planned.partial for planned in candidates)
        drawn = iter(quantized_mask(count, self.fraction, self.seed, round, client).numpy())
        return tuple(
            planned._replace(format=FP32, reason="left out by partial quantization")
            if planned.partial and not next(drawn)
            else planned
            for planned in candidates
        )

    def candidate(self, spec):
        """Plan of one variable before the draw of partial quantization, a `PlannedVariable`.

        Raises:
            InputError: An override wants a format for a variable that is not float32.
        """
        transform = self.transform is not None
        for pattern, fmt in self.overrides.items():
            if spec.matches(pattern):
                if spec.dtype != tf.float32 and not fmt.is_fp32:
                    raise InputError(
                        "overrides",
                        "float32 variables",
                        f"{pattern!r}, which matches {spec.name!r} of {spec.dtype.name}",
                        "give it 'FP32' with a pattern before, or build the model in float32.",
                    )
                return PlannedVariable(spec, fmt, f"override {pattern!r}", transform=transform)
        if self.format.is_fp32:
            return PlannedVariable(spec, FP32, "policy format is FP32")
        if spec.dtype != tf.float32:
            return PlannedVariable(spec, FP32, f"{spec.dtype.name}, not float32")
        if self.weight_matrices_only and not is_matrix(spec):
            return PlannedVariable(spec, FP32, "not a weight matrix")
        if not self.weight_matrices_only and not spec.trainable and not is_matrix(spec):
            return PlannedVariable(spec, FP32, "not trainable")
        reason = "quantized" if transform else "quantized without transform"
        planned = PlannedVariable(spec, self.format, reason, partial=True, transform=transform)
        if planned.codec.nbytes >= spec.dense_bytes:
            return PlannedVariable(spec, FP32, "too small to gain")
        return planned


def quantized_mask(count, fraction, seed, round, client):
    """Which of `count` eligible variables one client quantizes in one round.

    The same in a graph and outside: a random order from (seed, round, client), of which the first
    floor(fraction * count + U) are quantized, U uniform in [0, 1) from the same seed.

    Args:
        count: Eligible variables, int.
        fraction: 0 .. 1, float.
        seed, round, client: ints or integer tensors.

    Returns:
        bool tensor [count].
    """
    words = tf.stack([_int32(seed), _int32(round)])
    words = tf.random.experimental.stateless_fold_in(words, _int32(client), alg="philox")
    draws = tf.random.stateless_uniform([count + 1], words, alg="philox")
    # Rounded first: 0.7 * 10 is a hair above 7, and must not sometimes give 8.
    chosen = tf.cast(tf.floor(tf.constant(_snapped(fraction * count)) + draws[count]), tf.int32)
    position = tf.argsort(tf.argsort(draws[:count]))
    return position < chosen


def _snapped(value):
    return float(round(value)) if abs(value - round(value)) < 1e-6 else float(value)


def _int32(value):
    if isinstance(value, numbers.Integral):
        value = (int(value) + 2**31) % 2**32 - 2**31
    return tf.cast(value, tf.int32)


def told_apart(specs):
    """A model's `VariableSpec`s as a list, less the aliases that are other variables' names."""
    names = {spec.name for spec in specs}
    return [spec._replace(alias="") if spec.alias in names else spec for spec in specs]


def is_matrix(spec):
    """Whether a `VariableSpec` is that of a weight matrix: of rank 2 and more, and no bias."""
    return len(spec.shape) >= 2 and spec.name.rsplit("/", 1)[-1] not in _NOT_MATRICES


def _shortened(names, most=8):
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
