"""Aggregator for central differential privacy: clipped changes and noise on their sum."""

import collections
import dataclasses
import secrets
from typing import Optional

import tensorflow as tf

from omc import checks
from omc.errors import InputError
from omc.learning.aggregators.base import Aggregated, Aggregator, check_number

_LEAST_NOISE = 0.2  # In clips; the accountant's grids grow with the inverse of its square.
_MOST_NOISE = 1e6  # In clips, that is looked for.
_NOISE_TOLERANCE = 1e-3
_VARIABLES = 2**24  # More than there are: each round and variable has a stream of its own.


@dataclasses.dataclass(frozen=True)
class PrivateMean(Aggregator):
    """DP-FedAvg (McMahan et al., ICLR 2018): the mean with (epsilon, delta) for each client.

        (sum_k c_k read(v_k) + N(0, (noise_multiplier clip)^2 I)) / clients,
        c_k = min(1, clip / ||read(v_k)||)

    The server clips what it *reads*, so the sensitivity holds whatever an uplink's rounding adds,
    and whatever a client sends. Every client counts once, over a number of clients that is fixed,
    so that the model does not show how many answered. It trusts the server, which sees each answer.
    The model alone is private: metrics get no noise, and are not to be published.

    Attributes:
        clip: Largest norm of a client's change over all variables, a number above 0.
        noise_multiplier: Standard deviation of the sum's noise, in clips, a number from 0 (0: none,
            and no privacy).
        clients: Clients that a round expects, a number above 0.
        seed: Of the noise, an int from 0 to 2^63 - 1. Whoever knows it can take the noise away
            again: None draws one from `secrets`; give one for an experiment to be repeated, and for
            nothing else.

    Raises:
        InputTypeError, InputError: Other settings.
    """

    clip: float
    noise_multiplier: float
    clients: float
    seed: Optional[int] = dataclasses.field(default=None, repr=False)

    always_steps = True  # Rounds that nobody answered have noise, too.

    def __post_init__(self):
        super().__post_init__()
        check_number("clip", self.clip)
        noise = self.noise_multiplier
        checks.real("noise_multiplier", noise, "a number from 0", lambda v: v >= 0)
        check_number("clients", self.clients)
        expected = "noise of noise_multiplier clip / clients, a number"
        checks.real("noise_multiplier", float(noise) * self.clip / self.clients, expected)
        seed = secrets.randbits(63) if self.seed is None else self.seed
        seed = checks.integer("seed", seed, "an integer from 0 to 2^63 - 1", 0, 2**63 - 1)
        object.__setattr__(self, "seed", seed)

    @classmethod
    def calibrated(cls, clip, clients, *, epsilon, delta, rounds, population, seed=None):
        """With the least noise that keeps a promise: (epsilon, delta) after all rounds.

        The noise is found with `dp_accounting`, to 1e-3 clips, which takes seconds, and is 0.2 at
        least, below which `epsilon` counts it for none. What then holds is `epsilon(rounds,
        population, delta)`, at most what was wanted.

        Args:
            clip, clients, seed: As the attributes.
            epsilon: Wanted at most, a number above 0.
            delta, rounds, population: As of the method `epsilon`.

        Returns:
            `PrivateMean`.

        Raises:
            InputError, InputTypeError: An argument outside of that, or an epsilon so small that no
                noise of up to 1e6 clips is shown to keep it.
        """
        import dp_accounting

        check_number("epsilon", epsilon)
        least = cls(clip, clients=clients, noise_multiplier=_LEAST_NOISE, seed=seed)
        rounds = _checked_rounds(rounds, population, delta, clients)

        def event(noise_multiplier):
            return least._event(noise_multiplier, rounds, population)

        def spent(noise_multiplier):
            # A coarser grid than that of `epsilon`, and so on the safe side of it.
            accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
            return accountant.compose(event(noise_multiplier)).get_epsilon(delta)

        # Renyi's accountant is quick and says more than enough noise.
        def roughly(noise_multiplier):
            accountant = dp_accounting.rdp.RdpAccountant()
            return accountant.compose(event(noise_multiplier)).get_epsilon(delta)

        if roughly(_LEAST_NOISE) <= epsilon:
            return least
        high = _first(lambda noise: roughly(noise) <= epsilon, 2 * _LEAST_NOISE)
        high = _first(lambda noise: spent(noise) <= epsilon, high or 1.0)
        if high is None:
            got, tip = epsilon, "fewer rounds, a larger population, or a larger epsilon."
            raise InputError("epsilon", f"what noise of {_MOST_NOISE:g} clips keeps", got, tip)
        low = high / 2
        while low > _LEAST_NOISE and spent(low) <= epsilon:
            low, high = low / 2, low
        low = max(low, _LEAST_NOISE)
        while high - low > _NOISE_TOLERANCE:
            middle = (low + high) / 2
            low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
        return dataclasses.replace(least, noise_multiplier=high)

    def epsilon(self, rounds, population, delta):
        """Epsilon after some rounds, by `dp_accounting`'s privacy loss distributions.

        Each round's clients are presumed to be drawn one by one with probability clients /
        population (Poisson sampling); neighbours differ by one client, added or removed.

        Args:
            rounds: Rounds of training, an int from 1.
            population: Clients that could have been drawn, a number of at least `clients`.
            delta: Between 0 and 1, below 1 / population for it to mean anything.

        Returns:
            Float; infinity without noise, and with noise of less than a fifth of the clip, which is
            as good as none.

        Raises:
            InputError, InputTypeError: An argument outside of that.
        """
        import dp_accounting

        rounds = _checked_rounds(rounds, population, delta, self.clients)
        if self.noise_multiplier < _LEAST_NOISE:
            return float("inf")
        accountant = dp_accounting.pld.PLDAccountant()
        accountant.compose(self._event(self.noise_multiplier, rounds, population))
        return float(accountant.get_epsilon(delta))

    def _event(self, noise_multiplier, rounds, population):
        """What the accountant is told of all rounds."""
        import dp_accounting

        event = dp_accounting.GaussianDpEvent(noise_multiplier)
        event = dp_accounting.PoissonSampledDpEvent(self.clients / population, event)
        return dp_accounting.SelfComposedDpEvent(event, rounds)

    def check(self, uplink, widths):
        """As `Aggregator.check`.

        Raises:
            InputError: An uplink of whole weights, or allocated widths, which clients report.
        """
        if uplink.averages == "weights":
            tip = "its clip bounds changes: choose an uplink of these, such as 'update'."
            raise InputError("aggregator", "another one for whole weights", self, tip)
        if widths is not None and widths.allocates:
            tip = "what clients report of their widths would get no noise; fixed `widths` do."
            raise InputError("aggregator", "another one where widths are allocated", self, tip)

    def zero(self, federation):
        """As `Aggregator.zero`: the sums, and counts of clients heard and clipped."""
        return [*(tf.zeros(s.shape, s.dtype) for s in federation.sum_specs), tf.zeros([2])]

    def add(self, federation, totals, admitted, bounds):
        """As `Aggregator.add`."""
        *sums, counts = totals
        norm = tf.linalg.global_norm(admitted.values)
        factor = tf.minimum(1.0, tf.math.divide_no_nan(self.clip, norm))  # 0 of nothing is nothing.
        flags = tf.cast(tf.stack([admitted.weight > 0.0, norm > self.clip]), tf.float32)
        sums = [total + factor * value for total, value in zip(sums, admitted.values)]
        return [*sums, counts + flags]

    def finish(self, federation, totals, state, round_number):
        """As `Aggregator.finish`."""
        *sums, counts = totals
        deviation = self.noise_multiplier * self.clip
        secret, number = tf.constant(self.seed, tf.int64), tf.cast(round_number, tf.int64)
        mean = []
        for index, total in enumerate(sums):
            # All bits of the seed: `fold_in` would leave 32 of them, which can be tried out.
            stream = tf.stack([secret, number * _VARIABLES + index])
            noise = tf.random.stateless_normal(total.shape, stream, stddev=deviation, alg="philox")
            mean.append((total + noise) / self.clients)
        measurements = collections.OrderedDict(
            clipped=tf.cast(counts[1], tf.int32), noise_stddev=tf.constant(float(deviation))
        )
        return Aggregated(mean, counts[0], state, measurements)


def _first(enough, noise):
    """The first of noise, 2 noise, 4 noise, .. that is enough; None where none of those is."""
    while noise <= _MOST_NOISE:
        if enough(noise):
            return noise
        noise *= 2
    return None


def _checked_rounds(rounds, population, delta, clients):
    expected = f"a number of at least the {clients} of a round"
    checks.real("population", population, expected, lambda v: v >= clients)
    checks.real("delta", delta, "a number between 0 and 1", lambda v: 0 < v < 1)
    return checks.integer("rounds", rounds, "an int of at least 1", 1)
