"""Differential privacy: clipped sums, their noise, and the accountant's epsilon."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from omc.errors import InputError
from omc.learning.aggregators import PrivateMean
from tests.learning.answers import aggregate, cohort, federation, honest, norm


def test_noise_is_on_the_sum_and_the_sum_is_of_clipped_changes():
    quiet = federation(aggregator=PrivateMean(clip=0.5, noise_multiplier=0, clients=10))
    answers, read = cohort(quiet)
    mean, *_, measured = aggregate(quiet, answers, np.arange(1.0, 8.0))
    factors = [min(1.0, 0.5 / norm(r)) for r in read]
    assert measured["clipped"] == sum(f < 1 for f in factors) > 0
    want = sum(f * r[0].astype(np.float64) for f, r in zip(factors, read)) / 10
    np.testing.assert_allclose(mean[0], want, rtol=1e-4, atol=1e-7)
    noisy = dataclasses.replace(quiet, aggregator=PrivateMean(0.5, 2.0, 10, seed=4))
    draws = []
    for number in range(40):
        stamped = [[*answer[:-1], np.int32(number)] for answer in answers]
        got, *_, measured = aggregate(noisy, stamped, [1.0] * 7, round_number=number)
        draws.append(np.concatenate([10 * (g - m).ravel() for g, m in zip(got, mean)]))
    draws = np.stack(draws)
    assert measured["noise_stddev"] == 1.0
    assert abs(draws.std() - 1.0) < 0.02 and abs(draws.mean()) < 0.02
    statistic, p = scipy.stats.kstest(draws.ravel(), "norm")
    assert p > 1e-3
    between = np.corrcoef(draws)  # Rounds, and weights, are independent.
    assert np.abs(between[~np.eye(40, dtype=bool)]).max() < 0.25


def test_every_bit_of_the_seed_is_in_the_noise_and_none_is_the_default():
    parts = federation(aggregator=PrivateMean(1.0, 1.0, 1))
    noises = []
    for seed in (0, 1, 2**31, 2**32, 2**62, None, None):
        private = PrivateMean(1.0, 1.0, 1, seed=seed)
        parts = dataclasses.replace(parts, aggregator=private)
        mean, *_ = aggregate(parts, [], [])
        again, *_ = aggregate(dataclasses.replace(parts), [], [])
        np.testing.assert_array_equal(mean[0], again[0])
        noises.append(mean[0])
        other, *_ = aggregate(parts, [], [], round_number=4)
        noises.append(other[0])
    for a, b in itertools.combinations(noises, 2):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.2
    assert str(private.seed) not in repr(private)


def test_one_more_client_moves_the_noiseless_sum_by_the_clip_at_most():
    parts = federation(aggregator=PrivateMean(clip=0.3, noise_multiplier=0, clients=1))
    answers, _ = cohort(parts)
    huge, _ = honest(parts, np.random.default_rng(9), scale=50.0)
    before, *_ = aggregate(parts, answers, [1.0] * 7)
    after, *_ = aggregate(parts, [*answers, huge], [1.0] * 8)
    assert norm([a - b for a, b in zip(after, before)]) <= 0.3 * (1 + 1e-5)


def test_epsilon_is_the_accountants_and_of_one_round_the_formulas():
    private = PrivateMean(clip=1.0, noise_multiplier=1.1, clients=50)
    import dp_accounting

    event = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.1))
    accountant = dp_accounting.pld.PLDAccountant().compose(event, 200)
    assert private.epsilon(200, 1000, 1e-5) == accountant.get_epsilon(1e-5)
    # Balle and Wang, ICML 2018: delta of the Gaussian mechanism at an epsilon, without sampling.
    epsilon, cdf = private.epsilon(1, 50, 1e-5), scipy.stats.norm.cdf
    a, b = 1 / (2 * 1.1), epsilon * 1.1
    delta = cdf(a - b) - math.exp(epsilon) * cdf(-a - b)
    np.testing.assert_allclose(delta, 1e-5, rtol=0.02)
    assert private.epsilon(1, 1000, 1e-5) < private.epsilon(10, 1000, 1e-5)
    assert PrivateMean(1.0, 0, 50).epsilon(1, 1000, 1e-5) == math.inf


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 20.0])
def test_calibrated_noise_is_the_least_that_keeps_the_promise(epsilon):
    given = {"delta": 1e-4, "rounds": 60, "population": 400}
    private = PrivateMean.calibrated(0.5, 20, epsilon=epsilon, seed=7, **given)
    assert (private.clip, private.clients, private.seed) == (0.5, 20, 7)
    assert 0.97 * epsilon < private.epsilon(60, 400, 1e-4) <= epsilon
    less = dataclasses.replace(private, noise_multiplier=private.noise_multiplier - 2e-3)
    assert less.epsilon(60, 400, 1e-4) > epsilon


def test_a_promise_that_any_noise_keeps_gets_the_least_that_is_counted():
    private = PrivateMean.calibrated(1, 5, epsilon=1e5, delta=0.01, rounds=1, population=5)
    assert private.noise_multiplier == 0.2 and private.seed > 0


@pytest.mark.parametrize(
    "epsilon, rounds, clients, population",
    [(0.5, 100, 100, 10**6), (0.1, 100, 10, 10**4), (0.1, 1, 1, 1000), (0.01, 5, 10, 10**4)],
)
def test_promises_that_renyis_bound_is_far_from(epsilon, rounds, clients, population):
    given = {"delta": 1e-5, "rounds": rounds, "population": population}
    private = PrivateMean.calibrated(1.0, clients, epsilon=epsilon, **given)
    assert 0.9 * epsilon < private.epsilon(rounds, population, 1e-5) <= epsilon


def test_a_promise_that_no_noise_is_shown_to_keep_is_refused():
    with pytest.raises(InputError) as caught:
        PrivateMean.calibrated(1, 50, epsilon=1e-9, delta=1e-30, rounds=10**6, population=50)
    assert caught.value.argument == "epsilon"


@pytest.mark.parametrize(
    "argument, given",
    [
        ("clip", dict(clip=1e39)),
        ("clip", dict(clip=1e-39)),
        ("noise_multiplier", dict(noise_multiplier=1e39)),
        ("noise_multiplier", dict(noise_multiplier=-1)),
        ("clients", dict(clients=1e-39)),
        ("noise_multiplier", dict(clip=1e30, noise_multiplier=1e30)),
    ],
)
def test_what_float32_cannot_hold_is_refused(argument, given):
    with pytest.raises(InputError) as caught:
        PrivateMean(**{"clip": 1.0, "noise_multiplier": 1.0, "clients": 10, **given})
    assert caught.value.argument == argument


def test_numbers_of_numpy_are_numbers():
    private = PrivateMean(np.float32(1), np.float64(1), np.int64(5), seed=np.int64(3))
    assert private.epsilon(np.int64(2), np.int64(50), 1e-3) == PrivateMean(1, 1, 5).epsilon(
        2, 50, 1e-3
    )
