"""A model in parts: bytes and time until it is usable and whole, and the peak of an upgrade."""

import pathlib
import shutil
import tempfile
import time

import numpy as np
import tensorflow as tf

import models
import omc
from benchmarks import harness
from omc.measurement.peaks import measure_peak

STAGES = ("INT4", "INT8", "FP32")
_MEGABIT = (0.1, 1, 10, 100)
_SIZES, _QUICK = (12, 1024), (4, 512)
_WHOLE = {"whole INT8, coded": ("INT8",), "whole FP32, coded": ("FP32",)}


def run(quick=False):
    """Bytes and seconds of two models' parts beside them whole; peaks of upgrades of a stack.

    Args:
        quick: Fewer epochs and repeats, a small Conformer and stack.

    Returns:
        List of `harness.Table`.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tables = [_digits_bytes(folder, quick), _conformer_bytes(folder, quick)]
        return [*tables, *_peaks(folder, quick)]


def _digits_bytes(folder, quick):
    model, x, y = _digits(epochs=3 if quick else 15)
    return _bytes(
        "progressive_bytes",
        "digits, MLP 64-512-256-10: what crosses the wire, and when the model can be used",
        folder,
        model,
        _mlp,
        accuracy=lambda of: _accuracy(of, x, y),
        repeats=2 if quick else 5,
    )


def _conformer_bytes(folder, quick):
    """Weights as they start, so that bytes are rather more than those of trained ones."""

    def build():
        size = models.CONFORMERS["tiny" if quick else "large"]
        return models.conformer(4096, features=80, **size)

    tf.keras.utils.set_random_seed(0)
    model = build()
    count = sum(v.shape.num_elements() for v in model.variables)
    return _bytes(
        "progressive_conformer",
        f"Conformer of {count / 1e6:.1f} M weights, untrained: what crosses the wire, and when the "
        "model can be used",
        folder,
        model,
        build,
        repeats=1 if quick else 3,
    )


def _bytes(name, title, folder, model, build, accuracy=None, repeats=5):
    """Table of a model delivered in parts and whole.

    Args:
        name, title: Of the table.
        folder: pathlib.Path of a folder for the parts.
        model: The model.
        build: Function that makes a plain model like it.
        accuracy: Function of a model, shown after each part; None for no such column.
        repeats: Times that seconds are taken, after one that does not count.
    """
    table = harness.Table(
        name,
        title,
        [
            ("what", "what", ""),
            ("bytes", "bytes", ",d"),
            ("to_fp32", "of FP32", ".3f"),
            *((("accuracy", "accuracy then", ".3f"),) if accuracy else ()),
            ("apply_seconds", "to verify and apply, s", ".3f"),
            *((f"at_{rate:g}", f"usable at {rate:g} Mbit/s, s", ".2f") for rate in _MEGABIT),
        ],
    )
    dense = sum(4 * v.shape.num_elements() for v in model.variables)
    for chain, stages in {"parts": STAGES, **_WHOLE}.items():
        harness.progress(f"{title.partition(':')[0]}: {chain}")
        paths, taken, accuracies = [], [], []
        for index, part in enumerate(omc.progressive.split(model, list(stages))):
            paths.append(folder / f"{chain}-{index}.part")
            part.save(paths[-1])
        del part
        for _ in range(1 + repeats):
            receiver, each = omc.progressive.Receiver(build()), []
            for path in paths:
                begin = time.perf_counter()
                receiver.apply(path)
                each.append(time.perf_counter() - begin)
                if len(accuracies) < len(paths):
                    accuracies.append(accuracy(receiver.model) if accuracy else None)
            taken.append(each)
            del receiver
        seconds, arrived, worked = np.median(taken[1:], axis=0), 0, 0.0
        for index, path in enumerate(paths):
            size = path.stat().st_size
            arrived, worked = arrived + size, worked + seconds[index]
            what = f"{'delta' if index else 'base'} {stages[index]}" if paths[1:] else chain
            table.rows.append(
                _row(what, size, arrived, dense, accuracies[index], seconds[index], worked)
            )
        if paths[1:]:
            row = _row("all parts", arrived, arrived, dense, accuracies[-1], worked, worked)
            table.rows.append(row)
        for path in paths:
            path.unlink()
    seconds = np.median(_raw_seconds(folder / "float32", model, build, repeats))
    whole = accuracy(model) if accuracy else None
    row = _row("whole FP32, as float32", dense, dense, dense, whole, seconds, seconds)
    table.rows.append(row)
    return table


def _raw_seconds(path, model, build, repeats):
    """Seconds of reading a file of float32 into a fresh model, a list."""
    path.write_bytes(b"".join(v.numpy().tobytes() for v in model.variables))
    taken = []
    for _ in range(repeats):
        fresh, begin = build(), time.perf_counter()
        values, at = np.fromfile(path, np.float32), 0
        for variable in fresh.variables:
            size = variable.shape.num_elements()
            variable.assign(values[at : at + size].reshape(variable.shape))
            at += size
        taken.append(time.perf_counter() - begin)
    return taken


def _row(what, nbytes, arrived, dense, accuracy, seconds, worked):
    """A part's line: its bytes, and times when it is sent at a rate after those before it."""
    times = {f"at_{rate:g}": float(8e-6 * arrived / rate + worked) for rate in _MEGABIT}
    row = {"what": what, "bytes": nbytes, "to_fp32": nbytes / dense}
    if accuracy is not None:
        row["accuracy"] = accuracy
    return {**row, "apply_seconds": float(seconds), **times}


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
