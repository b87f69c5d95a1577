"""Aggregators "trimmed_mean" and "median": of every weight's values the middle ones count."""

import collections
import dataclasses
import math

import tensorflow as tf

from omc import checks
from omc.learning.aggregators.base import Aggregated, Aggregator
from omc.learning.uplinks.base import one_at_a_time


@dataclasses.dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """For each weight, the mean without its largest and smallest values (Yin et al., ICML 2018).

        sort v_1 <= ... <= v_n,   mean(v_(b+1), ..., v_(n-b)),   b = floor(share n)

    Every client counts once, whatever its examples: what it says of these is its own word. It
    holds against fewer than `share` of the clients, also where nothing they send breaks a contract;
    but what FedMPQ's clients report of their widths, within its contract, enters as a mean.
    The server keeps a round's answers as they were sent, packed, and decodes one variable of all of
    them at a time.

    Attributes:
        share: Of clients that are left out at either end, from 0 to below 0.5.

    Raises:
        InputTypeError, InputError: Another `share`.
    """

    share: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        tip = "as many are left out at either end; Median() keeps the middle alone."
        expected = "a number from 0 to below 0.5"
        checks.real("share", self.share, expected, lambda v: 0 <= v < 0.5, tip)

    def trimmed(self, count):
        """How many values are left out at either end of `count` (int32 scalars)."""
        # In float64, so that 0.1 of 10 clients are one.
        exact = tf.cast(count, tf.float64) * self.share
        cut = tf.cast(tf.floor(exact + 1e-9), tf.int32)
        return tf.minimum(cut, tf.maximum(count - 1, 0) // 2)

    def zero(self, federation):
        """As `Aggregator.zero`: the answers, serialized, and the sum of clients' widths."""
        answers = [_growing() for _ in federation.uplink.specs(federation.plan.trainable)]
        reports = federation.sum_specs[len(federation.plan.trainable) :]
        return [*answers, *(tf.zeros(spec.shape, spec.dtype) for spec in reports)]

    def add(self, federation, totals, admitted, bounds):
        """As `Aggregator.add`."""
        heard, count = admitted.weight > 0.0, len(admitted.tensors)
        kept = []
        for strings, tensor in zip(totals[:count], admitted.tensors):
            one = tf.boolean_mask([tf.io.serialize_tensor(tensor)], [heard])
            kept.append(tf.concat([strings, one], axis=0))
        if admitted.report is not None:
            plan = federation.plan
            terms = plan.widths.terms(plan, admitted.report, tf.cast(heard, tf.float32))
            kept.append(totals[count] + terms)
        return kept

    def merge(self, left, right):
        """As `Aggregator.merge`."""
        return [
            tf.concat([a, b], axis=0) if a.dtype == tf.string else a + b
            for a, b in zip(left, right)
        ]

    def finish(self, federation, totals, state, round_number):
        """As `Aggregator.finish`."""
        plan, specs = federation.plan, federation.uplink.specs(federation.plan.trainable)
        answers, reports = totals[: len(specs)], totals[len(specs) :]
        count = tf.size(answers[0])

        def read(place):
            def of_client(client):
                tensors = [
                    tf.ensure_shape(tf.io.parse_tensor(strings[client], spec.dtype), spec.shape)
                    for strings, spec in zip(answers, specs)
                ]
                return federation.uplink.decode_at(plan.trainable, tensors, place)

            shape = plan.trainable[place].shape
            values = tf.map_fn(
                of_client,
                tf.range(count),
                fn_output_signature=tf.TensorSpec(shape, tf.float32),
                parallel_iterations=1,
            )
            return self._middle(values, count)

        mean = one_at_a_time(range(len(plan.trainable)), read)
        measurements = collections.OrderedDict(trimmed=2 * self.trimmed(count))
        return Aggregated([*mean, *reports], tf.cast(count, tf.float32), state, measurements)

    def _middle(self, values, count):
        """Mean over axis 0 of all but the outer values; zeros where there are none."""
        cut = self.trimmed(count)
        inner = tf.sort(values, axis=0)[cut : count - cut]
        total, number = tf.reduce_sum(inner, axis=0), tf.cast(count - 2 * cut, tf.float32)
        return tf.math.divide_no_nan(total, number)


@dataclasses.dataclass(frozen=True)
class Median(TrimmedMean):
    """For each weight, the median of the clients' values; of an even number, the middle two's mean.

    As `TrimmedMean` otherwise.
    """

    share: float = dataclasses.field(default=math.nextafter(0.5, 0.0), init=False)

    def trimmed(self, count):
        """As `TrimmedMean.trimmed`: all but one or two."""
        return tf.maximum(count - 1, 0) // 2


def _growing():
    """No strings yet, of a length that is not known to the graph."""
    return tf.raw_ops.PlaceholderWithDefault(input=tf.constant([], tf.string), shape=[None])
