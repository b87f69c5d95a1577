"""A model in parts: bytes and time until it is usable and whole, and the peak of an upgrade."""

import pathlib
import shutil
import tempfile
import time

import numpy as np
import tensorflow as tf

import omc
from benchmarks import harness
from omc.measurement.peaks import measure_peak

STAGES = ("INT4", "INT8", "FP32")
_MEGABIT = (1, 10)
_SIZES, _QUICK = (12, 1024), (4, 512)
_WHOLE = {"whole INT8, coded": ("INT8",), "whole FP32, coded": ("FP32",)}


def run(quick=False):
    """Bytes and seconds of a trained model's parts beside it whole; peaks of upgrades of a stack.

    Args:
        quick: Fewer epochs and repeats, a small stack.

    Returns:
        List of `harness.Table`.
    """
    with tempfile.TemporaryDirectory() as folder:
        return [_bytes(pathlib.Path(folder), quick), *_peaks(pathlib.Path(folder), quick)]


def _bytes(folder, quick):
    table = harness.Table(
        "progressive_bytes",
        "digits, MLP 64-512-256-10: what crosses the wire, and when the model can be used",
        [
            ("what", "what", ""),
            ("bytes", "bytes", ",d"),
            ("to_fp32", "of FP32", ".3f"),
            ("accuracy", "accuracy then", ".3f"),
            ("apply_seconds", "to verify and apply, s", ".3f"),
            *((f"at_{rate}", f"usable at {rate} Mbit/s, s", ".2f") for rate in _MEGABIT),
        ],
    )
    model, x, y = _digits(epochs=3 if quick else 15)
    dense = sum(4 * v.shape.num_elements() for v in model.variables)
    repeats = 2 if quick else 5
    chains = {"parts": STAGES, **_WHOLE}
    for name, stages in chains.items():
        paths, taken, accuracies = [], [], []
        for index, part in enumerate(omc.progressive.split(model, list(stages))):
            paths.append(folder / f"{name}-{index}.part")
            part.save(paths[-1])
        for _ in range(1 + repeats):  # The first one warms up.
            receiver, each = omc.progressive.Receiver(_mlp()), []
            for path in paths:
                begin = time.perf_counter()
                receiver.apply(path)
                each.append(time.perf_counter() - begin)
                if len(accuracies) < len(paths):
                    accuracies.append(_accuracy(receiver.model, x, y))
            taken.append(each)
        seconds, arrived, worked = np.median(taken[1:], axis=0), 0, 0.0
        for index, path in enumerate(paths):
            arrived, worked = arrived + path.stat().st_size, worked + seconds[index]
            what = f"{'delta' if index else 'base'} {stages[index]}" if paths[1:] else name
            row = {"what": what, "bytes": path.stat().st_size, "accuracy": accuracies[index]}
            table.rows.append({**row, **_row(row["bytes"], arrived, dense, seconds[index], worked)})
        if paths[1:]:
            row = {"what": "all parts", "bytes": arrived, "accuracy": accuracies[-1]}
            table.rows.append({**row, **_row(arrived, arrived, dense, worked, worked)})
    plain, taken = _accuracy(model, x, y), []
    path = folder / "float32"
    path.write_bytes(b"".join(v.numpy().tobytes() for v in model.variables))
    for _ in range(repeats):
        fresh, begin = _mlp(), time.perf_counter()
        values, at = np.fromfile(path, np.float32), 0
        for variable in fresh.variables:
            size = variable.shape.num_elements()
            variable.assign(values[at : at + size].reshape(variable.shape))
            at += size
        taken.append(time.perf_counter() - begin)
    row = {"what": "whole FP32, as float32", "bytes": dense, "accuracy": plain}
    seconds = np.median(taken)
    table.rows.append({**row, **_row(dense, dense, dense, seconds, seconds)})
    return table


def _row(nbytes, arrived, dense, seconds, worked):
    """A part's shares and times: sent at a rate after those before it, and applied."""
    times = {f"at_{rate}": float(8e-6 * arrived / rate + worked) for rate in _MEGABIT}
    return {"to_fp32": nbytes / dense, "apply_seconds": float(seconds), **times}


def _digits(epochs):
    from sklearn.datasets import load_digits

    tf.keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1437], order[1437:]
    model = _mlp()
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(x[train], y[train], epochs=epochs, verbose=0)
    return model, x[test], y[test]


def _mlp():
    normal = tf.keras.initializers.RandomNormal
    dense = [
        tf.keras.layers.Dense(n, "relu", kernel_initializer=normal(0, 0.06, n)) for n in (512, 256)
    ]
    return tf.keras.Sequential([tf.keras.Input((64,)), *dense, tf.keras.layers.Dense(10)])


def _accuracy(model, x, y):
    return float(np.mean(np.argmax(model(x), axis=1) == y))


def _peaks(folder, quick):
    layers, units = _QUICK if quick else _SIZES
    table = harness.Table(
        "progressive_peak",
        f"{layers} x Dense({units}): peaks while a part is applied, MB",
        [
            ("step", "step", ""),
            ("before_mb", "stored before", ".2f"),
            ("after_mb", "stored after", ".2f"),
            ("allocator_mb", "allocator's peak, with the model", ".2f"),
            ("allocator_over_mb", "above the larger model", ".2f"),
            ("variable_mb", "one variable after it", ".2f"),
        ],
    )
    parts = omc.progressive.split(stack(layers, units), list(STAGES))
    paths = []
    for index, part in enumerate(parts):
        paths.append(str(folder / f"stack-{index}.part"))
        part.save(paths[-1])
    del parts, part
    one = 4 * units * units / 1e6
    targets = harness.Table("targets", "Targets of an upgrade's peak", harness.TARGET_COLUMNS)
    steps = [(index, False) for index in range(len(STAGES))] + [(len(STAGES) - 1, True)]
    for index, trained in steps:
        step = f"{STAGES[index - 1] if index else 'plain'} -> {STAGES[index]}"
        step += ", trained" if trained else ""
        harness.progress(f"{step}: peaks")
        arguments = {"paths": paths[: index + 1], "layers": layers, "units": units}
        arguments["trained"] = trained
        found = harness.fresh_process("progressive", "upgrade", **arguments)
        larger = max(found["before"], found["after"])
        over = (found["allocator"] - larger) / 1e6
        table.rows.append(
            {
                "step": step,
                "before_mb": found["before"] / 1e6,
                "after_mb": found["after"] / 1e6,
                "allocator_mb": found["allocator"] / 1e6,
                "allocator_over_mb": over,
                "variable_mb": found["after"] / layers / 1e6,
            }
        )
        if not trained:
            what = f"{step}: allocator's peak above the larger model, MB"
            targets.rows.append(harness.target(what, over, one + 1, at_most=True))
    return table, targets


def stack(layers, units):
    """A plain model of equal matrices, built.

    Args:
        layers: Their number.
        units: Rows and columns of each.
    """
    dense = [tf.keras.layers.Dense(units, use_bias=False) for _ in range(layers)]
    return tf.keras.Sequential([tf.keras.Input((units,)), *dense])


def upgrade(paths, layers, units, trained):
    """Peaks while the last of some parts is applied, in this process.

    Args:
        paths: Files of the parts up to it.
        layers, units: As for `stack`.
        trained: Whether the model has learned something before it, which is kept.

    Returns:
        Dict of before and after (stored bytes of the model) and allocator (the most that
        TensorFlow's had at a time beside what is no model), bytes.
    """
    warm = omc.progressive.Receiver(stack(1, 64))  # What TensorFlow makes once, it makes here.
    for part in omc.progressive.split(stack(1, 64), list(STAGES)):
        warm.apply(part)
    options = {"directory": f"{paths[-1]}.kept", "trained": "keep"} if trained else {}
    receiver = omc.progressive.Receiver(stack(layers, units), **options)
    for path in paths[:-1]:
        receiver.apply(path)
    for variable in receiver.model.variables if trained else ():
        variable.assign_add(tf.fill(variable.shape, 1e-3))
    found = {"before": omc.memory_report(receiver.model).stored_bytes}
    with measure_peak() as peak:
        receiver.apply(paths[-1])
    found["allocator"] = found["before"] + peak.allocator_bytes
    shutil.rmtree(f"{paths[-1]}.kept", ignore_errors=True)
    found["after"] = omc.memory_report(receiver.model).stored_bytes
    return found
