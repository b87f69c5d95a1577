"""Means, medians and bounds against numpy, scipy and TFF; what does not go together is refused."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_federated as tff

import omc
from omc.errors import InputError, InputTypeError
from omc.learning import (
    FedMPQ,
    local_runtime,
)
from omc.learning.aggregators import Mean, Median, PrivateMean, SecureMean, TrimmedMean
from omc.learning.federation import Federation
from omc.learning.uplinks import Dithered, Grid, Rotated, Update, Weights
from tests.learning.answers import aggregate, cohort, federation, honest, model_fn, norm


@pytest.mark.parametrize("uplink", ["update", "dithered", "rotated", "weights"])
def test_mean_is_numpys(uplink):
    parts = federation(uplink)
    answers, read = cohort(parts)
    weights = np.arange(1.0, 8.0)
    mean, total, _, measured = aggregate(parts, answers, weights)
    assert total == weights.sum() and not any(measured["rejected"].values())
    for place, value in enumerate(mean):
        want = np.average([r[place] for r in read], axis=0, weights=weights)
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-7)


def test_uniform_weighting_counts_every_client_once():
    parts = federation(aggregator=Mean(weighting="uniform"))
    answers, read = cohort(parts)
    mean, total, *_ = aggregate(parts, answers, np.arange(1.0, 8.0))
    assert total == 7.0
    np.testing.assert_allclose(mean[0], np.mean([r[0] for r in read], axis=0), rtol=1e-5, atol=1e-7)


def test_clipping_and_zeroing_are_what_they_say():
    parts = federation()
    answers, read = cohort(parts)
    norms, peaks = [norm(r) for r in read], [max(np.abs(v).max() for v in r) for r in read]
    clip, zero = sorted(norms)[3], (sorted(peaks)[-1] + sorted(peaks)[-2]) / 2
    weights = np.arange(1.0, 8.0)
    parts = dataclasses.replace(parts, aggregator=Mean(clipping=clip, zeroing=float(zero)))
    mean, total, _, measured = aggregate(parts, answers, weights)
    kept = np.where(np.array(peaks) > zero, 0.0, weights)
    assert (measured["clipped"], measured["zeroed"]) == (2, 1) and total == kept.sum()
    factors = kept * np.minimum(1.0, clip / np.array(norms))
    want = sum(f * r[0].astype(np.float64) for f, r in zip(factors, read)) / kept.sum()
    np.testing.assert_allclose(mean[0], want, rtol=1e-4, atol=1e-7)


def test_adaptive_bounds_follow_tffs_own():
    parts = federation(aggregator=Mean(clipping="adaptive", zeroing="adaptive"))
    build = tff.aggregators.PrivateQuantileEstimationProcess.no_noise
    with local_runtime():
        theirs = {
            "clipping": build(1.0, 0.8, 0.2),
            "zeroing": build(10.0, 0.98, math.log(10.0)),
        }
        states = {name: process.initialize() for name, process in theirs.items()}
        state = parts.aggregator.initial()
        for scale in (0.01, 0.2, 0.05, 1.0):
            rng = np.random.default_rng(int(100 * scale))
            pairs = [honest(parts, rng, scale * (k + 1)) for k in range(5)]
            measures = {
                "clipping": [norm(read) for _, read in pairs],
                "zeroing": [float(max(np.abs(v).max() for v in read)) for _, read in pairs],
            }
            for name, process in theirs.items():
                states[name] = process.next(states[name], [np.float32(m) for m in measures[name]])
            *_, state, _ = aggregate(parts, [answer for answer, _ in pairs], [2.0] * 5, state)
            for name, process in theirs.items():
                np.testing.assert_allclose(state[name], process.report(states[name]), rtol=1e-5)


def test_a_zeroed_client_counts_as_zero_in_the_quantile_of_norms():
    """As in TFF, where zeroing comes before clipping: else rogues would lift the bound."""
    parts = federation(aggregator=Mean(clipping="adaptive", zeroing=3.0))
    rng = np.random.default_rng(0)
    answers = [honest(parts, rng, scale=1e-3)[0] for _ in range(7)]
    answers += [honest(parts, rng, scale=100.0)[0] for _ in range(3)]
    *_, state, measured = aggregate(parts, answers, [1.0] * 10)
    assert (measured["zeroed"], measured["clipped"]) == (3, 0)
    np.testing.assert_allclose(state["clipping"], math.exp(-0.2 * (1.0 - 0.8)), rtol=1e-6)


def test_adaptive_bounds_stay_where_nobody_answers():
    parts = federation(aggregator=Mean(clipping="adaptive"))
    mean, total, state, _ = aggregate(parts, [], [])
    assert total == 0.0 and state["clipping"] == 1.0 and not np.any(mean[0])


@pytest.mark.parametrize("uplink", ["update", "dithered"])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_trimmed_mean_is_scipys_and_median_numpys(uplink, count):
    trimmed = federation(uplink, TrimmedMean(0.25))
    answers, read = cohort(trimmed, count)
    weights = np.linspace(1.0, 50.0, count)  # What clients say of their data does not matter.
    mean, total, *_ = aggregate(trimmed, answers, weights)
    assert total == count
    middle, *_ = aggregate(dataclasses.replace(trimmed, aggregator=Median()), answers, weights)
    for place, (value, half) in enumerate(zip(mean, middle)):
        values = np.stack([r[place] for r in read])
        want = scipy.stats.trim_mean(values.astype(np.float64), 0.25, axis=0)
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(half, np.median(values, axis=0), rtol=1e-5, atol=1e-7)


def test_a_tenth_of_ten_clients_is_one():
    assert [int(TrimmedMean(0.1).trimmed(n)) for n in (0, 9, 10, 19, 20, 30)] == [0, 0, 1, 1, 2, 3]


def test_half_of_the_clients_cannot_move_a_median_out_of_the_honest_range():
    parts = federation(aggregator="median")
    answers, read = cohort(parts, 7)
    rng = np.random.default_rng(5)
    liars = [honest(parts, rng, scale=100.0)[0] for _ in range(3)]
    mean, *_ = aggregate(parts, [*answers, *liars], [1.0] * 10)
    values = np.stack([r[0] for r in read])
    assert np.all(mean[0] >= values.min(axis=0)) and np.all(mean[0] <= values.max(axis=0))


@pytest.mark.parametrize("count", [2, 4, 100])
def test_a_share_of_almost_half_leaves_somebody(count):
    share = math.nextafter(0.5, 0.0)
    assert count - 2 * int(TrimmedMean(share).trimmed(tf.constant(count))) == 2


def test_nobody_to_take_a_median_of():
    mean, total, *_ = aggregate(federation(aggregator="median"), [], [])
    assert total == 0.0 and all(not np.any(value) for value in mean)


def test_uniform_clients_weigh_the_same_whatever_they_say():
    parts = federation()
    uniform = tff.learning.ClientWeighting.UNIFORM
    parts = Federation.of(
        model_fn,
        parts.plan.policy,
        None,
        None,
        "update",
        None,
        None,
        "codes",
        "mean",
        None,
        uniform,
    )
    answers, read = cohort(parts, 3)
    mean, total, *_ = aggregate(parts, answers, [1.0, 2.0**24, 3.0])
    assert total == 3.0
    np.testing.assert_allclose(mean[0], np.mean([r[0] for r in read], axis=0), rtol=1e-4, atol=1e-7)


REFUSED = {
    "a name that is none": ({"aggregator": "mode"}, InputError, "aggregator"),
    "no aggregator": ({"aggregator": 3}, InputTypeError, "aggregator"),
    "TFF's": ({"aggregator": tff.aggregators.MeanFactory()}, InputTypeError, "aggregator"),
    "clipping of weights": (
        {"uplink": "weights", "aggregator": Mean(clipping=1.0)}, InputError, "clipping"
    ),
    "zeroing of weights": (
        {"uplink": "weights", "aggregator": Mean(zeroing="adaptive")}, InputError, "zeroing"
    ),
    "noise on weights": (
        {"uplink": "weights", "aggregator": PrivateMean(1.0, 1.0, 8)}, InputError, "aggregator"
    ),
    "reports without noise": (
        {"aggregator": PrivateMean(1.0, 1.0, 8), "widths": FedMPQ(),
         "policy": omc.Policy("INT8", fraction=1)}, InputError, "aggregator",
    ),
    "reports in the open": (
        {"aggregator": SecureMean(8), "uplink": Grid(), "widths": FedMPQ(),
         "policy": omc.Policy("INT8", fraction=1)}, InputError, "aggregator",
    ),
    "sums of floats": ({"aggregator": SecureMean(8)}, InputError, "uplink"),
    "sums beyond int32": (
        {"aggregator": SecureMean(1000), "uplink": Grid(bits=16)}, InputError, "clients"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case):
    arguments, error, argument = REFUSED[case]
    with pytest.raises(error) as caught:
        federation(**arguments)
    assert caught.value.argument == argument and caught.value.expected


def _promised(**given):
    wanted = {"epsilon": 8, "delta": 1e-3, "rounds": 10, "population": 20, "clip": 1, **given}
    return PrivateMean.calibrated(clients=5, **wanted)


@pytest.mark.parametrize(
    "make, argument",
    [
        (lambda: Mean(clipping=0), "clipping"),
        (lambda: Mean(clipping="much"), "clipping"),
        (lambda: Mean(zeroing=math.nan), "zeroing"),
        (lambda: Mean(weighting="fair"), "weighting"),
        (lambda: Mean(largest=-1), "largest"),
        (lambda: Mean(most_examples=math.inf), "most_examples"),
        (lambda: TrimmedMean(0.5), "share"),
        (lambda: TrimmedMean("0.1"), "share"),
        (lambda: PrivateMean(0, 1, 1), "clip"),
        (lambda: PrivateMean(1, -1, 1), "noise_multiplier"),
        (lambda: PrivateMean(1, 1, 0), "clients"),
        (lambda: PrivateMean(1, 1, 1, seed=1.5), "seed"),
        (lambda: PrivateMean(1, 1, 1, seed=-1), "seed"),
        (lambda: PrivateMean(1, 1, 1, seed=2**63), "seed"),
        (lambda: PrivateMean(1, False, 1), "noise_multiplier"),
        (lambda: _promised(epsilon=0), "epsilon"),
        (lambda: _promised(epsilon=math.inf), "epsilon"),
        (lambda: _promised(population=4), "population"),
        (lambda: _promised(delta=1), "delta"),
        (lambda: _promised(rounds=0), "rounds"),
        (lambda: _promised(clip=-1), "clip"),
        (lambda: PrivateMean(1, 1, 5).epsilon(0, 10, 1e-5), "rounds"),
        (lambda: PrivateMean(1, 1, 5).epsilon(1.5, 10, 1e-5), "rounds"),
        (lambda: PrivateMean(1, 1, 5).epsilon(1, 4, 1e-5), "population"),
        (lambda: PrivateMean(1, 1, 5).epsilon(1, 10, 1), "delta"),
        (lambda: SecureMean(0), "clients"),
        (lambda: SecureMean(2.0), "clients"),
        (lambda: Grid(bound=0), "bound"),
        (lambda: Grid(bits=1), "bits"),
        (lambda: Grid(bits=True), "bits"),
        (lambda: Grid(bound="1"), "bound"),
    ],
)
def test_settings_out_of_range(make, argument):
    with pytest.raises((InputError, InputTypeError)) as caught:
        make()
    assert caught.value.argument == argument
    assert isinstance(caught.value, (ValueError, TypeError))


def test_uplinks_of_the_table_are_all_there_are():
    assert {Update, Dithered, Rotated, Weights, Grid} == set(omc.learning.uplinks.NAMED.values())
