"""Who takes part depends on (seed, round) alone, and failures are as frequent as asked."""

import numpy as np
import pytest
import tensorflow as tf

from tff_sims.participation import Cohort, draw_cohort
from tff_sims.settings import Settings
from tff_sims.tasks.digits import digits

SETTINGS = Settings(clients_per_round=100, dropout=0.1, stragglers=0.2)


def same(left, right):
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("clients", "failed", "share")
    )


def test_a_round_is_drawn_from_seed_and_round_alone():
    once = [draw_cohort(10_000, SETTINGS, 3, number) for number in (1, 2, 3)]
    assert same(once[2], draw_cohort(10_000, SETTINGS, 3, 3))
    assert not np.array_equal(once[0].clients, once[1].clients)
    assert not np.array_equal(once[0].clients, draw_cohort(10_000, SETTINGS, 4, 1).clients)
    for cohort in once:
        assert len(set(cohort.clients)) == 100 and cohort.clients.max() < 10_000


def test_what_becomes_of_clients_does_not_change_who_they_are():
    plain = Settings(clients_per_round=100)
    calm, rough = (draw_cohort(10_000, s, 0, 7) for s in (plain, SETTINGS))
    np.testing.assert_array_equal(calm.clients, rough.clients)
    assert not calm.failed.any() and (calm.share == 1).all() and calm.answered == 100


def test_shares_are_as_asked():
    cohorts = [draw_cohort(10_000, SETTINGS, 0, number) for number in range(1, 101)]
    failed = np.concatenate([cohort.failed for cohort in cohorts])
    share = np.concatenate([cohort.share for cohort in cohorts])
    # 10,000 draws: three standard deviations.
    assert abs(failed.mean() - 0.1) < 0.009
    assert abs((share < 1).mean() - 0.2) < 0.012
    assert abs(share[share < 1].mean() - 0.5) < 0.02
    drawn = np.bincount(np.concatenate([cohort.clients for cohort in cohorts]), minlength=10_000)
    assert abs((drawn > 0).mean() - (1 - 0.99**100)) < 0.02


def test_failed_clients_train_on_nothing_and_stragglers_on_a_part():
    task = digits(0)
    batches = [len(list(task.client_dataset(client))) for client in range(3)]
    cohort = Cohort(np.arange(3), np.array([True, False, False]), np.array([1.0, 0.4, 1e-9]))
    cut = [len(list(dataset)) for dataset in cohort.datasets(task)]
    assert cut == [0, max(1, int(0.4 * batches[1])), 1]
    assert cohort.answered == 2 and cohort.stragglers == 2
    first = next(iter(cohort.datasets(task)[2]))[0]
    np.testing.assert_array_equal(first, next(iter(task.client_dataset(2)))[0])


def test_a_dataset_of_unknown_length_is_counted():
    class Task:
        def client_dataset(self, client):
            return tf.data.Dataset.range(10).filter(lambda value: value < 8)

    cohort = Cohort(np.array([0]), np.array([False]), np.array([0.5]))
    assert len(list(cohort.datasets(Task())[0])) == 4


def test_a_large_population_is_made_client_by_client():
    task, again = digits(5, clients=10_000), digits(5, clients=10_000)
    assert task.num_clients == 10_000
    for client in (0, 77, 9_999):
        (x, y), (x2, y2) = task.examples(client), again.examples(client)
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
        assert len(y) == 24
    assert not np.array_equal(task.examples(1)[0], task.examples(2)[0])
    # A population twice as large has the same first clients.
    np.testing.assert_array_equal(digits(5, clients=20_000).examples(77)[0], task.examples(77)[0])


@pytest.mark.parametrize("split, alpha, kinds", [("dirichlet", 0.1, (1, 4)), ("iid", 0.1, (8, 10))])
def test_clients_of_a_large_population_have_their_own_mix(split, alpha, kinds):
    task = digits(0, split=split, alpha=alpha, clients=1000)
    held = np.mean([len(np.unique(task.examples(client)[1])) for client in range(100)])
    assert kinds[0] <= held <= kinds[1]
