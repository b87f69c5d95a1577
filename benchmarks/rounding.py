"""Which rounding trains best at equal stored bits: nearest, stochastic or error feedback.

python -m benchmarks.rounding --out=docs/results/rounding.json
"""

import argparse
import json
import os
import pathlib
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import omc  # noqa: E402
from tff_sims.tasks import TASKS  # noqa: E402

# Stored bits -> (format, rounding); feedback formats store as many bits as the others of a row.
CHOICES = {
    32: [("FP32", "nearest")],
    11: [("S1E3M7", "nearest"), ("S1E3M7", "stochastic"), ("S1E3M5+2", "nearest")],
    8: [("INT8", "nearest"), ("INT8", "stochastic"), ("INT6+2", "nearest")],
    6: [
        ("S1E2M3", "nearest"),
        ("S1E2M3", "stochastic"),
        ("S1E2M1+2", "nearest"),
        ("S1E2M1+2", "stochastic"),
    ],
    4: [("INT4", "nearest"), ("INT4", "stochastic"), ("INT3+1", "nearest")],
}
OPTIMIZERS = {
    "SGD 0.1": lambda: tf.keras.optimizers.SGD(0.1),
    "SGD 0.01": lambda: tf.keras.optimizers.SGD(0.01),
    "Adam 0.001": lambda: tf.keras.optimizers.Adam(0.001),
}


def run(epochs, seeds):
    """Trains the digits task's model centrally in every way.

    Args:
        epochs: Passes over the training pictures of all clients, int.
        seeds: Number of seeds (split, initial weights, order and rounding), int.

    Returns:
        List of dicts: bits, format, rounding, optimizer, held-out accuracies and last training
        losses, one a seed, and their means and standard deviations.
    """
    rows = []
    for optimizer in OPTIMIZERS:
        print(f"\n{optimizer:12}{'bits':>5}  {'format':10}{'rounding':12}", end="")
        print(f"{'held out %':>16}{'training loss':>20}")
        for bits, choices in CHOICES.items():
            for fmt, rounding in choices:
                results = [_train(fmt, rounding, optimizer, epochs, seed) for seed in range(seeds)]
                losses, accuracies = zip(*results)
                row = dict(bits=bits, format=fmt, rounding=rounding, optimizer=optimizer)
                row.update(losses=losses, accuracies=accuracies)
                rows.append(row)
                print(
                    f"{'':12}{bits:5}  {fmt:10}{rounding:12}{_spread(accuracies, 100, 2):>16}"
                    f"{_spread(losses, 1, 4):>20}",
                    flush=True,
                )
    return rows


def _train(fmt, rounding, optimizer, epochs, seed):
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    task = TASKS["digits"](seed)
    x, y = (np.concatenate(parts) for parts in zip(*map(task.examples, range(task.num_clients))))
    model = task.build_model()
    if fmt != "FP32":
        omc.wrap(model, omc.Policy(fmt, rounding=rounding, seed=seed))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(OPTIMIZERS[optimizer](), loss, metrics=["accuracy"])
    history = model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return history.history["loss"][-1], model.evaluate(*task.test, verbose=0)[1]


def _spread(values, factor, digits):
    mean = factor * statistics.mean(values)
    deviation = factor * statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def main():
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/rounding.json", help="the JSON file")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each way")
    arguments = parser.parse_args()
    rows = run(arguments.epochs, arguments.seeds)
    versions = {"omc": omc.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    result = dict(epochs=arguments.epochs, seeds=arguments.seeds, versions=versions, rows=rows)
    out = pathlib.Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
