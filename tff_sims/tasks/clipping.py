"""An optimizer whose gradients are clipped, variable by variable."""

import tensorflow as tf
import tensorflow_federated as tff


class Clipped(tff.learning.optimizers.Optimizer):
    """Clips each variable's gradient to a largest norm, then hands it to another optimizer.

        g <- g * min(1, norm / |g|_2)

    By variable, and not over all of them at once: a client that holds one dense update at a time
    does not know the norm over all (ours; recurrent models and Conformers use the global norm).

    Args:
        optimizer: `tff.learning.optimizers.Optimizer`.
        norm: Largest norm of a variable's gradient, float above 0.
    """

    def __init__(self, optimizer, norm):
        self._optimizer, self._norm = optimizer, norm

    def initialize(self, specs):
        """The other optimizer's state."""
        return self._optimizer.initialize(specs)

    def next(self, state, weights, gradients):
        """One step of the other optimizer, by clipped gradients."""

        def clip(gradient):
            return None if gradient is None else tf.clip_by_norm(gradient, self._norm)

        return self._optimizer.next(state, weights, tf.nest.map_structure(clip, gradients))

    def get_hparams(self, state):
        """The other optimizer's."""
        return self._optimizer.get_hparams(state)

    def set_hparams(self, state, hparams):
        """The other optimizer's."""
        return self._optimizer.set_hparams(state, hparams)
