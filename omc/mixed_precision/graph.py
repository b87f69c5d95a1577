"""Pruning-growing in TensorFlow ops, for a server inside of a graph; `pruning_growing` in numpy."""

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
