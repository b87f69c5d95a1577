"""Training on one machine without a federation: in FP32, or nested, one model at many widths.

  python -m tff_sims.central --task=pictures --domain=DATA --epochs=20 --out=runs/fp32
  python -m tff_sims.central --task=pictures --domain=DATA --method=nested --bits=8,6,4,3,2 \\
      --init=runs/fp32 --out=runs/nested

  python -m tff_sims.central --task=pictures --domain=DATA --method=allocated --budgets=3 \\
      --epochs=2 --init=runs/fp32 --out=runs/allocated

All clients' training data is joined. Method nested stores the weights as INT8 codes and takes a
step at every width for each batch (omc.nest): with one width that is dedicated training, with
--epochs=0 it is a calibration of what was trained before. At the end, BatchNorm statistics are
estimated anew, from training examples, and each width is measured on held-out data. With --budgets,
so are models whose layers have a width each, as `omc.allocate` gives them for an average, without
training them for it; --switching=hasb trains for that. Method allocated gives each layer a width
of its own before training, by --strategy and --sensitivity, and stores nothing else (omc.wrap).

Into --out go summary.json (accuracy at each width, bytes, seconds a step) and the weights:
weights-SEED.npz of method fp32, for --init, and model.omc of the others, for omc.load.

A run that was interrupted goes on after its last whole epoch when the same command is given again.
"""

import os
import sys
import time
import typing

from absl import flags, logging

from tff_sims import command_line
from tff_sims.machine import few_heaps

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if __name__ == "__main__":
    few_heaps()

# Not in main(): TensorFlow imported while absl runs an app would not be eager inside Keras.
import omc.learning  # noqa: E402, F401 (has TFF, which the tasks import, end in silence)
from omc.errors import OmcError  # noqa: E402
from tff_sims.central_settings import CentralSettings, as_line, check  # noqa: E402
from tff_sims.central_training import train  # noqa: E402

_HELP = {
    "task": "What to learn: digits, keywords or pictures.",
    "domain": "Part of the task's world; of pictures the folder or zip.",
    "method": "fp32; nested: INT8 codes that are trained at all --bits; or allocated: codes of a "
    "width a layer.",
    "bits": "Widths to train, such as 8,6,4,3,2; one for dedicated training.",
    "extra_bits": "Widths to measure that nobody trains, such as 7,5.",
    "activations": "Bits of activations: same as the weights', 1 to 8 at every width, or none.",
    "batchnorm": "sets (each width has its own), or shared (only the statistics are its own).",
    "distillation": "Share, 0 to 1, of what a width is taught by the next higher one.",
    "alrs": "Adapt the rates of the scales to each width (ALRS).",
    "rounding": "How lower widths are read: nearest (Double Rounding) or shift (bits cut off).",
    "read_by_shift": "Measure the finished model once more, read by the bare shift.",
    "epochs": "Passes over the training data; the task's by default, 0 for calibration alone.",
    "batch_size": "Examples of a step; the task's by default.",
    "learning_rate": "Rate of SGD at the start; by default the task's for the method.",
    "schedule": "cosine (to 0 in the last step) or constant.",
    "momentum": "Momentum of SGD.",
    "augment": "Crop and mirror pictures at random; of other tasks nothing.",
    "init": "Folder of a finished fp32 run: start from its weights, of the same seed.",
    "seed": "Seed of initial weights, order and augmentation.",
    "train_examples": "Examples to train on, for cheap runs; all by default.",
    "evaluate": "What to measure on: test, or validation (a tenth of the training data, which is "
    "then not trained on), for choices.",
    "calibration": "Training examples for quantizers and BatchNorm statistics.",
    "switching": "hasb: steps at the highest width, at one drawn for each layer, at the lowest.",
    "budgets": "Average bits, such as 3,4, to allocate a width a layer at, and to measure.",
    "strategy": "How method allocated searches, such as exact or fixed (see omc.allocate).",
    "sensitivity": "What its allocation makes least, such as error or hessian_error.",
}
_FLAGS = flags.FLAGS


def _define_flags():
    define = {
        bool: flags.DEFINE_bool,
        float: flags.DEFINE_float,
        int: flags.DEFINE_integer,
        str: flags.DEFINE_string,
    }
    for name, field in CentralSettings.__dataclass_fields__.items():
        kind, *_ = typing.get_args(field.type) or (field.type,)  # Optional[int] is of int.
        define[kind](name, field.default, _HELP[name])
    flags.DEFINE_string("out", None, "Folder for the results (required).")
    flags.DEFINE_bool("restart", False, "Begin anew: remove what an earlier run left in --out.")


def progress_printer():
    """Returns an `on_epoch` callback that prints a line an epoch, with the time that is left."""
    start, shown = time.perf_counter(), 0

    def show(done, total, log):
        nonlocal shown
        shown += 1
        left = (time.perf_counter() - start) / shown * (total - done)
        print(
            f"[{done}/{total}] loss {log['loss']:.4f}, training accuracy {log['accuracy']:.3f}, "
            f"{log['seconds']:.1f} s, about {int(left) // 60}:{int(left) % 60:02d} left",
            flush=True,
        )

    return show


def main(argv):
    """Checks the flags, then trains."""
    if len(argv) > 1:
        command_line.fail(f"unknown argument {argv[1]!r}; flags look like --epochs=10, see --help.")
    names = CentralSettings.__dataclass_fields__
    settings = CentralSettings(**{name: getattr(_FLAGS, name) for name in names})
    problem = check(settings, _FLAGS.out)
    if problem:
        command_line.fail(problem)
    logging.set_verbosity(logging.ERROR)  # Keras tells more than a user wants to read.
    command = " ".join(["python -m tff_sims.central", *sys.argv[1:]])
    try:
        summary = train(
            settings,
            _FLAGS.out,
            command,
            on_epoch=progress_printer(),
            on_start=lambda text: print(text, flush=True),
            restart=_FLAGS.restart,
        )
    except OmcError as error:
        command_line.fail(as_line(error))
    shown = ", ".join(f"{100 * a:.2f} % at {w}" for w, a in summary["accuracies"].items())
    for row in summary.get("allocations") or () if settings.nested else ():
        print(f"{row['budget']:g} bits, {row['sensitivity']}: {100 * row['accuracy']:.2f} %")
    print(f"{settings.evaluate} accuracy {shown} bits; results in {_FLAGS.out}")


def run():
    """Entry point: flags that do not parse end in one line."""
    command_line.run(main, _define_flags)


if __name__ == "__main__":
    run()
