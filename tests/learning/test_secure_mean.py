"""Secure summation: the bits of the plain sum, and sums that would wrap around."""

import numpy as np
import pytest
import tensorflow as tf

from omc.errors import InputError
from omc.learning import (
    build_controlled_fed_avg,
    build_weighted_fed_avg,
    local_runtime,
)
from omc.learning.aggregators import SecureMean
from omc.learning.uplinks import Grid
from omc.learning.uplinks.base import fold_in
from tests.learning.answers import federation, honest, model_fn, run


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


@pytest.mark.parametrize("bits, clients", [(2, 1), (3, 1), (2, 2)])
def test_a_count_that_the_codes_modulus_would_wrap_is_right(bits, clients):
    """Eight answer: modulo 3, 7 or 5 that is no more than the clients that there is room for."""
    grid = Grid(bound=0.05, bits=bits)
    with local_runtime():
        for secure in (True, False):
            parts = {"uplink": grid, "aggregator": SecureMean(clients, secure)}
            before, _ = run(build_weighted_fed_avg, rounds=0, **parts)
            after, metrics = run(build_weighted_fed_avg, rounds=1, **parts)
            assert bool(metrics[0]["aggregator"]["overflowed"])
            assert metrics[0]["aggregator"]["total_weight"] == 0.0
            for value, want in zip(after, before):
                np.testing.assert_array_equal(value, want)


def test_clients_without_data_do_not_enter_the_secure_sum():
    parts = federation(Grid(), SecureMean(clients=8))
    answer, _ = honest(parts, np.random.default_rng(1))
    codes = parts.aggregator.codes(parts, answer, tf.constant(0.0))
    assert all(not np.any(code) for code in codes)


def test_a_controller_sees_answers_so_it_has_no_secure_sum():
    with pytest.raises(InputError, match="build_weighted_fed_avg"):
        build_controlled_fed_avg(model_fn, "INT8", uplink=Grid(), aggregator=SecureMean(8))
