"""Aggregators against numpy, scipy and TFF, and answers that are not what they should be."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import given, settings
from hypothesis import strategies as st

import omc
from omc.errors import InputError, InputTypeError
from omc.learning import (
    FedMPQ,
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    local_runtime,
)
from omc.learning.aggregators import KINDS, Mean, Median, PrivateMean, SecureMean, TrimmedMean
from omc.learning.aggregators.controlled import Aggregation
from omc.learning.federation import Federation
from omc.learning.uplinks import Dithered, Grid, Rotated, Update, Weights
from omc.learning.uplinks.base import fold_in
from tff_sims.rogues import RogueClients

SGD = tff.learning.optimizers.build_sgdm
FEATURES, CLASSES = 24, 6
DATA = [
    (
        np.random.default_rng(seed).normal(size=(7 + seed, FEATURES)).astype(np.float32),
        np.random.default_rng(seed).integers(0, CLASSES, 7 + seed).astype(np.int32),
    )
    for seed in range(8)
]


def datasets():
    return [tf.data.Dataset.from_tensor_slices(pair).batch(4) for pair in DATA]


def model_fn():
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input((FEATURES,)),
            layers.Dense(32, "relu", kernel_initializer=tf.keras.initializers.HeUniform(1)),
            layers.Dense(CLASSES, kernel_initializer=tf.keras.initializers.HeUniform(2)),
        ]
    )
    return tff.learning.models.from_keras_model(
        model,
        input_spec=datasets()[0].element_spec,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def federation(uplink="update", aggregator="mean", policy="INT8", widths=None):
    policy = omc.Policy.of(policy)
    parts = (None, None, uplink, None, widths, "codes", aggregator, None)
    return Federation.of(model_fn, policy, *parts)


def honest(parts, rng, scale=0.01, round_number=3):
    """(answer of one client as arrays, what the server reads of it)."""
    changes = [rng.normal(size=v.shape).astype(np.float32) * scale for v in parts.plan.trainable]
    if isinstance(parts.uplink, Dithered):
        tensors = dithered(parts, changes, rng)
    else:
        tensors = []
        for variable, change in zip(parts.plan.trainable, changes):
            if isinstance(parts.uplink, (Rotated, Grid)):
                result = type("Result", (), {"described": variable})()
                seed = tf.constant(rng.integers(0, 2**31, 2), tf.int32)
                tensors.append(parts.uplink.encode_variable(result, change, seed))
            else:
                tensors.append(change if variable.codec is None else first(variable).encode(change))
    read = [np.asarray(v) for v in parts.uplink.decode(parts.plan.trainable, tensors)]
    answer = [np.array(t) for t in tensors]
    if parts.plan.allocates:
        count = sum(p.partial for p in parts.plan.planned)
        answer.append(np.array([4, *[3] * count, *[1] * count], np.uint8))
    return [*answer, np.int32(round_number)], read


def first(variable):
    return getattr(variable.codec, "codecs", [variable.codec])[0]


def dithered(parts, changes, rng):
    from omc.coding import dither
    from omc.coding import graph as coding

    seed = tf.constant(rng.integers(0, 2**31, 2), tf.int32)
    flat = tf.concat([tf.reshape(c, [-1]) for c in changes], axis=0)
    symbols, contexts, _ = dither.quantize(flat, fold_in(seed, 0), tf.constant(0.004))
    return [seed, tf.constant(0.004), coding.encode(symbols, contexts)]


def cohort(parts, count=7):
    rng = np.random.default_rng(count)
    pairs = [honest(parts, rng, scale=0.01 * (k + 1)) for k in range(count)]
    return [answer for answer, _ in pairs], [read for _, read in pairs]


AGGREGATIONS = {}


def aggregate(parts, answers, weights, state=None, round_number=3):
    if id(parts) not in AGGREGATIONS:  # Traced once; with `parts`, so that no other has its id.
        AGGREGATIONS[id(parts)] = parts, Aggregation(parts)
    _, aggregation = AGGREGATIONS[id(parts)]
    state = parts.aggregator.initial() if state is None else state
    aggregation.begin(state, round_number, parts.plan.initial_allocation())
    for answer, weight in zip(answers, weights):
        aggregation.add(answer, weight)
    mean, total, state, measurements = aggregation.finish()
    return [m.numpy() for m in mean], float(total), state, measurements


def norm(values):
    return math.sqrt(sum(float(np.sum(np.square(v.astype(np.float64)))) for v in values))


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


def spoil(answer, fault, parts):
    """(answer, weight) that are wrong in one way; None where an uplink has no such way."""
    answer, weight = [np.copy(a) for a in answer], 5.0
    if fault == "round":
        answer[-1] = np.int32(2)
    elif fault == "weight":
        weight = math.nan
    elif fault == "widths":
        if not parts.plan.allocates:
            return None
        answer[-2][1] = 9
    elif fault == "size":
        answer[0] = answer[0][:-1]
    else:
        value = math.nan if fault == "non_finite" else 1e30
        if isinstance(parts.uplink, Dithered):
            answer[1] = np.float32(value)
        elif isinstance(parts.uplink, Rotated):
            answer[0][8:12] = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        elif parts.plan.trainable[0].codec is None:
            answer[0][0, 0] = value
        else:
            answer[0][-8:-4] = np.frombuffer(np.float32(value).tobytes(), np.uint8)
    return answer, weight


SERVED = {
    "update": {},
    "update, widths": {"uplink": "update", "widths": (8, 4)},
    "update, float32": {"uplink": "update", "policy": "FP32"},
    "update, FedMPQ": {
        "uplink": "update", "policy": omc.Policy("INT8", fraction=1), "widths": FedMPQ()
    },
    "dithered": {"uplink": "dithered"},
    "rotated": {"uplink": "rotated"},
    "weights": {"uplink": "weights"},
}  # fmt: skip


@pytest.mark.parametrize("aggregator", ["mean", "median"])
@pytest.mark.parametrize("served", SERVED)
def test_a_faulty_answer_is_counted_by_its_fault_and_moves_nothing(served, aggregator):
    parts = federation(aggregator=aggregator, **SERVED[served])
    answers, _ = cohort(parts, 5)
    clean, clean_total, *_ = aggregate(parts, answers, [1.0] * 5)
    for fault in KINDS:
        spoilt = spoil(answers[2], fault, parts)
        if spoilt is None:
            continue
        among = [*answers[:3], spoilt[0], *answers[3:]]
        mean, total, _, measured = aggregate(parts, among, [1.0] * 3 + [spoilt[1]] + [1.0] * 2)
        assert {k: int(n) for k, n in measured["rejected"].items() if n} == {fault: 1}, fault
        assert total == clean_total
        for value, want in zip(mean, clean):
            np.testing.assert_array_equal(value, want)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        None,
        "answer",
        [np.zeros(3, np.float32)],
        [np.zeros((2, 2), np.uint8)] * 5,
        [np.zeros(0, np.uint8)] * 5,
        [np.zeros(1, np.int64)] * 5,
    ],
    ids=["nothing", "None", "text", "too few", "matrices", "empty", "int64"],
)
def test_what_is_no_answer_at_all_is_of_the_wrong_size(wrong):
    parts = federation()
    answers, _ = cohort(parts, 3)
    clean, *_ = aggregate(parts, answers, [1.0] * 3)
    mean, _, _, measured = aggregate(parts, [*answers, wrong], [1.0] * 4)
    assert measured["rejected"]["size"] == 1
    np.testing.assert_array_equal(mean[0], clean[0])


@pytest.mark.parametrize(
    "weight", [-1.0, math.inf, -math.inf, math.nan, 2.0**25, 10**400, "seven", None, [1]]
)
def test_a_weight_that_is_none_is_rejected(weight):
    parts = federation()
    answers, _ = cohort(parts, 3)
    clean, *_ = aggregate(parts, answers[:2], [1.0] * 2)
    mean, total, _, measured = aggregate(parts, answers, [1.0, 1.0, weight])
    assert sum(map(int, measured["rejected"].values())) == 1 and total == 2.0
    np.testing.assert_array_equal(mean[0], clean[0])


def test_a_client_without_data_or_that_diverged_has_no_fault():
    parts = federation()
    answers, _ = cohort(parts, 3)
    answers[2][0][:] = 255
    _, total, _, measured = aggregate(parts, answers, [1.0, 1.0, 0.0])
    assert total == 2.0 and not any(map(int, measured["rejected"].values()))


UPLINKS = ["update", "dithered", "rotated", "weights"]
PARTS = {}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(UPLINKS), st.data())
def test_whatever_bytes_come_the_sum_is_finite_and_the_server_stands(uplink, data):
    if uplink not in PARTS:
        parts = federation(uplink)
        PARTS[uplink] = parts, Aggregation(parts), *cohort(parts, 2)
    parts, aggregation, answers, _ = PARTS[uplink]
    answer = [np.copy(a) for a in answers[0]]
    for place in data.draw(st.lists(st.integers(0, len(answer) - 2), min_size=1, max_size=3)):
        raw = bytearray(answer[place].tobytes())
        if not raw:
            continue
        start = data.draw(st.integers(0, len(raw) - 1))
        new = data.draw(st.binary(min_size=1, max_size=12))
        raw[start : start + len(new)] = new
        raw = bytes(raw)
        if answer[place].dtype == np.uint8:
            answer[place] = np.frombuffer(raw, answer[place].dtype)
        else:
            raw = raw[: answer[place].nbytes].ljust(answer[place].nbytes)
            answer[place] = np.frombuffer(raw, answer[place].dtype).reshape(answer[place].shape)
    aggregation.begin(parts.aggregator.initial(), 3, ())
    aggregation.add(answers[1], 1.0)
    aggregation.add(answer, 1.0)
    mean, total, _, measured = aggregation.finish()
    assert float(total) == 2.0 - sum(map(int, measured["rejected"].values()))
    for value in mean:
        assert np.all(np.abs(value) <= 1e4)


@pytest.mark.parametrize(
    "report, admitted",
    [
        ([4, 3, 3, 1, 1], True),
        ([8, 8, 2, 0, 6], True),
        ([2, 2, 2, 0, 0], True),
        ([4, 4, 4, 1, 0], False),  # More than it was given.
        ([8, 8, 8, 0, 6], False),
        ([5, 4, 4, 0, 0], False),  # No budget of the federation's.
        ([4, 8, 8, 0, 0], False),  # Above its budget.
        ([4, 1, 4, 0, 0], False),
        ([8, 9, 8, 0, 0], False),
        ([4, 2, 4, 255, 0], False),
        ([4, 4, 4, 0], False),
        ([4, 4, 4, 0, 0, 0], False),
        ([], False),
    ],
)
def test_fedmpqs_contract(report, admitted):
    parts = federation(policy=omc.Policy("INT8", fraction=1), widths=FedMPQ())
    got = parts.plan.widths.admits(parts.plan, tf.constant(report, tf.uint8))
    assert bool(got) == admitted


def test_fedmpqs_contract_is_that_of_the_round():
    parts = federation(policy=omc.Policy("INT8", fraction=1), widths=FedMPQ())
    allocation = {**parts.plan.initial_allocation()}
    allocation["widths"] = tf.constant([[2, 2], [6, 2], [6, 6], [8, 8]])
    plan = parts.plan.allocated(allocation)
    admitted = [
        bool(plan.widths.admits(plan, tf.constant([4, *widths, 0, 0], tf.uint8)))
        for widths in ((6, 2), (4, 4), (5, 2), (7, 2))
    ]
    assert admitted == [True, False, True, False]


def run(build, rounds=3, share=0.0, **parts):
    process = build(
        model_fn, parts.pop("policy", "INT8"), SGD(0.1), client_work=RogueClients(share, 1), **parts
    )
    state, metrics = process.initialize(), []
    for _ in range(rounds):
        output = process.next(state, datasets())
        state = output.state
        metrics.append(output.metrics)
    return [np.asarray(w) for w in process.get_model_weights(state).trainable], metrics


BOTH = {
    "update": {"uplink": "update", "aggregator": Mean(clipping="adaptive", zeroing="adaptive")},
    "dithered": {"uplink": "dithered", "aggregator": "trimmed_mean"},
    "FedMPQ": {
        "uplink": "update",
        "policy": omc.Policy("INT8", fraction=1),
        "widths": FedMPQ(budgets=(4, 8)),
    },
}


@pytest.mark.parametrize("parts", BOTH)
def test_rogues_are_found_alike_in_both_processes(parts):
    with local_runtime():
        composed, metrics = run(build_weighted_fed_avg, share=0.5, **BOTH[parts])
        controlled, theirs = run(build_controlled_fed_avg, share=0.5, **BOTH[parts])
    assert sum(sum(m["aggregator"]["rejected"].values()) for m in metrics) > 6
    for mine, other in zip(metrics, theirs):
        assert dict(mine["aggregator"]["rejected"]) == dict(other["aggregator"]["rejected"])
    for value, want in zip(composed, controlled):
        assert np.all(np.isfinite(value))
        np.testing.assert_array_equal(value, want)


@pytest.mark.parametrize("build", [build_weighted_fed_avg, build_controlled_fed_avg])
def test_a_round_of_rogues_alone_leaves_weights_and_momentum(build):
    def process(share):
        rogues = RogueClients(share, 1)
        momentum = SGD(1.0, 0.9)
        return build(model_fn, "INT8", SGD(0.1), momentum, uplink="update", client_work=rogues)

    with local_runtime():
        state = process(0.0).next(process(0.0).initialize(), datasets()).state
        output = process(1.0).next(state, datasets())
        before, after = (
            [*process(0.0).get_model_weights(s).trainable, *tf.nest.flatten(s.finalizer)]
            for s in (state, output.state)
        )
    assert sum(map(int, output.metrics["aggregator"]["rejected"].values())) == len(DATA)
    assert len(after) > len(model_fn().trainable_variables)
    for old, new in zip(before, after):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("build", [build_weighted_fed_avg, build_controlled_fed_avg])
def test_metrics_that_are_no_numbers_do_not_spoil_those_of_others(build):
    def work(*arguments):
        result, metrics, counts = RogueClients(0.0)(*arguments)
        loss, weight = metrics["loss"]
        odd = tf.equal(arguments[-1] % 2, 0)
        metrics["loss"] = [tf.where(odd, math.nan, loss), weight]
        return result, metrics, counts

    with local_runtime():
        process = build(model_fn, "INT8", SGD(0.1), uplink="update", client_work=work)
        metrics = process.next(process.initialize(), datasets()).metrics
    assert 0.0 < float(metrics["client_work"]["train"]["loss"]) < 10.0


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


def test_codes_beyond_the_grid_are_rejected():
    parts = federation(Grid(bound=0.1, bits=8))
    answers, _ = cohort(parts, 3)
    answers[2][0][2] = 12_000_000
    _, total, _, measured = aggregate(parts, answers, [1.0] * 3)
    assert total == 2.0 and measured["rejected"]["size"] == 1


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


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_secure_sum_has_the_bits_of_the_plain_one(bits):
    grid = Grid(bound=0.05, bits=bits)
    with local_runtime():
        secure, metrics = run(build_weighted_fed_avg, uplink=grid, aggregator=SecureMean(clients=8))
        plain, _ = run(
            build_weighted_fed_avg, uplink=grid, aggregator=SecureMean(clients=8, secure=False)
        )
    assert metrics[0]["aggregator"]["total_weight"] == 8.0
    for value, want in zip(secure, plain):
        np.testing.assert_array_equal(value, want)


def test_the_secure_mean_is_the_clients_mean_to_within_half_a_step():
    grid = Grid(bound=0.05, bits=8)
    parts = federation(grid, SecureMean(clients=8))
    rng = np.random.default_rng(0)
    words = parts.common_seed(tf.constant(3))
    changes = [
        [rng.normal(size=v.shape).astype(np.float32) * 0.02 for v in parts.plan.trainable]
        for _ in range(8)
    ]
    totals, errors = parts.aggregator.zero(parts), []
    for client in changes:
        sent = []
        for variable, change in zip(parts.plan.trainable, client):
            result = type("Result", (), {"described": variable})()
            seed = fold_in(words, variable.index)
            sent.append(grid.encode_variable(result, change, seed))
        codes = parts.aggregator.codes(parts, sent, tf.constant(3.0))
        totals = [total + code for total, code in zip(totals, codes)]
    found = parts.aggregator.finish(parts, totals, (), tf.constant(3))
    for place, value in enumerate(found.mean):
        want = np.mean([np.clip(c[place], -0.05, 0.05) for c in changes], axis=0)
        errors.append((value.numpy() - want).ravel())
    errors = np.concatenate(errors)
    assert np.abs(errors).max() <= grid.step * 1.001
    assert abs(errors.mean()) < grid.step / 20


def test_more_clients_than_the_secure_sum_has_room_for_move_nothing():
    parts = federation(Grid(), SecureMean(clients=2))
    totals = [tf.fill(t.shape, 100) for t in parts.aggregator.zero(parts)[:-1]]
    for heard, overflowed in ((2, False), (3, True)):
        found = parts.aggregator.finish(parts, [*totals, tf.constant(heard)], (), tf.constant(0))
        assert bool(found.measurements["overflowed"]) == overflowed
        assert float(found.total_weight) == (0.0 if overflowed else 2.0)
        assert np.any(found.mean[0]) != overflowed


def test_clients_without_data_do_not_enter_the_secure_sum():
    parts = federation(Grid(), SecureMean(clients=8))
    answer, _ = honest(parts, np.random.default_rng(1))
    codes = parts.aggregator.codes(parts, answer, tf.constant(0.0))
    assert all(not np.any(code) for code in codes)


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


def test_a_controller_sees_answers_so_it_has_no_secure_sum():
    with pytest.raises(InputError, match="build_weighted_fed_avg"):
        build_controlled_fed_avg(model_fn, "INT8", uplink=Grid(), aggregator=SecureMean(8))


def test_uplinks_of_the_table_are_all_there_are():
    assert {Update, Dithered, Rotated, Weights, Grid} == set(omc.learning.uplinks.NAMED.values())
