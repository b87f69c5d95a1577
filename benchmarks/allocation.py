"""Strategies of bit allocation: how long they take, and how far above the least loss they end."""

import time

import numpy as np

from benchmarks import harness
from omc.formats import Format
from omc.mixed_precision import STRATEGIES, Budget, Problem

_LAYERS, _SIZES = 300, {"alike": (5, 6), "mixed": (2, 7)}  # Decades of weights a layer.
_SEEDS, _LIMIT = 3, 1.0  # Drawn models; seconds of the exact strategy.


def run(quick=False):
    """Seconds of each strategy for 300 layers x 8 formats, and losses above the exact one's.

    Args:
        quick: One drawn model of each kind.

    Returns:
        List of `harness.Table`: a row for each strategy and kind of problem, the slowest and the
        worst of the drawn models; and targets.
    """
    seeds = 1 if quick else _SEEDS
    columns = [
        ("sizes", "weights a layer", ""),
        ("budgets", "budgets", ",d"),
        ("strategy", "strategy", ""),
        ("seconds", "slowest, s", ".3f"),
        ("above", "loss above the least, worst, %", ".3f"),
        ("proven", "proven least", ""),
    ]
    rows = []
    for sizes in _SIZES:
        for budgets in (1, 2):
            problems = [_problem(sizes, budgets, seed) for seed in range(seeds)]
            least = [problem.loss(STRATEGIES["exact"](problem).choices) for problem in problems]
            for name, strategy in STRATEGIES.items():
                times, above, proven = [], [], []
                for problem, best in zip(problems, least):
                    start = time.perf_counter()
                    solution = strategy(problem)
                    times.append(time.perf_counter() - start)
                    above.append(100 * (problem.loss(solution.choices) / best - 1))
                    proven.append(solution.optimal)
                low, high = _SIZES[sizes]
                rows.append(
                    {
                        "sizes": f"10^{low} to 10^{high}",
                        "budgets": budgets,
                        "strategy": name,
                        "seconds": max(times),
                        "above": max(above),
                        "proven": f"{sum(proven)} of {len(proven)}",
                    }
                )
    targets = [
        harness.target(
            f"exact, {row['sizes']} weights, {row['budgets']} budgets: seconds",
            row["seconds"],
            _LIMIT,
            at_most=True,
        )
        for row in rows
        if row["strategy"] == "exact"
    ]
    return [
        harness.Table("solvers", f"{_LAYERS} layers x 8 formats", columns, rows),
        harness.Table("targets", "Targets of bit allocation", harness.TARGET_COLUMNS, targets),
    ]


def _problem(sizes, budgets, seed):
    """Layers of random sizes and spreads, whose errors fall by about 4 a bit."""
    formats = tuple(map(Format.parse, [*(f"INT{bits}" for bits in range(2, 9)), "FP32"]))
    rng, widths = np.random.default_rng(seed), np.array([fmt.bits for fmt in formats])
    counts = (10 ** rng.uniform(*_SIZES[sizes], _LAYERS)).astype(np.int64)
    spreads, noise = 10 ** rng.uniform(-4, 0, _LAYERS), rng.uniform(0.8, 1.2, (_LAYERS, 8))
    losses = (counts * spreads)[:, np.newaxis] * 4.0**-widths * noise
    kept = [Budget("bits", np.outer(counts, widths), 3 * int(counts.sum()))]
    if budgets > 1:  # Codes of some layers are coded better than those of others.
        coded = np.outer(counts * rng.uniform(0.5, 1.0, _LAYERS), widths / 8).astype(np.int64)
        kept.append(Budget("wire_bytes", coded, int(0.75 * 3 / 8 * counts.sum())))
    return Problem(formats, tuple(counts.tolist()), losses, tuple(kept))
