"""Answers that are not what they should be are counted, and move nothing."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import omc
from omc.learning import (
    FedMPQ,
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    local_runtime,
)
from omc.learning.aggregators import KINDS, Mean
from omc.learning.aggregators.controlled import Aggregation
from omc.learning.uplinks import Dithered, Grid, Rotated
from tests.learning.answers import DATA, SGD, aggregate, cohort, datasets, federation, model_fn, run
from tff_sims.rogues import RogueClients


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


def test_codes_beyond_the_grid_are_rejected():
    parts = federation(Grid(bound=0.1, bits=8))
    answers, _ = cohort(parts, 3)
    answers[2][0][2] = 12_000_000
    _, total, _, measured = aggregate(parts, answers, [1.0] * 3)
    assert total == 2.0 and measured["rejected"]["size"] == 1
