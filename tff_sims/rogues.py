"""Rogue clients: they train like all others, and then send what they may not."""

import dataclasses

import tensorflow as tf
import tensorflow_federated as tff

from omc.learning import models
from omc.learning.client_works import train_client
from omc.learning.uplinks import Grid, Rotated
from omc.learning.uplinks.base import fold_in

_STREAM = 4  # Of random numbers; those below are omc.learning's.
_TRAILER = 8  # Bytes of a buffer's scale and offset.


@dataclasses.dataclass(frozen=True)
class RogueClients:
    """Client work in which each client is rogue in a round with some probability.

    A rogue client draws one of these: it sends NaN or values of 1e30 (through the scales of buffers
    of codes; where these have none it sends codes as good as any), an answer to another round, a
    negative number of examples, its coded streams cut in half, or, under FedMPQ, widths that it may
    not have. So `build_weighted_fed_avg(..., client_work=RogueClients(0.1))` shows what a server
    does about them.

    Attributes:
        share: Probability of a client's being rogue in a round.
        seed: Of the draws, an int.
    """

    share: float
    seed: int = 0

    def __call__(self, federation, payload, held, choices, dataset, round_number, client):
        """As `omc.learning.client_works.train_client`."""
        result, metrics, counts = train_client(
            federation, payload, held, choices, dataset, round_number, client
        )
        words = tf.constant([self.seed % 2**31, _STREAM], tf.int32)
        words = fold_in(fold_in(words, round_number), client)
        draws = tf.random.stateless_uniform([2], words, alg="philox")
        kinds = [_not_finite, _too_large, _of_another_round, _of_negative_weight]
        kinds += [_of_other_widths] if federation.plan.allocates else []
        lengths = [spec.shape.rank and spec.shape[0] is None for spec in federation.answer_specs]
        kinds += [_cut] if any(lengths) else []

        def sent(kind):
            def tampered():
                answer = list(result.update.values())
                answer, weight = kind(federation, answer, result.update_weight)
                shapes = [spec.shape for spec in federation.answer_specs]
                return [_of_shape(t, s) for t, s in zip(answer, shapes)], weight

            return tampered

        place = tf.cast(draws[1] * len(kinds), tf.int32)
        place = tf.where(draws[0] < self.share, place, len(kinds))
        answer, weight = tf.switch_case(place, [*map(sent, kinds), sent(_honest)])
        return tff.learning.templates.ClientResult(models.payload(answer), weight), metrics, counts


def _honest(federation, answer, weight):
    return answer, weight


def _not_finite(federation, answer, weight):
    return _scaled(federation, answer, float("nan")), weight


def _too_large(federation, answer, weight):
    return _scaled(federation, answer, 1e30), weight


def _scaled(federation, answer, value):
    """An answer whose scales, or floats, or integers on a grid, are some value."""
    octets = tf.reshape(tf.bitcast(tf.fill([_TRAILER // 4], value), tf.uint8), [-1])
    sent = len(federation.uplink.specs(federation.plan.trainable))

    def scaled(tensor):
        if tensor.dtype == tf.float32:
            return tf.fill(tf.shape(tensor), value)
        if isinstance(federation.uplink, Grid):
            return tf.fill(tf.shape(tensor), tensor.dtype.max)
        if not _octets(tensor):
            return tensor
        if isinstance(federation.uplink, Rotated):  # After the seed.
            front, back = tensor[:_TRAILER], tensor[2 * _TRAILER :]
            return tf.concat([front, octets, back], axis=0)[: tf.size(tensor)]
        return tf.concat([tensor[:-_TRAILER], octets[: tf.size(tensor)]], axis=0)

    return [*map(scaled, answer[:sent]), *answer[sent:]]


def _of_another_round(federation, answer, weight):
    return [*answer[:-1], answer[-1] - 1], weight


def _of_negative_weight(federation, answer, weight):
    return answer, -1e6 * (weight + 1.0)


def _of_other_widths(federation, answer, weight):
    *sent, report, stamp = answer
    return [*sent, tf.fill(tf.shape(report), tf.constant(255, tf.uint8)), stamp], weight


def _cut(federation, answer, weight):
    specs = federation.answer_specs
    return [
        tensor[: tf.size(tensor) // 2] if spec.shape.rank and spec.shape[0] is None else tensor
        for tensor, spec in zip(answer, specs)
    ], weight


def _octets(tensor):
    return tensor.dtype == tf.uint8


def _of_shape(tensor, shape):
    """With no more of its shape known than a specification says, so that branches agree."""
    if shape.is_fully_defined():
        return tf.ensure_shape(tensor, shape)
    return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=shape)
