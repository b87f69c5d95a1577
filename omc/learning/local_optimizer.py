"""The clients' optimizer, one variable after the other."""

import tensorflow as tf


class LocalOptimizer:
    """A TFF optimizer that steps one variable after the other: one update is dense at a time.

    Most optimizers move weights by something that depends on gradients only. Which ones do is found
    by trying; for them nothing has to be decoded: their step from zero is the update.
    """

    def __init__(self, optimizer):
        """Wraps an optimizer; call it where TensorFlow is eager.

        Args:
            optimizer: `tff.learning.optimizers.Optimizer`.
        """
        self._optimizer = optimizer
        none, gradient, start = tf.zeros([2]), tf.constant([0.5, -0.25]), tf.constant([64.0, -32.0])
        slot = optimizer.initialize(tf.TensorSpec([2], tf.float32))
        _, update = optimizer.next(slot, none, gradient)
        _, moved = optimizer.next(slot, start, gradient)
        _, decayed = optimizer.next(slot, start, none)  # However little the decay is.
        self._reads_weights = bool(
            tf.reduce_any(tf.abs(moved - start - update) > 1e-4) or tf.reduce_any(decayed != start)
        )

    def initialize(self, variable):
        """State of the optimizer for one variable."""
        return self._optimizer.initialize(tf.TensorSpec(variable.shape, variable.dtype))

    def apply(self, slot, variable, gradient):
        """Takes one step of one variable and returns the next state."""
        if gradient is None:
            return slot
        gradient = tf.convert_to_tensor(gradient)
        if not self._reads_weights:
            slot, update = self._optimizer.next(slot, tf.zeros_like(gradient), gradient)
            variable.assign_add(update)
            return slot
        with tf.control_dependencies([gradient]):
            value = variable.read_value()
        slot, updated = self._optimizer.next(slot, value, gradient)
        variable.assign_add(updated - value)
        return slot
