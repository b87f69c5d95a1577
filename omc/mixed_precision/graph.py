"""Allocations in TensorFlow ops, for a server inside of a graph.

`pruning_growing` and `greedy` do the same in numpy, for any formats and budgets.
"""

import numpy as np
import tensorflow as tf


def prune_and_grow(start, delta, counts, limit, narrowest, widest):
    """Widths of variables, moved to a budget as `PruningGrowing` moves them.

        pi_l = n_l delta_l,      sum_l n_l bits_l <= limit

    While the budget is exceeded, the variable of the largest pi loses a bit, down to `narrowest`,
    then the one of the next largest; then, while the budget allows, the variable of the smallest
    pi gains a bit, up to `widest`, and so on. A step that does not fit is not taken, and the first
    of equals comes first.

    Args:
        start: int32 [variables], bits to begin with; beyond the limits they count as at them.
        delta: int32 [variables], at least 0: 1 + bits that clients dropped in each.
        counts: Weights of each variable, ints.
        limit: Most bits of all weights together, an int (or int64 []) from
            `narrowest * sum(counts)` on.
        narrowest, widest: Bits, ints.

    Returns:
        int32 [variables].
    """
    sizes = tf.constant(counts, tf.int64)
    priority = sizes * tf.cast(delta, tf.int64)
    bits = tf.cast(tf.clip_by_value(start, narrowest, widest), tf.int64)

    def moved(order, step):
        def body(place, bits):
            index = order[place]
            left = limit - tf.reduce_sum(sizes * bits)
            change = step(left, sizes[index], bits[index])
            own = tf.cast(tf.equal(tf.range(len(counts)), index), tf.int64)
            return place + 1, bits + own * change

        return tf.while_loop(lambda place, _: place < len(counts), body, [0, bits])[1]

    def pruned(left, size, own):  # Floor division rounds up what is lost.
        return tf.clip_by_value(left // size, narrowest - own, tf.zeros_like(own))

    def grown(left, size, own):
        return tf.clip_by_value(left // size, tf.zeros_like(own), widest - own)

    bits = moved(tf.argsort(-priority, stable=True), pruned)
    bits = moved(tf.argsort(priority, stable=True), grown)
    return tf.cast(bits, tf.int32)


def least_error(errors, counts, limit, narrowest):
    """Widths of variables under a budget at which the sum of their errors is small (greedy).

        sum_l n_l bits_l <= limit

    From the narrowest width on, the variable gains bits whose error falls the most for what they
    cost, (error_l(b) - error_l(b + k)) / (n_l k), as long as some fit that do not raise it. As many
    at once as is best (the convex hull): of weights that are nearly ternary, bits 3 and 4 may gain
    nothing, and bit 5 a lot. The sum is above the least that there is by no more than one such
    step.

    Args:
        errors: float32 [variables, widths], from `narrowest` bits on, in steps of one bit.
        counts: Weights of each variable, ints.
        limit: Most bits of all weights together, an int (or int64 []) from
            `narrowest * sum(counts)` on.
        narrowest: Bits, an int.

    Returns:
        int32 [variables].
    """
    sizes, limit = tf.constant(counts, tf.int64), tf.cast(limit, tf.int64)
    widths = errors.shape[1]
    more = np.arange(widths)[np.newaxis] - np.arange(widths)[:, np.newaxis]  # [from, to]
    gains = (errors[:, :, np.newaxis] - errors[:, np.newaxis]) / np.maximum(more, 1)
    gains /= tf.cast(sizes, tf.float32)[:, np.newaxis, np.newaxis]

    def offered(steps):
        """What each variable's moves to each width gain a bit, -1 where there is none."""
        left = limit - tf.reduce_sum(sizes * tf.cast(steps + narrowest, tf.int64))
        further = tf.range(widths) - steps[:, np.newaxis]
        fits = sizes[:, np.newaxis] * tf.cast(further, tf.int64) <= left
        return tf.where(fits & (further > 0), tf.gather(gains, steps, batch_dims=1), -1.0)

    def widened(steps):
        best = tf.argmax(tf.reshape(offered(steps), [-1]), output_type=tf.int32)
        chosen = tf.one_hot(best // widths, len(counts), on_value=True, off_value=False)
        return (tf.where(chosen, best % widths, steps),)

    start = tf.zeros([len(counts)], tf.int32)
    (steps,) = tf.while_loop(lambda s: tf.reduce_any(offered(s) >= 0.0), widened, [start])
    return steps + narrowest
