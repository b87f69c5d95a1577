"""Gradient descent by steps of a fixed size, variable by variable, without any state."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

_RATE = tff.learning.optimizers.LEARNING_RATE_KEY


class NormalizedSgd(tff.learning.optimizers.Optimizer):
    """SGD whose gradients are normalised by variable.

        w <- w - rate * g / (rms(g) + 1e-6),  rms(g) = sqrt(mean(g^2))

    Like Adam it takes steps of about `rate` in every weight, however large the gradients are: CTC's
    begin at tens and end near zero. Unlike Adam it keeps no moments, which would take a client
    twice the memory of its dense weights (ours; layer-wise normalisation as in LARS, arXiv
    1708.03888). By variable, and not over all of them at once: a client that holds one dense update
    at a time knows no norm over all.

    Args:
        rate: Learning rate, float above 0.
    """

    def __init__(self, rate):
        self._rate = rate

    def initialize(self, specs):
        """State: the learning rate alone."""
        del specs
        return collections.OrderedDict([(_RATE, self._rate)])

    def next(self, state, weights, gradients):
        """One step; a gradient of None leaves its variable."""
        gradients = tff.learning.optimizers.handle_indexed_slices_gradients(gradients)

        def move(weight, gradient):
            if gradient is None:
                return weight
            rms = tf.sqrt(tf.reduce_mean(tf.square(gradient)))
            return weight - tf.cast(state[_RATE], gradient.dtype) * gradient / (rms + 1e-6)

        return state, tf.nest.map_structure(move, weights, gradients)

    def get_hparams(self, state):
        """The learning rate, by TFF's key."""
        return collections.OrderedDict([(_RATE, state[_RATE])])

    def set_hparams(self, state, hparams):
        """State with another learning rate."""
        return collections.OrderedDict(state, **hparams)
