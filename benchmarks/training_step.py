"""Memory and time of a training step, OMC next to FP32, each in a fresh process."""

import json
import subprocess
import sys

LAYERS, UNITS, BATCH = 16, 2048, 64
MODES = ("fit", "tape")
FORMATS = ("FP32", "S1E3M7", "INT8", "INT4")

_PROGRAM = """
import json, statistics, sys, time
import numpy as np, tensorflow as tf, omc
from omc.measurement.memory import measure_peak

mode, fmt, layers, units, batch = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
tf.keras.utils.set_random_seed(0)
dense = [tf.keras.layers.Dense(units, "relu") for _ in range(layers)]
model = tf.keras.Sequential([tf.keras.Input((units,)), *dense])
del dense
if fmt != "FP32":
    omc.wrap(model, fmt)
x = tf.random.normal([batch, units])
if mode == "fit":
    model.compile(tf.keras.optimizers.SGD(0.01), "mse")
    step = lambda: model.train_on_batch(x, x)
else:
    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - x) ** 2)
        for g, v in zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables):
            v.assign_sub(0.01 * g)
step(); step()
with measure_peak() as peak:
    step(); step()
seconds = []
for _ in range(5):
    start = time.perf_counter(); step(); seconds.append(time.perf_counter() - start)
print("result:" + json.dumps({
    "stored_bytes": omc.memory_report(model).stored_bytes,
    "allocator_peak_bytes": peak.allocator_total_bytes,
    "process_peak_bytes": peak.process_bytes,
    "step_seconds": statistics.median(seconds),
}))
"""


def run():
    """A step of 16 x Dense(2048) at batch 64: allocator peak, process peak, seconds.

    Mode "fit" is Keras' own SGD under `train_on_batch`; Keras gives it a dense momentum slot a
    weight even without momentum, which OMC leaves out. Mode "tape" is a plain `assign_sub`, without
    such slots for FP32 either: the harder comparison.

    Returns:
        List of dicts, one a mode and format.
    """
    print(
        f"{'mode':6}{'format':10}{'stored MB':>10}{'peak MB':>9}{'x FP32':>8}{'RSS MB':>8}", end=""
    )
    print(f"{'step s':>8}{'speed x FP32':>14}")
    rows = []
    for mode in MODES:
        for fmt in FORMATS:
            row = {"mode": mode, "format": fmt, **_measure(mode, fmt)}
            rows.append(row)
            dense = next(r for r in rows if r["mode"] == mode)
            print(
                f"{mode:6}{fmt:10}{row['stored_bytes'] / 1e6:10.1f}"
                f"{row['allocator_peak_bytes'] / 1e6:9.1f}"
                f"{row['allocator_peak_bytes'] / dense['allocator_peak_bytes']:8.3f}"
                f"{row['process_peak_bytes'] / 1e6:8.0f}{row['step_seconds']:8.3f}"
                f"{dense['step_seconds'] / row['step_seconds']:14.2f}",
                flush=True,
            )
    return rows


def _measure(mode, fmt):
    sizes = map(str, (LAYERS, UNITS, BATCH))
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, mode, fmt, *sizes],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("result:"):
            return json.loads(line[len("result:") :])
    raise RuntimeError(f"the process for {mode} {fmt} failed:\n{done.stderr[-2000:]}")
