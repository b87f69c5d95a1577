"""Uplink "dithered": uniform quantization under a dither that both ends know, entropy coded."""

import dataclasses

import tensorflow as tf

from omc import checks
from omc.coding import dither
from omc.coding import graph as coding
from omc.learning.uplinks.base import Answer, Uplink, fold_in, one_at_a_time, squared, total

STREAM_WEIGHTS = 1 << 17
"""Small variables share coded streams of up to so many weights."""


@dataclasses.dataclass(frozen=True)
class Dithered(Uplink):
    """A client sends q = round(x / D + t), the server reads (q - t) D; x is the change w' - w.

    t is uniform in -1/2 .. 1/2, of a seed that both ends know (subtractive dither), so that the
    error is uniform in -D/2 .. D/2 whatever x is: unbiased, of mean square D^2 / 12, half of what
    stochastic rounding leaves. q is coded given t, which tells to which side x was rounded. One D
    serves all variables (reverse water-filling: the least error for all bits together), from the
    error that is to be left in the mean over the cohort,

        D = sqrt(12 clients target_error mean(x^2)),

    the rule is ours; uniform quantization with entropy coding is near the best known (Mitchell et
    al., 2201.02664). Biases and all else that trains are quantized alike. Needs the native ops
    where clients train and where the server sums.

    Attributes:
        clients: Clients whose answers are averaged in a round, an int: the more, the coarser each
            may be.
        target_error: Squared error of the mean, relative to the mean square of one client's change.

    Raises:
        InputTypeError: Not an int, not a number.
        InputError: Less than one client, or an error that is not above 0.
    """

    clients: int = 1
    target_error: float = 0.05
    needs_native_ops = True

    def __post_init__(self):
        clients = checks.integer("clients", self.clients, "an int, 1 .. 10^9", 1, 10**9)
        object.__setattr__(self, "clients", clients)
        # With less, codes of large changes are beyond int32; with more, steps beyond float32.
        expected = "a number from 1e-10 to 1e+6, such as 0.05"
        checks.real("target_error", self.target_error, expected, lambda v: 1e-10 <= v <= 1e6)

    def specs(self, variables):
        """As `Uplink.specs`: the seed, the step D, and the coded streams."""
        streams = [tf.TensorSpec([None], tf.uint8) for _ in _streams(variables)]
        return [tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.float32), *streams]

    def encode(self, results, seed):
        """As `Uplink.encode`."""
        variables = [result.described for result in results]
        energies = one_at_a_time(results, lambda result: squared(_finite(result.change())))
        energy = total(energies)
        count = float(sum(variable.count for variable in variables))
        step = tf.sqrt(12.0 * self.clients * self.target_error * energy / count)
        step = tf.where(tf.math.is_finite(step), step, 0.0)

        def encode_stream(positions):
            index, places = positions
            changes = [tf.reshape(results[place].change(), [-1]) for place in places]
            change = tf.concat(changes, axis=0)
            symbols, contexts, error = dither.quantize(change, fold_in(seed, index), step)
            return coding.encode(symbols, contexts), error

        streams = one_at_a_time(list(enumerate(_streams(variables))), encode_stream)
        tensors = [seed, step, *(stream for stream, _ in streams)]
        return Answer(tensors, total(error for _, error in streams), energy)

    def decode(self, variables, tensors):
        """As `Uplink.decode`."""
        return self._decoded(variables, tensors, coding.decode)

    def try_decode(self, variables, tensors):
        """As `Uplink.try_decode`: damaged streams are found out while they are decoded."""
        found = []

        def decode(stream, shape, contexts):
            symbols, sound = coding.try_decode(stream, shape, contexts)
            found.append(sound)
            return symbols

        values = self._decoded(variables, tensors, decode)
        return tf.reduce_all(tf.stack(found)), values

    def _decoded(self, variables, tensors, decode):
        seed, step, *streams = tensors
        read = []
        for index, (places, stream) in enumerate(zip(_streams(variables), streams)):
            sizes = [variables[place].count for place in places]
            words = fold_in(seed, index)
            symbols = decode(stream, (sum(sizes),), dither.contexts(words, sum(sizes)))
            flat = tf.split(dither.read(symbols, words, step), sizes)
            read += [tf.reshape(f, variables[place].shape) for f, place in zip(flat, places)]
        return read


def _streams(variables):
    """Positions of the variables that share each coded stream, a list of lists."""
    streams, room = [], 0
    for place, variable in enumerate(variables):
        if variable.count > room:
            streams.append([])
            room = STREAM_WEIGHTS
        streams[-1].append(place)
        room -= variable.count
    return streams


def _finite(values):
    return tf.where(tf.math.is_finite(values), values, 0.0)
