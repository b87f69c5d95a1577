"""Whether OMC trains under a memory limit at which FP32 training dies.

python -m benchmarks.memory_cap                  # the Conformer of 117 M weights, about 4 minutes
python -m benchmarks.memory_cap --limit=700      # another limit

Each variant runs in a process of its own, which sets the operating system's limit (RLIMIT_DATA:
what a process may map for its data) as soon as TensorFlow is loaded: so many MB more than that
has taken by then. Then it builds the model, wraps it if it is OMC's turn, and trains by model.fit
with SGD and CTC on ten seconds of noise, the blocks recomputed in backward in every variant.

Exit status: 0 if FP32 ran out of memory and OMC trained, 1 if not, 2 for a wrong argument.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import sys
import tempfile
import time

import psutil

from benchmarks import harness

# "limit": MB over TensorFlow itself.
SIZES = {
    "large": {"overrides": {}, "outputs": 4096, "frames": 1000, "limit": 1150},
}
_STUCK_SECONDS = 30  # Without half a second of computing.
_TRAINED, _DIED = "trained", "out of memory"
# Each tensor is then a piece of memory of its own, given back at once: the limit meets what
# training needs, and not the steps in which a pool of memory grows.
_EXACT = {
    **harness.HEAP,
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
VARIANTS = (("FP32", "fit"), ("FP32", "lean"), ("S1E3M7", "0.9"))
_OUT_OF_MEMORY = re.compile(
    r"ResourceExhausted|OOM when allocating|bad_alloc|MemoryError|Cannot allocate memory"
    r"|[Oo]ut of memory|failed to allocate|mmap failed"
)


def main(arguments=None):
    """Runs every variant under the limit and prints what became of it.

    Args:
        arguments: List of str; None for those of the command line.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="large", choices=SIZES, help="which model")
    parser.add_argument("--limit", type=int, help="MB over TensorFlow itself; the size's default")
    parser.add_argument("--steps", type=int, default=3, help="training steps")
    options = parser.parse_args(arguments)
    for name in ("limit", "steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            _refuse(f"--{name}: expected at least 1, but got {value}.")
    if not pathlib.Path("/proc/self/status").exists():
        _refuse("memory_cap: expected Linux with /proc, whose limits it uses.")
    limit = SIZES[options.size]["limit"] if options.limit is None else options.limit
    table = harness.Table(
        "memory_cap",
        f"Training with {limit} MB over TensorFlow itself",
        [
            ("variant", "weights", ""),
            ("outcome", "outcome", ""),
            ("stored", "stored MB", ".1f"),
            ("first", "first loss", ".1f"),
            ("last", "last loss", ".1f"),
            ("seconds", "s in all", ".0f"),
        ],
    )
    for fmt, how in VARIANTS:
        print(f"\n{fmt} {how}, at most {limit} MB over TensorFlow itself", flush=True)
        table.rows.append({"variant": f"{fmt} {how}", **_run(fmt, how, options, limit)})
        print(f"  {table.rows[-1]['outcome']}", flush=True)
    table.show()
    *peers, ours = (row["outcome"] for row in table.rows)
    if all(outcome.startswith(_DIED) for outcome in peers) and ours.startswith(_TRAINED):
        print(f"\nUnder {limit} MB FP32 training dies, and OMC trains.")
        return 0
    print("\nNot shown: FP32 should run out of memory, and OMC should train.")
    return 1


def _refuse(message):
    print(message, file=sys.stderr)
    sys.exit(2)


def _run(fmt, how, options, limit):
    """One variant in a process of its own: a row of the table."""
    arguments = {"variant": [fmt, how], "size": options.size, "limit": limit}
    program = (
        "import json, sys\n"
        "from benchmarks import memory_cap\n"
        "memory_cap.train(**json.loads(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", program, json.dumps({**arguments, "steps": options.steps})]
    paths = [str(harness.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **_EXACT, "PYTHONPATH": os.pathsep.join(paths)}
    start, row, losses = time.perf_counter(), {}, []
    # Files, for a process that hangs would hold a pipe open without a word.
    with tempfile.TemporaryFile("w+b") as output, tempfile.TemporaryFile("w+b") as errors:
        process = psutil.Popen(command, stdout=output, stderr=errors, env=environment)
        try:
            stuck = _follow(process, output, row, losses)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()
        errors.seek(0)
        wrote = errors.read().decode(errors="replace")
    row["seconds"] = time.perf_counter() - start
    built = "stored" in row
    row["outcome"] = _outcome(process.returncode, wrote, len(losses), built, stuck)
    if losses:
        row |= {"first": losses[0], "last": losses[-1]}
    return row


def _follow(process, output, row, losses):
    """Tells what a variant's process does, until it ends; returns whether it got stuck."""
    done, cpu, idle_since = 0, 0.0, time.perf_counter()
    while True:
        ended = process.poll() is not None
        text = os.pread(output.fileno(), 1 << 20, done).decode()
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            done += len(line)
            key, _, value = line.strip().partition("=")
            if key == "loss":
                losses.append(float(value))
                print(f"  step {len(losses)}: loss {losses[-1]:.1f}", flush=True)
            elif key == "stored":
                row["stored"] = float(value)
                print(f"  built, {row['stored']:.1f} MB of weights stored", flush=True)
        if ended:
            return False
        with contextlib.suppress(psutil.Error):
            used = sum(process.cpu_times()[:2])
            if used - cpu > 0.5:
                cpu, idle_since = used, time.perf_counter()
        if time.perf_counter() - idle_since > _STUCK_SECONDS:
            return True
        time.sleep(0.2)


def _outcome(status, wrote, steps, built, stuck=False):
    if status == 0:
        return f"{_TRAINED} {steps} steps"
    where = f"in step {steps + 1}" if built else "while building"
    if _OUT_OF_MEMORY.search(wrote):
        return f"{_DIED} {where}"
    if stuck:  # TensorFlow's threads wait for one that got no memory.
        return f"{_DIED} {where}, and stuck there"
    if status in (-signal.SIGSEGV, -signal.SIGABRT):
        return f"{_DIED} {where}, {signal.Signals(-status).name}"
    last = wrote.strip().splitlines()[-1:] or ["without a word"]
    return f"failed {where}, exit status {status}: {last[0][:200]}"


def train(variant, size, limit, steps):
    """Trains under the limit, telling on stdout what it does; for a process of its own.

    Args:
        variant: [format, how], see `benchmarks.conformer.Variant`.
        size: Name in SIZES.
        limit: MB over what the process takes for its data once TensorFlow is loaded.
        steps: Training steps.
    """
    # TensorFlow only in this process: the parent has no use for it.
    import tensorflow as tf

    from benchmarks import conformer
    from models import CONFORMERS
    from omc.measurement import memory_report

    class Tell(tf.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            print(f"loss={logs['loss']}", flush=True)

    chosen = SIZES[size]
    sizes = {**CONFORMERS["large"], **chosen["overrides"]}
    tf.linalg.matmul(
        tf.ones([512, 512]), tf.ones([512, 512])
    )  # Threads and their stacks are there.
    most = _data_bytes() + limit * 10**6
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    model = conformer.build(conformer.Variant(*variant), True, sizes, chosen["outputs"])
    print(f"stored={memory_report(model).stored_bytes / 1e6}", flush=True)
    data = tf.data.Dataset.from_tensors(conformer.utterance(chosen["frames"], chosen["outputs"]))
    model.fit(data.repeat(), steps_per_epoch=1, epochs=steps, verbose=0, callbacks=[Tell()])


def _data_bytes():
    """What this process has mapped for its data, the figure that RLIMIT_DATA is held against."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmData:\s+(\d+) kB", status)[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
