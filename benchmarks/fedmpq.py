"""FedMPQ: what a client's round takes beside one at the fixed width of the same budget, and FP32.

One client alone, outside of TFF, on native ops: seconds of the processor over a round of local
training, in turn, and the peak of all that such a round allocates, every malloc counted.
"""

import time

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import models
from benchmarks import harness
from omc.learning import FedMPQ, Widths, uplinks
from omc.learning.client_works import ClientTrainer
from omc.learning.downlinks import Codes, delivered
from omc.learning.local_optimizer import LocalOptimizer
from omc.learning.models import ModelPlan
from omc.measurement import heap_peak
from omc.policies import Policy

_BUDGET = 4
_METHODS = {  # None for float32 weights.
    "FP32": None,
    "fixed width": Widths((_BUDGET,)),
    "FedMPQ": FedMPQ((_BUDGET,)),
    "FedMPQ with a lasso": FedMPQ((_BUDGET,), lasso=0.005),
}
_BASELINE = "fixed width"
_PEAKS = 3  # The least counts.
_SECONDS_LIMIT, _PEAK_LIMIT = 1.15, 1.05


def run(quick=False):
    """Seconds and peaks of a client's round.

    Args:
        quick: Small models and few repeats.

    Returns:
        List of `harness.Table`.
    """
    table = harness.Table(
        "fedmpq_client",
        f"A client's round at {_BUDGET} bits a weight: CPU seconds, and peak memory",
        [
            ("model", "model", ""),
            ("method", "method", ""),
            ("seconds", "CPU s", ".3f"),
            ("seconds_to_fixed", "x fixed width", ".3f"),
            ("peak_mb", "peak MB", ".1f"),
            ("peak_to_fixed", "x fixed width", ".3f"),
            ("peak_to_fp32", "x FP32", ".3f"),
        ],
    )
    targets = harness.Table("targets", "Targets of FedMPQ's client", harness.TARGET_COLUMNS)
    for model in ("dense", "resnet8"):
        harness.progress(f"{model}: rounds of {', '.join(_METHODS)}")
        seconds = harness.fresh_process("fedmpq", "rounds", model=model, quick=quick)
        harness.progress(f"{model}: their peaks")
        peaks = harness.fresh_process("fedmpq", "peaks", harness.HEAP, model=model, quick=quick)
        found = {name: {"seconds": seconds[name], "peak_bytes": peaks[name]} for name in _METHODS}
        base = found[_BASELINE]
        for method, row in found.items():
            table.rows.append(
                {
                    "model": model,
                    "method": method,
                    "seconds": row["seconds"],
                    "seconds_to_fixed": row["seconds"] / base["seconds"],
                    "peak_mb": row["peak_bytes"] / 1e6,
                    "peak_to_fixed": row["peak_bytes"] / base["peak_bytes"],
                    "peak_to_fp32": row["peak_bytes"] / found["FP32"]["peak_bytes"],
                }
            )
        own = table.rows[-len(found) :]
        for row in own:
            if row["method"].startswith("FedMPQ"):
                what = f"{row['method']}, {model}"
                for key, limit in (("seconds", _SECONDS_LIMIT), ("peak", _PEAK_LIMIT)):
                    value = row[f"{key}_to_fixed"]
                    targets.rows.append(harness.target(f"{what}: {key}", value, limit, True))
    return [table, targets]


def rounds(model, quick):
    """CPU seconds of a round by each method, in this process.

    Args:
        model: "dense", 8 x Dense(1024), 10 steps of 64 rows; or "resnet8", 4 steps of 128 pictures.
        quick: Whether it is smaller and repeated less.

    Returns:
        Dict of method -> the least of several.
    """
    clients = _clients(model, quick)
    seconds = harness.interleaved(clients, 3 if quick else 9, clock=time.process_time)
    return {name: min(seconds[name]) for name in clients}


def peaks(model, quick):
    """Peak of what a round allocates by each method, bytes, in this process, one after the other.

    Args:
        model, quick: As for `rounds`.

    Returns:
        Dict of method -> the least of several; which threads work at once differs.
    """
    found = {}
    for name, train in _clients(model, quick).items():
        train()  # Traces.
        found[name] = min(_peak(train) for _ in range(_PEAKS))
    return found


def _peak(train):
    with heap_peak() as peak:
        train()
    return peak.bytes


def _clients(model, quick):
    build, data = _case(model, quick)
    return {name: _client(build, data, widths) for name, widths in _METHODS.items()}


def _case(model, quick):
    """(function that builds the Keras model, tf.data.Dataset of a client)."""
    rng = np.random.default_rng(0)
    if model == "resnet8":
        steps, shape = (2 if quick else 4, 128), (32, 32, 3)

        def build():
            return models.resnet8(norm="group")
    else:
        steps, shape = (4 if quick else 10, 64), (256 if quick else 1024,)

        def build():
            layers = [tf.keras.layers.Dense(shape[0], "relu") for _ in range(8)]
            return tf.keras.Sequential([tf.keras.Input(shape), *layers, tf.keras.layers.Dense(10)])

    count = steps[0] * steps[1]
    x = rng.standard_normal((count, *shape)).astype(np.float32)
    y = rng.integers(0, 10, count).astype(np.int32)
    return build, tf.data.Dataset.from_tensor_slices((x, y)).batch(steps[1])


def _client(build, data, widths):
    """A function that runs a client's round of training."""

    def model_fn():
        return tff.learning.models.from_keras_model(
            build(),
            input_spec=data.element_spec,
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    plan = ModelPlan.of(model_fn, Policy("FP32" if widths is None else "INT8"), widths)
    values = [variable.read_value() for variable in plan.variables(model_fn())]
    numbers = tf.constant(0), tf.constant(1)
    received, _ = delivered(Codes(), plan, values, (), *numbers)
    optimizer = LocalOptimizer(tff.learning.optimizers.build_sgdm(0.05))
    trainer = ClientTrainer(plan, received, optimizer, uplinks.Update())

    def train():
        for tensor in tf.nest.flatten(trainer.train(received, data, *numbers)[0]):
            tensor.numpy()

    return train
