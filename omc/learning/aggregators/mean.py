"""Aggregator "mean": the weighted mean, with clipping and zeroing."""

import collections
import dataclasses
import math
from typing import Optional, Union

import tensorflow as tf

from omc import checks
from omc.errors import InputError
from omc.learning.aggregators.base import Aggregated, Aggregator, check_number

WEIGHTINGS = ("examples", "uniform")
ADAPTIVE = "adaptive"


@dataclasses.dataclass(frozen=True)
class _Quantile:
    """A quantile of the clients' norms, followed over rounds (Andrew et al., NeurIPS 2021).

        C <- C exp(-rate (share of clients whose norm is at most C - target))

    Attributes:
        first: C before the first round.
        target: The quantile, between 0 and 1.
        rate: Learning rate.
    """

    first: float
    target: float
    rate: float

    def next(self, estimate, share):
        """The estimate after a round with a share (float32) of norms that it covers."""
        return estimate * tf.exp(-self.rate * (share - self.target))


# The settings of TFF's own adaptive clipping and zeroing.
CLIPPING = _Quantile(1.0, 0.8, 0.2)
ZEROING = _Quantile(10.0, 0.98, math.log(10.0))


@dataclasses.dataclass(frozen=True)
class Mean(Aggregator):
    """The mean of what clients answer, weighted by their examples.

        sum_k p_k c_k read(v_k) / sum_k p_k,      c_k = min(1, clipping / ||read(v_k)||)

    ||.|| is the Euclidean norm over all trainable variables together. What exceeds `zeroing` in any
    one weight does not count at all, with p_k = 0 (in TFF it counts as 0, at its weight). Adaptive
    bounds follow a quantile of the norms from round to round, with the settings of TFF's factories:
    clipping at the 0.8 quantile, from 1; zeroing at twice the 0.98 quantile plus 1, from 21.

    Attributes:
        weighting: "examples", or "uniform": every client counts once.
        clipping: Largest norm of a client's change, a number above 0; "adaptive"; None for no
            clipping.
        zeroing: Largest change of a weight, a number above 0; "adaptive"; None for none.

    Raises:
        InputTypeError, InputError: Other settings.
    """

    weighting: str = WEIGHTINGS[0]
    clipping: Optional[Union[float, str]] = None
    zeroing: Optional[Union[float, str]] = None

    def __post_init__(self):
        super().__post_init__()
        checks.choice("weighting", self.weighting, WEIGHTINGS)
        for argument in ("clipping", "zeroing"):
            bound = getattr(self, argument)
            adaptive = isinstance(bound, str) and bound == ADAPTIVE
            if bound is not None and not adaptive:
                check_number(argument, bound, "a number above 0, 'adaptive' or None")

    def check(self, uplink, widths):
        """As `Aggregator.check`.

        Raises:
            InputError: Clipping or zeroing, which are of changes, with uplink "weights".
        """
        if uplink.averages == "weights":
            for argument in ("clipping", "zeroing"):
                if getattr(self, argument) is not None:
                    expected = "None with an uplink of whole weights"
                    tip = "it bounds changes: choose an uplink of these, such as 'update'."
                    raise InputError(argument, expected, getattr(self, argument), tip)

    def initial(self):
        """As `Aggregator.initial`: the estimated quantiles, where bounds are adaptive."""
        quantiles = (("clipping", CLIPPING), ("zeroing", ZEROING))
        return collections.OrderedDict(
            (name, tf.constant(quantile.first))
            for name, quantile in quantiles
            if getattr(self, name) == ADAPTIVE
        )

    def bounds(self, state):
        """As `Aggregator.bounds`: clipping and zeroing, where they are wanted."""
        found = collections.OrderedDict()
        if self.clipping is not None:
            adaptive = self.clipping == ADAPTIVE
            found["clipping"] = state["clipping"] if adaptive else tf.constant(float(self.clipping))
        if self.zeroing is not None:
            adaptive = self.zeroing == ADAPTIVE
            found["zeroing"] = (
                2.0 * state["zeroing"] + 1.0 if adaptive else tf.constant(float(self.zeroing))
            )
        return found

    def zero(self, federation):
        """As `Aggregator.zero`: the sums, the sum of weights, and five counts of clients."""
        sums = [tf.zeros(spec.shape, spec.dtype) for spec in federation.sum_specs]
        return [*sums, tf.constant(0.0), tf.zeros([len(_COUNTS)])]

    def add(self, federation, totals, admitted, bounds):
        """As `Aggregator.add`."""
        *sums, total_weight, counts = totals
        weight, values = admitted.weight, admitted.values
        heard = weight > 0.0
        zeroed = clipped = low = small = tf.constant(False)
        if "zeroing" in bounds:
            most = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(v)) for v in values]))
            zeroed = heard & (most > bounds["zeroing"])
            small = heard & (2.0 * most + 1.0 <= bounds["zeroing"])
        weight = tf.where(zeroed, 0.0, weight)
        if self.weighting == "uniform":
            weight = tf.where(weight > 0.0, 1.0, 0.0)
        plan, examples = federation.plan, weight
        if admitted.report is not None and self.weighting == "examples":
            weight = plan.widths.influence(plan, admitted.report, weight)
        factor = weight
        if "clipping" in bounds:
            norm = tf.linalg.global_norm(values)
            low = heard & (zeroed | (norm <= bounds["clipping"]))  # As 0, which it counts as.
            clipped = heard & ~low
            factor = weight * tf.where(
                clipped, tf.math.divide_no_nan(bounds["clipping"], norm), 1.0
            )
        terms = [factor * value for value in values]
        if admitted.report is not None:
            terms.append(plan.widths.terms(plan, admitted.report, examples))
        flags = tf.cast(tf.stack([heard, clipped, zeroed, low, small]), tf.float32)
        sums = [total + term for total, term in zip(sums, terms)]
        return [*sums, total_weight + weight, counts + flags]

    def finish(self, federation, totals, state, round_number):
        """As `Aggregator.finish`."""
        *sums, total_weight, counts = totals
        counts = dict(zip(_COUNTS, tf.unstack(counts, len(_COUNTS))))
        measurements = collections.OrderedDict()
        for name, bound in self.bounds(state).items():
            measurements[f"{name}_bound"] = bound
            measurements[_DONE[name]] = tf.cast(counts[_DONE[name]], tf.int32)
        after = collections.OrderedDict(state)
        for name, quantile, within in (
            ("clipping", CLIPPING, "low"),
            ("zeroing", ZEROING, "small"),
        ):
            if name in state:
                share = tf.math.divide_no_nan(counts[within], counts["heard"])
                moved = quantile.next(state[name], share)
                after[name] = tf.where(counts["heard"] > 0.0, moved, state[name])
        mean = [tf.math.divide_no_nan(total, total_weight) for total in sums]
        return Aggregated(mean, total_weight, after, measurements)


_COUNTS = ("heard", "clipped", "zeroed", "low", "small")
_DONE = {"clipping": "clipped", "zeroing": "zeroed"}
