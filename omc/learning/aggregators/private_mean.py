"""Aggregator for central differential privacy: clipped changes and noise on their sum."""

import collections
import dataclasses
import secrets
from typing import Optional

import tensorflow as tf

from omc.errors import InputError, InputTypeError
from omc.learning.aggregators.base import Aggregated, Aggregator, check_number

_LEAST_NOISE = 0.05  # In clips; the accountant's grids grow with the inverse of its square.
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
        if isinstance(self.noise_multiplier, bool) or self.noise_multiplier != 0:
            check_number("noise_multiplier", self.noise_multiplier, "a number from 0")
        check_number("clients", self.clients)
        if self.seed is None:
            object.__setattr__(self, "seed", secrets.randbits(63))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputTypeError("seed", "an integer", self.seed)
        if not 0 <= self.seed < 2**63:
            raise InputError("seed", "an integer from 0 to 2^63 - 1", self.seed)

    @classmethod
    def calibrated(cls, clip, clients, *, epsilon, delta, rounds, population, seed=None):
        """With the least noise that keeps a promise: (epsilon, delta) after all rounds.

        The noise is found by `dp_accounting.calibrate_dp_mechanism`, to 1e-3 clips, which takes
        seconds, and is 0.05 at least, below which `epsilon` counts it for none. What then holds is
        `epsilon(rounds, population, delta)`, at most what was wanted.

        Args:
            clip, clients, seed: As the attributes.
            epsilon: Wanted at most, a number above 0.
            delta, rounds, population: As of the method `epsilon`.

        Returns:
            `PrivateMean`.

        Raises:
            InputError, InputTypeError: An argument outside of that.
        """
        import dp_accounting

        check_number("epsilon", epsilon)
        least = cls(clip, clients=clients, noise_multiplier=_LEAST_NOISE, seed=seed)
        _check_rounds(rounds, population, delta, clients)

        def event(noise_multiplier):
            return least._event(noise_multiplier, rounds, population)

        def calibrated(accountant, bracket):
            return dp_accounting.calibrate_dp_mechanism(
                accountant, event, epsilon, delta, bracket, tol=_NOISE_TOLERANCE
            )

        # Renyi's accountant is quick and says more than enough noise.
        renyi = dp_accounting.rdp.RdpAccountant
        if renyi().compose(event(_LEAST_NOISE)).get_epsilon(delta) <= epsilon:
            return least
        bracket = dp_accounting.LowerEndpointAndGuess(_LEAST_NOISE, 1.0)
        enough = calibrated(renyi, bracket)
        # A coarser grid than that of `epsilon`, and so on the safe side of it.
        grid = {"value_discretization_interval": 1e-3}
        bracket = dp_accounting.ExplicitBracketInterval(enough / 2, enough)
        noise = calibrated(lambda: dp_accounting.pld.PLDAccountant(**grid), bracket)
        return dataclasses.replace(least, noise_multiplier=noise)

    def epsilon(self, rounds, population, delta):
        """Epsilon after some rounds, by `dp_accounting`'s privacy loss distributions.

        Each round's clients are presumed to be drawn one by one with probability clients /
        population (Poisson sampling); neighbours differ by one client, added or removed.

        Args:
            rounds: Rounds of training, an int from 1.
            population: Clients that could have been drawn, a number of at least `clients`.
            delta: Between 0 and 1, below 1 / population for it to mean anything.

        Returns:
            Float; infinity without noise, and with noise of less than a 20th of the clip, which is
            as good as none.

        Raises:
            InputError, InputTypeError: An argument outside of that.
        """
        import dp_accounting

        _check_rounds(rounds, population, delta, self.clients)
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


def _check_rounds(rounds, population, delta, clients):
    if isinstance(rounds, bool) or not isinstance(rounds, int):
        raise InputTypeError("rounds", "an int", rounds)
    if rounds < 1:
        raise InputError("rounds", "at least 1", rounds)
    check_number("population", population)
    if population < clients:
        raise InputError("population", f"at least the {clients} of a round", population)
    check_number("delta", delta, "a number between 0 and 1")
    if delta >= 1:
        raise InputError("delta", "a number between 0 and 1", delta)
