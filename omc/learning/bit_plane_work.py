"""What a client does for FedMPQ beside training: the lasso in its steps, the reduction after."""

import tensorflow as tf

from omc.learning.uplinks.base import one_at_a_time
from omc.mixed_precision.bit_planes import lasso_gradient, reduce_buffer

EVERY = 32
"""Steps of training after which those along the lasso are taken, all at once (ours)."""


class BitPlaneWork:
    """Bit planes of one client's variables; made in graph code, on the variables that train."""

    def __init__(self, plan, variables):
        """Computes nothing yet.

        Args:
            plan: `ModelPlan` whose widths are a `FedMPQ`.
            variables: The model's variables, in the plan's order.
        """
        self._plan, self._widths, self._variables = plan, plan.widths, variables
        self._places = [i for i, planned in enumerate(plan.planned) if planned.partial]

    def pull(self, slots, optimizer, steps):
        """Takes the steps along the lasso's gradient that are due: one of so many times the length.

        Nothing else is alive then of a training step, so that it costs no peak.

        Args:
            slots: Tuple of the optimizer's states, one a trainable variable.
            optimizer: `LocalOptimizer`.
            steps: How many, int32 [].

        Returns:
            The states afterwards.
        """
        slots, lasso = list(slots), self._widths.lasso * tf.cast(steps, tf.float32)

        def pulled(place):
            codec, variable = self._plan.codecs[place], self._variables[place]
            buffer = self._buffer(place)
            share = self._widths.share(self._plan, place)
            gradient = lasso_gradient(codec, buffer, share * lasso)
            slots[place] = optimizer.apply(slots[place], variable, gradient)
            return tf.size(self._buffer(place))  # Once it is stored.

        one_at_a_time([p for p in self._places if p < self._plan.num_trainable], pulled)
        return tuple(slots)

    @property
    def pulls(self):
        """Whether there is a lasso."""
        return self._widths.lasso > 0

    def widths(self):
        """Bits that each variable is held in now, int32 [variables]."""
        return tf.stack([self._bits(place) for place in self._places])

    def reduce(self):
        """Precision reduction of all that trains; returns the planes dropped, int32 [variables]."""

        def reduced(place):
            if self._widths.threshold is None or place >= self._plan.num_trainable:
                return tf.constant(0)
            codec, threshold = self._plan.codecs[place], self._widths.threshold
            buffer, dropped = reduce_buffer(codec, self._buffer(place), threshold)
            stored = self._variables[place].buffer.assign(buffer, read_value=False)
            with tf.control_dependencies([stored]):  # Else the next variable's planes lie beside.
                return tf.identity(dropped)

        return tf.stack(one_at_a_time(self._places, reduced))

    def code_bits(self):
        """Bits of all codes with widths that the client holds now, int64 []."""
        sizes = tf.constant([self._plan.codecs[p].count for p in self._places], tf.int64)
        return tf.reduce_sum(sizes * tf.cast(self.widths(), tf.int64))

    def _bits(self, place):
        codec = self._plan.codecs[place]
        if not hasattr(codec, "codecs"):  # INT2 is the policy's own.
            return tf.constant(codec.format.bits)
        bits = tf.constant([own.format.bits for own in codec.codecs])
        return bits[codec.index(self._buffer(place))]

    def _buffer(self, place):
        return self._variables[place].buffer.read_value()
