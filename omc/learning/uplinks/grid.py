"""Uplink "grid": integer codes on a grid and under a dither that all clients have in common."""

import dataclasses

import tensorflow as tf

from omc import checks
from omc.learning.uplinks.base import VariableUplink


@dataclasses.dataclass(frozen=True)
class Grid(VariableUplink):
    """A client sends q = round(x / D + t), integers that can be summed before they are read.

        mean_k(x_k) is read as D (sum_k q_k / K - t),      D = bound / (2^(bits - 1) - 1)

    x is the change w' - w, saturated at +-bound; t is uniform in -1/2 .. 1/2, of a seed of the
    round that all clients have in common: so each error is uniform and unbiased, and a server that
    sees the sum of the codes alone (secure sum) can read it. The codes are int32, 4 bytes a weight;
    a protocol of secure summation packs them. (Dither: as in "dithered"; in common: ours.)

    Attributes:
        bound: Largest change of a weight, a number above 0.
        bits: Of a code, an int from 2 to 24.

    Raises:
        InputTypeError, InputError: Other settings.
    """

    bound: float = 0.1
    bits: int = 8

    common_seed = True

    def __post_init__(self):
        object.__setattr__(
            self, "bits", checks.integer("bits", self.bits, "an int, 2 .. 24", 2, 24)
        )
        # Its step, and a sum of up to 2^31 bounds, have to be numbers in float32, too.
        expected, most = "a number from 1e-30 to 1e+28", (1e-30, 1e28)
        bound = checks.real("bound", self.bound, expected, lambda v: most[0] <= v <= most[1])
        object.__setattr__(self, "bound", bound)

    @property
    def most(self):
        """Largest magnitude of a code (int)."""
        return 2 ** (self.bits - 1) - 1

    @property
    def step(self):
        """D, a float."""
        return self.bound / self.most

    def spec(self, variable):
        """As `VariableUplink.spec`: the seed's two words and the codes."""
        return tf.TensorSpec([2 + variable.count], tf.int32)

    def encode_variable(self, result, change, seed):
        """As `VariableUplink.encode_variable`."""
        change = tf.where(tf.math.is_finite(change), change, 0.0)
        bounded = tf.clip_by_value(change, -self.bound, self.bound) / self.step
        codes = tf.round(bounded + self._dither(change.shape, seed))
        codes = tf.clip_by_value(codes, -self.most, self.most)
        return tf.concat([seed, tf.cast(tf.reshape(codes, [-1]), tf.int32)], axis=0)

    def decode_variable(self, variable, tensor):
        """As `VariableUplink.decode_variable`."""
        return self.mean_of(variable, tensor[2:], tf.constant(1.0), tensor[:2])

    def try_decode(self, variables, tensors):
        """As `Uplink.try_decode`: codes beyond the grid are none."""
        codes = tf.concat([tensor[2:] for tensor in tensors], axis=0)
        within = tf.reduce_all((codes >= -self.most) & (codes <= self.most))
        return within, self.decode(variables, tensors)

    def mean_of(self, variable, codes, clients, seed):
        """Mean over clients of what they sent, out of the sum of their codes.

        Args:
            variable: `TrainableVariable`.
            codes: int32 [weights], sum of codes without the words before them.
            clients: K, a float32 scalar; with 0 the mean is 0.
            seed: int32 [2], of the variable and the round.
        """
        sums = tf.reshape(tf.cast(codes, tf.float32), variable.shape)
        mean = tf.math.divide_no_nan(sums, clients) - self._dither(variable.shape, seed)
        return tf.where(clients > 0.0, mean * self.step, 0.0)

    def _dither(self, shape, seed):
        return tf.random.stateless_uniform(shape, seed, alg="philox") - 0.5
