"""Strategies: every budget is kept, and the exact one is the best there is."""

import time

import numpy as np
import pytest
from hypothesis import given, settings

from omc.errors import InputError
from omc.formats import Format
from omc.mixed_precision import STRATEGIES, Exact, PruningGrowing, Solution, dynamic, programme
from omc.mixed_precision.lagrangian import multiplier
from omc.mixed_precision.strategies import named
from tests.mixed_precision.problems import INTEGERS, by_bits, problem, problems, tried

OTHERS = [name for name in STRATEGIES if name != "exact"]


def realistic(layers, seed=0):
    """Layers of all sizes, whose errors fall by 4 a bit, more or less."""
    rng, formats = np.random.default_rng(seed), (*INTEGERS, Format.parse("FP32"))
    counts = rng.integers(100, 1_000_000, layers)
    variance = 10.0 ** rng.uniform(-4, 0, layers)
    bits = np.array([fmt.bits for fmt in formats], float)
    noise = rng.uniform(0.8, 1.2, (layers, len(formats)))
    return by_bits((counts * variance)[:, None] * 4.0**-bits * noise, counts, 3.0, formats)


@given(problems())
@settings(max_examples=150)
def test_exact_finds_what_trying_everything_finds(small):
    solution = Exact()(small)
    least = min(tried(small).values())
    assert solution.choices in tried(small)
    assert solution.optimal
    assert small.loss(solution.choices) == pytest.approx(least, rel=1e-12)


@given(problems())
@settings(max_examples=100)
def test_no_strategy_exceeds_a_budget_or_beats_exact(small):
    exact = small.loss(Exact()(small).choices)
    for name in OTHERS:
        try:
            solution = STRATEGIES[name](small)
        except InputError:
            assert name == "fixed"
            width = len(small.counts)
            assert not any((k,) * width in tried(small) for k in range(small.losses.shape[1]))
            continue
        assert solution.choices in tried(small), name
        assert exact <= small.loss(solution.choices), name
        assert not solution.optimal


@given(problems())
@settings(max_examples=100)
def test_the_bound_is_below_every_allocation(small):
    least = min(tried(small).values())
    prices = [multiplier(small) / max(b.limit, 1) for b in small.budgets]
    for multipliers in (prices, [0.0] * len(prices), [1.0] * len(prices)):
        assert small.bound(multipliers) <= least * (1 + 1e-12) + 1e-12


@given(problems(feasible=False))
@settings(max_examples=100)
def test_exact_tells_budgets_that_exclude_each_other(some):
    if tried(some):
        assert Exact()(some).choices in tried(some)
    else:
        with pytest.raises(InputError, match="limits that none keeps"):
            Exact()(some)


def soon():
    return time.monotonic() + 30


@given(problems(most_budgets=1))
@settings(max_examples=60)
def test_the_programme_repairs_what_a_solver_rounds(small):
    """A solver that takes a row as kept when it is exceeded by a unit, as tolerances may do."""
    import scipy.optimize

    milp = scipy.optimize.milp

    def sloppy(objective, *, constraints, **options):
        rows = list(constraints)
        rows[1] = scipy.optimize.LinearConstraint(rows[1].A, rows[1].lb, rows[1].ub + 1)
        return milp(objective, constraints=rows, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scipy.optimize, "milp", sloppy)
        solution = programme.solve(small, small.least, soon())
    assert solution.choices in tried(small)
    assert small.loss(solution.choices) == pytest.approx(min(tried(small).values()), rel=1e-12)


@given(problems(most_budgets=1))
@settings(max_examples=60)
def test_dynamic_programming_needs_no_good_start(small):
    solution = dynamic.solve(small, small.least, soon())
    assert solution.optimal and solution.choices in tried(small)
    assert small.loss(solution.choices) == pytest.approx(min(tried(small).values()), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_dynamic_and_integer_programme_agree(seed):
    large = realistic(60, seed)
    ways = [way.solve(large, large.least, soon()) for way in (dynamic, programme)]
    assert all(way.optimal and large.fits(way.choices) for way in ways)
    assert large.loss(ways[0].choices) == pytest.approx(large.loss(ways[1].choices), rel=1e-11)


def test_too_many_states_are_the_integer_programmes(monkeypatch):
    large = realistic(60)
    expected = large.loss(Exact()(large).choices)
    monkeypatch.setattr(dynamic, "_MOST_STATES", 3)
    assert not dynamic.solve(large, large.least, soon()).optimal
    solution = Exact()(large)
    assert solution.optimal and large.loss(solution.choices) == pytest.approx(expected, rel=1e-11)


def test_without_scipy_one_budget_needs_none_and_several_say_so(monkeypatch):
    monkeypatch.setattr(programme.importlib.util, "find_spec", lambda name: None)
    assert Exact()(realistic(20)).optimal
    costs = [[1, 2], [1, 2]]
    with pytest.raises(InputError, match="scipy"):
        Exact()(problem([[2, 1], [2, 1]], (costs, 3), (costs, 4)))


@pytest.mark.parametrize("seed", range(3))
def test_300_layers_of_8_formats_are_proven_least(seed):
    large = realistic(300, seed)
    solution = Exact()(large)
    assert solution.optimal and large.fits(solution.choices)
    loss = large.loss(solution.choices)
    assert all(loss <= large.loss(STRATEGIES[name](large).choices) for name in OTHERS)
    # Near the relaxation: a bound that nothing beats.
    bound = large.bound([multiplier(large) / large.budgets[0].limit])
    assert bound <= loss <= bound * 1.001


def test_equal_layers_do_not_stall_the_search():
    solution = Exact()(by_bits([4.0 ** -np.arange(2, 9)] * 300, [4096] * 300, 3.5, INTEGERS))
    assert sorted(set(solution.choices)) == [1, 2] and solution.choices.count(2) == 150
    assert solution.optimal


def test_out_of_time_the_best_of_the_others_is_given_without_a_claim():
    large = realistic(300)
    solution = Exact(time_limit=0.0)(large)
    assert not solution.optimal
    best = min(large.loss(STRATEGIES[name](large).choices) for name in OTHERS)
    assert large.loss(solution.choices) == best


def test_fixed_is_the_widest_format_that_fits():
    formats = tuple(map(Format.parse, ("INT3", "INT4", "S1E2M1", "INT8")))
    found = by_bits([[9, 4, 3, 0], [9, 4, 6, 0]], [10, 20], 4.5, formats)
    assert STRATEGIES["fixed"](found).choices == (1, 1)  # Of the two of 4 bits that of less loss.


def test_greedy_takes_the_steepest_steps_first():
    # Steps of 10 bits; the second variable saves most, then the first, then nothing fits.
    found = by_bits([[5, 3, 2], [50, 10, 9], [6, 5.9, 5.8]], [10, 10, 10], 8 / 3, INTEGERS[:3])
    assert STRATEGIES["greedy"](found).choices == (1, 1, 0)


def test_greedy_goes_past_a_point_inside_the_hull():
    # Half the way saves 1 and all of it 10: the single step of the hull is the long one.
    found = problem([[10, 9, 0], [10, 8, 7]], ([[0, 1, 2], [0, 1, 2]], 2))
    assert STRATEGIES["greedy"](found).choices == (2, 0)


def test_lagrangian_moves_equal_variables_together_and_leaves_the_rest():
    losses, counts = [4.0 ** -np.arange(2, 9)] * 4, [100] * 4
    assert STRATEGIES["lagrangian"](by_bits(losses, counts, 3.75, INTEGERS)).choices == (1,) * 4
    assert STRATEGIES["greedy"](by_bits(losses, counts, 3.75, INTEGERS)).choices.count(2) == 3


class TestPruningGrowing:
    """FedMPQ's rule, worked by hand: pi_l = (n_l / sum n) * delta_l."""

    def solved(self, bits, counts, **arguments):
        flat = [[0.0] * 7] * len(counts)
        choices = PruningGrowing(**arguments)(by_bits(flat, counts, bits, INTEGERS)).choices
        return tuple(INTEGERS[choice].bits for choice in choices)

    def test_prunes_the_variable_of_the_highest_priority_until_it_fits(self):
        # 8 * 130 = 1040 bits; 5 * 130 = 650 allowed. The largest gives 4 bits of 100: 640 fits.
        assert self.solved(5, [100, 20, 10], start=(8, 8, 8)) == (4, 8, 8)

    def test_goes_on_with_the_next_when_one_is_at_the_narrowest(self):
        assert self.solved(3, [100, 20, 10], start=(8, 8, 8)) == (2, 5, 8)

    def test_bits_that_clients_dropped_raise_the_priority(self):
        # delta = 1, 7, 1: pi = 100, 140, 10 of 130. The second first, down to 2; then the first,
        # to 5: 620 of 650 bits. Growing, a step of 100 does not fit and one of 20 does.
        assert self.solved(5, [100, 20, 10], start=(8, 8, 8), dropped=(0, 6, 0)) == (5, 3, 8)

    def test_grows_the_variable_of_the_lowest_priority_and_never_too_far(self):
        # 390 of 520 bits: the smallest to 8 (+50), the next by 4 (+80); the largest not at all.
        assert self.solved(4, [100, 20, 10], start=(3, 3, 3)) == (3, 7, 8)

    def test_a_width_between_formats_counts_as_the_narrower(self):
        assert self.solved(8, [1, 1], start=(4.9, 1)) == (8, 8)
        assert PruningGrowing(start=(4.9, 1))(by_bits([[0] * 2] * 2, [1, 1], 2, INTEGERS[:2]))

    @pytest.mark.parametrize("argument", ["start", "dropped"])
    def test_a_number_for_each_variable(self, argument):
        with pytest.raises(InputError, match=f"`{argument}`: expected a number for each of the 3"):
            self.solved(4, [100, 20, 10], **{argument: (1, 2)})


def test_strategies_have_names():
    assert named("pruning-growing") == named("pruning_growing")
    assert named(Exact(time_limit=1.0))[0] == "exact"
    assert named(PruningGrowing(start=(1,)))[0] == "pruning_growing"

    def narrowest(problem):
        return Solution((0,) * len(problem.counts))

    assert named(narrowest) == ("narrowest", narrowest)
    for wrong in ("best", None, 3):
        with pytest.raises(InputError, match="`strategy`"):
            named(wrong)
