"""Accuracy over average bits: one width throughout against allocations, and the solvers' speed.

python -m benchmarks.allocation --out=docs/results/allocation.json
"""

import argparse
import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import omc  # noqa: E402
from benchmarks import harness  # noqa: E402
from models import mlp, resnet20  # noqa: E402
from omc.formats import Format  # noqa: E402
from omc.mixed_precision import STRATEGIES, Allocator, Budget, Problem  # noqa: E402
from tff_sims.tasks import TASKS  # noqa: E402

BITS = (2, 2.25, 2.5, 2.75, 3, 3.5, 4, 5)
WAYS = {  # Name -> (strategy, sensitivity).
    "uniform": ("fixed", "error"),
    "pruning-growing": ("pruning_growing", "error"),
    "exact, error": ("exact", "error"),
    "exact, hessian": ("exact", "hessian"),
    "exact, hessian_error": ("exact", "hessian_error"),
    "greedy, hessian_error": ("greedy", "hessian_error"),
    "lagrangian, hessian_error": ("lagrangian", "hessian_error"),
    "exact, hasb_printed": ("exact", "hasb_printed"),
    "exact, hasb_code": ("exact", "hasb_code"),
}
MODELS = {  # Name -> (shape of a picture, seed -> model).
    "mlp": ((64,), lambda seed: mlp(seed=seed)),
    "resnet20": ((8, 8, 1), lambda seed: resnet20((8, 8, 1), seed=seed)),
}
_LAYERS, _SIZES = 300, {"alike": (5, 6), "mixed": (2, 7)}  # Decades of weights a layer.


def run(name, seeds, epochs, retrain, ways=WAYS):
    """Trains a model of digits in FP32, allocates and stores it in every way.

    Args:
        name: Key of `MODELS`.
        seeds: Number of seeds (split, initial weights, order, probes), int.
        epochs: Passes over the training pictures of all clients, int.
        retrain: Passes after it is stored, int; 0 for none.
        ways: Dict of name -> (strategy, sensitivity).

    Returns:
        List of dicts: way, bits, held-out accuracies one a seed, and what of the budget is used.
    """
    found = {}
    for seed in range(seeds):
        harness.progress(f"allocation: {name}, seed {seed}")
        for key, result in _seed(name, seed, epochs, retrain, ways).items():
            found.setdefault(key, []).append(result)
    return [
        {
            "model": name,
            "way": way,
            "bits": bits,
            "accuracies": [accuracy for accuracy, _ in results],
            "used": statistics.mean(used for _, used in results),
        }
        for (way, bits), results in found.items()
    ]


def _seed(name, seed, epochs, retrain, ways):
    """Dict of (way, bits) -> (held-out accuracy, bits used)."""
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    task, (shape, build) = TASKS["digits"](seed), MODELS[name]
    x, y = (np.concatenate(parts) for parts in zip(*map(task.examples, range(task.num_clients))))
    x, test = x.reshape(-1, *shape), (task.test[0].reshape(-1, *shape), task.test[1])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = build(seed)
    model.compile(tf.keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    weights, cache = model.get_weights(), {}

    def accuracy(policy):
        # Many ways end in the same formats.
        key = str(policy) if policy is None else tuple(policy.widths.values())
        if key not in cache:
            stored = build(seed)
            stored.set_weights(weights)
            if policy is not None:
                omc.wrap(stored, policy)
            stored.compile(tf.keras.optimizers.Adam(0.0003), loss, metrics=["accuracy"])
            if retrain:
                tf.keras.utils.set_random_seed(seed)
                stored.fit(x, y, batch_size=32, epochs=retrain, verbose=0)
            cache[key] = stored.evaluate(*test, verbose=0)[1]
        return cache[key]

    data = [(x[:256], y[:256])]
    allocator = Allocator(model, data=data, loss=loss, probes=4, seed=seed)
    found = {("FP32", 32): (accuracy(None), 32.0)}
    for bits in BITS:
        for way, (strategy, sensitivity) in ways.items():
            policy = allocator.allocate(bits=bits, strategy=strategy, sensitivity=sensitivity)
            found[way, bits] = accuracy(policy), policy.budgets[0].used
    return found


def table(name, rows):
    """Grid of ways and average bits: mean and standard deviation over the seeds, percent."""
    columns = [("way", "way", ""), *((str(bits), f"{bits} bits", "") for bits in (*BITS, 32))]
    lines = {}
    for row in (row for row in rows if row["model"] == name):
        line = lines.setdefault(row["way"], {"way": row["way"]})
        line[str(row["bits"])] = _spread(row["accuracies"])
    title = f"Held-out accuracy of {name}, percent"
    return harness.Table(name, title, columns, list(lines.values()))


def _spread(values):
    deviation = 100 * statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {deviation:.1f}"


def speed(seeds):
    """Seconds of each strategy for 300 layers x 8 formats, and losses above the exact one.

    Args:
        seeds: Number of drawn models, int.

    Returns:
        `harness.Table`: a row for each strategy and kind of problem, the slowest and the worst.
    """
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
    return harness.Table("solvers", f"{_LAYERS} layers x 8 formats", columns, rows)


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


def main():
    """Prints the tables and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/allocation.json", help="the JSON file")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way")
    parser.add_argument("--epochs", type=int, default=10, help="passes in FP32")
    parser.add_argument("--retrain", type=int, default=0, help="passes with stored formats")
    arguments = parser.parse_args()
    rows = []
    for name in MODELS:
        rows += run(name, arguments.seeds, arguments.epochs, arguments.retrain)
    tables = [*(table(name, rows) for name in MODELS), speed(arguments.seeds)]
    for shown in tables:
        shown.show()
    result = dict(vars(arguments), rows=rows, tables=[shown.as_dict() for shown in tables])
    result.update(harness.description(quick=False))
    out = pathlib.Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
