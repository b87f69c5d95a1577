"""Steps of Adam and of SGD with weights, and slots, in codes: bytes, allocator peak, time.

Runs on either Keras: with `.venv-newest/bin/python -m benchmarks --only=slots` on Keras 3.
"""

import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks import harness  # noqa: E402 - after TensorFlow's log level is set

_ROWS = (  # (optimizer, format of weights, format of slots or None)
    ("SGD", "FP32", None),
    ("SGD", "S1E3M7", None),
    ("SGD", "INT8", None),
    ("Adam", "FP32", None),
    ("Adam", "S1E3M7", None),
    ("Adam", "S1E3M7", "S1E8M7"),
    ("Adam", "S1E3M7", "S1E5M2"),
    ("Adam", "INT8", "S1E5M2"),
)
_SIZE, _QUICK_SIZE = {"layers": 16, "units": 2048}, {"layers": 4, "units": 512}
_BATCH = 64


def run(quick=False):
    """One step of `fit` of a stack of Dense layers, each row in a fresh process.

    Args:
        quick: A small stack.

    Returns:
        List of one `harness.Table`.
    """
    size = _QUICK_SIZE if quick else _SIZE
    columns = [
        ("keras", "Keras", ""),
        ("optimizer", "optimizer", ""),
        ("format", "weights", ""),
        ("slots", "slots", ""),
        ("stored_mb", "stored MB", ".1f"),
        ("peak_mb", "peak MB", ".1f"),
        ("peak_ratio", "x FP32", ".3f"),
        ("speed_ratio", "speed x FP32", ".2f"),
    ]
    title = f"{size['layers']} x Dense({size['units']}), batch {_BATCH}: stored, peak and speed"
    table = harness.Table("slots", title, columns)
    for optimizer, fmt, slots in _ROWS:
        arguments = {"optimizer": optimizer, "fmt": fmt, "slots": slots, **size}
        found = harness.fresh_process("slots", "measure", **arguments)
        if fmt == "FP32":
            dense = found
        else:  # Beside FP32's in one process, in turn.
            taken = harness.fresh_process("slots", "speed", **arguments)
            found["speed_ratio"] = taken["FP32"] / taken["OMC"]
        row = dict(
            optimizer=optimizer,
            format=fmt,
            slots=slots or "FP32",
            keras=found["keras"],
            stored_mb=found["stored_bytes"] / 1e6,
            peak_mb=found["peak_bytes"] / 1e6,
            peak_ratio=found["peak_bytes"] / dense["peak_bytes"],
            speed_ratio=found.get("speed_ratio", 1.0),
        )
        table.rows.append(row)
    return [table]


def measure(optimizer, fmt, slots, layers, units):
    """Bytes of weights and slots, and the allocator's peak of a step with them; a fresh process."""
    from omc.keras.host import MAJOR, value_of
    from omc.measurement.peaks import measure_peak

    model, step = _compiled(optimizer, fmt, slots, layers, units)
    step()
    step()
    with measure_peak() as peak:
        step()
        step()
    held = [value_of(v) for v in [*model.weights, *_slots_of(model)]]
    stored = sum(v.nbytes if hasattr(v, "codec") else v.numpy().nbytes for v in held)
    return {"stored_bytes": stored, "peak_bytes": peak.allocator_total_bytes, "keras": MAJOR}


def speed(optimizer, fmt, slots, layers, units, rounds=9):
    """Median seconds of FP32's and OMC's steps, taken in turn: a dict."""
    functions = {
        "FP32": _compiled(optimizer, "FP32", None, layers, units)[1],
        "OMC": _compiled(optimizer, fmt, slots, layers, units)[1],
    }
    taken = harness.interleaved(functions, rounds, warm_up=2)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _compiled(optimizer, fmt, slots, layers, units):
    import tensorflow as tf

    import omc

    tf.keras.utils.set_random_seed(0)
    stack = [tf.keras.layers.Dense(units, "relu") for _ in range(layers)]
    model = tf.keras.Sequential([tf.keras.Input((units,)), *stack])
    if fmt != "FP32":
        omc.wrap(model, omc.Policy(fmt, slots=slots))
    model.compile(getattr(tf.keras.optimizers, optimizer)(1e-4), "mse")
    x = tf.random.normal([_BATCH, units])
    return model, harness.fit_step(model, x, x)


def _slots_of(model):
    variables = model.optimizer.variables  # A method of Keras 2.
    return variables() if callable(variables) else variables
