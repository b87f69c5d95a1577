"""FedMPQ: a width for every layer and client, under each client's budget, anew each round."""

import collections
import dataclasses
from typing import Optional

import tensorflow as tf

from omc import checks
from omc.errors import InputError, InputTypeError
from omc.learning.widths import ClientWidths, Widths
from omc.mixed_precision.bit_planes import NARROWEST, integer_codec
from omc.mixed_precision.fitted_scales import fitted_buffer, relative_errors
from omc.mixed_precision.graph import least_error, prune_and_grow

STRATEGIES = ("least_error", "pruning_growing", "fixed")
SCALES = ("fitted", "largest")
WEIGHTINGS = ("budget", "examples")


@dataclasses.dataclass(frozen=True)
class FedMPQ(ClientWidths):
    """Mixed-precision quantization under budgets (FedMPQ, arXiv 2311.18129, CVPR 2024).

    Every client has a budget of bits a weight, and holds each layer at a width of its own, so that

        sum_l n_l bits_l <= budget * sum_l n_l

    over the variables that the policy quantizes by its own format (not by an override). A round:

    - a client downloads the server's codes at its widths, narrower ones at fitted scales
      (`omc.mixed_precision.fitted_scales`; ours);
    - it trains on them, with a `lasso` also along the bit-level group lasso
      (`omc.mixed_precision.bit_planes.lasso_gradient`), whose steps the client's optimizer takes in
      one, after all of its training and after every 32 steps of it (ours: that costs a client
      neither memory nor much time);
    - it drops planes that are nearly empty (`reduce_buffer`), and sends what changed, with its
      widths and how many planes went;
    - the server takes the mean of what it decodes with weights p_k ~ examples_k budget_k, and gives
      each budget its widths for the next round: clients of one budget hold alike. By "least_error"
      (ours) they leave the least relative squared error of its weights
      (`omc.mixed_precision.graph.least_error`). By "pruning_growing", as published, with

          N_l = round(sum_k p_k bits_lk),     delta_l = round(1 + sum_k p_k dropped_lk)

      from which `omc.mixed_precision.graph.prune_and_grow` makes them.

    In the first round every layer has its client's budget. A budget counts stored bits, the sign
    among them; the official code leaves the sign out (ours). Widths go from 2 bits to the policy's.

    Attributes:
        budgets: Bits a weight, a tuple of ints.
        shares: How many clients draw each budget, in proportion; None for equal shares.
        assigned: Dict of client id -> budget, for clients whose budget is known.
        seed: Seed of the draw, an int.
        lasso: Lambda, the factor of the lasso in the loss, a number from 0 (no lasso).
        threshold: Density of bits below which a plane goes, from 0 (only what is empty) to below 1;
            None for no precision reduction.
        strategy: "least_error"; "pruning_growing"; or "fixed", every layer at the budget in all
            rounds, which with `lasso=0, threshold=None, scales="largest", weighting="examples"` is
            AQFL, and the same as `Widths(budgets)`.
        scales: "fitted": narrow codes have the scale of least squared error, which lets the largest
            weights saturate (`omc.mixed_precision.fitted_scales`; ours); "largest": that of the
            largest weight, by the second rounding (`omc.nested`).
        weighting: "budget": clients weigh in the mean of changes as p_k; "examples": by their
            examples alone. Robust aggregators, and a mean with a weighting of its own, use neither.

    Raises:
        InputTypeError: No sequence of integers, no numbers, no dict.
        InputError: As `Widths`, with `budgets` for its `widths`; a budget below 2 bits; `lasso`,
            `threshold`, `strategy`, `scales` or `weighting` out of what is allowed.
    """

    budgets: tuple = (2, 4, 6, 8)
    shares: Optional[tuple] = None
    assigned: collections.abc.Mapping = dataclasses.field(default_factory=dict)
    seed: int = 0
    lasso: float = 0.0
    threshold: Optional[float] = 0.03
    strategy: str = STRATEGIES[0]
    scales: str = SCALES[0]
    weighting: str = WEIGHTINGS[0]

    allocates = True

    def __post_init__(self):
        try:
            classes = Widths(self.budgets, self.shares, self.assigned, self.seed)
        except (InputError, InputTypeError) as error:
            if error.argument != "widths":
                raise
            expected = error.expected.replace("bit widths or an omc.learning.Widths", "bits")
            expected = expected.replace("width", "budget")
            raise type(error)("budgets", expected, error.got, "such as (2, 4, 6, 8).") from None
        object.__setattr__(self, "budgets", classes.bits)
        object.__setattr__(self, "shares", classes.shares)
        object.__setattr__(self, "_classes", classes)
        if min(self.budgets) < NARROWEST:
            tip = "a sign and one bit are the least that a weight is stored in."
            raise InputError("budgets", f"at least {NARROWEST} bits", self.budgets, tip)
        checks.real("lasso", self.lasso, "a number from 0", lambda v: v >= 0)
        if self.threshold is not None:
            expected = "a density from 0 to below 1, or None"
            checks.real("threshold", self.threshold, expected, lambda v: 0 <= v < 1)
        choices = (("strategy", STRATEGIES), ("scales", SCALES), ("weighting", WEIGHTINGS))
        for argument, known in choices:
            checks.choice(argument, getattr(self, argument), known)

    @property
    def bits(self):
        """As `Widths.bits`, which traffic is counted by: the budgets."""
        return self.budgets

    @property
    def narrowest(self):
        """As `ClientWidths.narrowest`."""
        narrows = self.threshold is not None or self.strategy != "fixed"
        return NARROWEST if narrows else min(self.budgets)

    def index(self, client):
        """Position in `budgets` of a client's, int32 [], in TensorFlow ops."""
        return self._classes.index(client)

    def check(self, policy):
        """As `ClientWidths.check`.

        Raises:
            InputError: A format that is no integer, or has fewer bits than a budget; partial
                quantization; a lasso whose pulls nearest rounding would lose.
        """
        if policy.format.kind != "int" and not policy.format.is_fp32:
            tip = "such as 'INT8': planes are those of integers' magnitudes."
            raise InputError("widths", "a policy in INT2 to INT8", policy.format.name, tip)
        super().check(policy)
        if policy.fraction < 1:
            tip = "what it leaves in float32 is beyond every budget."
            raise InputError("fraction", "1 with FedMPQ", policy.fraction, tip)
        if self.lasso and policy.rounding != "stochastic":
            tip = "nearest rounding loses pulls of less than half a step; or lasso=0."
            raise InputError("rounding", "'stochastic' with a lasso", policy.rounding, tip)

    def narrowed(self, buffer, codec, own):
        """As `ClientWidths.narrowed`, at scales as `scales` says."""
        if self.scales == "fitted":
            return fitted_buffer(buffer, codec, own)
        return super().narrowed(buffer, codec, own)

    def codecs(self, codec):
        """What a variable may be stored in: the policy's format first, INT2 last."""
        self._classes.codecs(codec)  # Budgets above the format's bits are refused.
        widths = range(codec.format.bits, NARROWEST - 1, -1)
        return [integer_codec(codec, bits) for bits in widths]

    def initial(self, plan):
        """What the server knows of the clients' widths before the first round.

        Args:
            plan: `ModelPlan`.

        Returns:
            OrderedDict of int32 tensors: dropped [variables], of the last round; mean_bits
            [variables], of the last round's clients after reduction; widths [budgets, variables].
        """
        count = len(_sizes(plan))
        return collections.OrderedDict(
            dropped=tf.zeros([count], tf.int32),
            mean_bits=tf.fill([count], max(self.budgets)),
            widths=tf.tile(tf.constant(self.budgets)[:, tf.newaxis], [1, count]),
        )

    def places_of(self, plan, index):
        """As `ClientWidths.places_of`."""
        allocation = plan.allocation or self.initial(plan)
        return plan.policy.format.bits - allocation["widths"][index]

    def report_spec(self, plan):
        """tf.TensorSpec of what a client says of its widths: uint8, budget | widths | dropped."""
        return tf.TensorSpec([1 + 2 * len(_sizes(plan))], tf.uint8)

    def report(self, client, widths, dropped):
        """What a client says of its widths, uint8, as in `report_spec`.

        Args:
            client: Its id, an int32 scalar.
            widths: int32 [variables], after reduction.
            dropped: int32 [variables], planes.
        """
        budget = tf.constant(self.budgets)[self.index(client)]
        return tf.cast(tf.concat([[budget], widths, dropped], axis=0), tf.uint8)

    def admits(self, plan, report):
        """Whether a client says widths that it may have, a bool scalar.

        Its budget is one of `budgets`; its widths are from 2 bits on, and together with the planes
        that it dropped no wider than what the server gave to that budget.

        Args:
            plan: `ModelPlan` of the round.
            report: uint8, from anybody.
        """
        length = self.report_spec(plan).shape[0]
        budget, widths, dropped = self._parts_of(plan, report, tf.int32)
        own = tf.equal(budget, tf.constant(self.budgets))
        given = (plan.allocation or self.initial(plan))["widths"][tf.argmax(own)]
        return (
            tf.equal(tf.size(report), length)
            & tf.reduce_any(own)
            & tf.reduce_all((widths >= NARROWEST) & (widths + dropped <= given))
        )

    def influence(self, plan, report, weight):
        """A client's weight in the mean of changes, float32 []: p_k, or its examples.

        Args:
            plan: `ModelPlan`.
            report: As of `report`, admitted where the weight is not 0.
            weight: Examples, a float32 scalar.
        """
        if self.weighting == "examples":
            return weight
        budget, _, _ = self._parts_of(plan, report, tf.float32)
        return weight * budget[0]

    def terms(self, plan, report, weight):
        """A client's terms of the sums p, p * widths and p * dropped; float32 [1 + 2 variables].

        Args:
            plan: `ModelPlan`.
            report: As of `report`, admitted where the weight is not 0.
            weight: Examples, a float32 scalar.
        """
        budget, widths, dropped = self._parts_of(plan, report, tf.float32)
        return weight * budget * tf.concat([[1.0], widths, dropped], axis=0)

    def next(self, plan, allocation, terms, weights):
        """What the server knows after a round; as it was where nobody answered.

        Args:
            plan: `ModelPlan`.
            allocation: As of `initial`.
            terms: float32, the sum (or any multiple) of the clients' `terms`.
            weights: The server's weights after the round, one float32 tensor a variable.
        """
        total, widths, dropped = tf.split(terms, [1, *self._halves(plan)])
        bits = tf.cast(tf.round(tf.math.divide_no_nan(widths, total)), tf.int32)
        lost = tf.cast(tf.round(tf.math.divide_no_nan(dropped, total)), tf.int32)
        new = collections.OrderedDict(dropped=lost, mean_bits=bits, widths=allocation["widths"])
        if self.strategy == "pruning_growing":
            new["widths"] = self._pruned_and_grown(plan, bits, 1 + lost)
        elif self.strategy == "least_error":
            new["widths"] = self._of_least_error(plan, weights)
        answered = total[0] > 0.0
        return collections.OrderedDict(
            (name, tf.where(answered, value, allocation[name])) for name, value in new.items()
        )

    def _pruned_and_grown(self, plan, bits, delta):
        sizes, widest = _sizes(plan), plan.policy.format.bits
        limits = [budget * self.weights(plan) for budget in self.budgets]
        return tf.stack(
            [prune_and_grow(bits, delta, sizes, limit, NARROWEST, widest) for limit in limits]
        )

    def _of_least_error(self, plan, weights):
        sizes, widest = _sizes(plan), plan.policy.format.bits
        values = [weights[i] for i, planned in enumerate(plan.planned) if planned.partial]
        widths = range(NARROWEST, widest + 1)
        errors = tf.stack([relative_errors(value, widths) for value in values])
        limits = [budget * self.weights(plan) for budget in self.budgets]
        return tf.stack([least_error(errors, sizes, limit, NARROWEST) for limit in limits])

    def _parts_of(self, plan, report, dtype):
        """(budget [1], widths, dropped) of a report, filled up or cut to its length."""
        length = self.report_spec(plan).shape[0]
        report = tf.pad(report, [[0, tf.maximum(length - tf.size(report), 0)]])[:length]
        return tf.split(tf.cast(report, dtype), [1, *self._halves(plan)])

    def _halves(self, plan):
        return [len(_sizes(plan))] * 2

    def weights(self, plan):
        """How many weights share a budget (int)."""
        return sum(_sizes(plan))

    def share(self, plan, position):
        """n_l / sum n, of the variable at a position of the plan (float)."""
        return plan.codecs[position].count / self.weights(plan)


def _sizes(plan):
    """Weights of each variable that has widths, a tuple of ints."""
    return tuple(p.codec.count for p in plan.planned if p.partial)
