"""Federated training on one machine, with memory and traffic measured.

  python -m tff_sims.simulate --task=digits --method=omc --format=S1E3M7 --rounds=60 --out=runs/omc
  python -m tff_sims.simulate --task=digits --method=fp32 --rounds=60 --out=runs/fp32

A task is data split over clients and a model. In every round some clients download the model, train
on their own data and send back what they learnt. With method fp32 all of that is float32 (TFF's own
federated averaging); with method omc weights are stored, trained and sent in a few bits each.

Into --out go summary.json (accuracy on held-out data, bytes, memory, speed), rounds.csv (one line a
round) and accuracy.png.
"""

import os
import sys
import tempfile
import time

from absl import app, flags, logging

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Not in main(): TensorFlow imported while absl runs an app would not be eager inside Keras.
from omc.errors import OmcError  # noqa: E402
from omc.formats import Format  # noqa: E402
from tff_sims.simulation import Settings, simulate  # noqa: E402
from tff_sims.tasks import TASKS  # noqa: E402

METHODS = ("fp32", "omc")

_FLAGS = flags.FLAGS


def _define_flags():
    flags.DEFINE_string("task", "digits", "What to learn. Allowed: digits.")
    flags.DEFINE_string("method", "omc", "fp32 (TFF's own federated averaging) or omc.")
    flags.DEFINE_string(
        "format",
        "S1E3M7",
        "Format of quantized weights with method omc: SxEyMz (1 sign, y exponent, z mantissa bits; "
        "S1E3M7 has 11), INT2 to INT8, or FP32.",
    )
    flags.DEFINE_float(
        "fraction",
        0.9,
        "Share of the weight matrices that a client quantizes, 0 to 1; which ones is drawn anew "
        "for every client and round. The others stay float32.",
    )
    flags.DEFINE_string(
        "rounding",
        "nearest",
        "How a client rounds updated weights: nearest, or stochastic (unbiased; better for formats "
        "with few bits).",
    )
    flags.DEFINE_string(
        "uplink",
        "weights",
        "What a client sends: weights (the trained weights as it holds them) or update (what "
        "changed, rounded without bias).",
    )
    flags.DEFINE_integer("rounds", 60, "Rounds of training, at least 1.")
    flags.DEFINE_integer("clients_per_round", 10, "Clients drawn in every round.")
    flags.DEFINE_float("alpha", 0.5, "How alike clients are: Dirichlet alpha, small = very unlike.")
    flags.DEFINE_float("learning_rate", None, "Rate of the clients' SGD; the task's by default.")
    flags.DEFINE_integer("seed", 0, "Seed of data split, initial weights, sampling and rounding.")
    flags.DEFINE_integer(
        "repeats", 1, "Runs with seeds seed, seed+1, ...; the summary has the mean."
    )
    flags.DEFINE_string("out", None, "Folder for the results (required).")


def check(settings, out):
    """Why a simulation cannot start, in one line that says what is allowed; None if it can.

    Args:
        settings: `Settings` as the user gave them.
        out: Folder for the results.
    """
    allowed = {
        "task": sorted(TASKS),
        "method": METHODS,
        "rounding": ("nearest", "stochastic"),
        "uplink": ("weights", "update"),
    }
    for flag, values in allowed.items():
        if getattr(settings, flag) not in values:
            return _wrong(flag, f"one of {', '.join(values)}", getattr(settings, flag))
    try:
        Format.parse(settings.format)
    except OmcError as error:
        return _wrong("format", error.expected, settings.format)
    if not 0 <= settings.fraction <= 1:
        return _wrong("fraction", "a number from 0 to 1", settings.fraction)
    for flag in ("rounds", "clients_per_round", "repeats"):
        if getattr(settings, flag) < 1:
            return _wrong(flag, "at least 1", getattr(settings, flag))
    for flag in ("alpha", "learning_rate"):
        value = getattr(settings, flag)
        if value is not None and not 0 < value < float("inf"):
            return _wrong(flag, "a number above 0", value)
    clients = TASKS[settings.task](settings.seed).num_clients
    if settings.clients_per_round > clients:
        return _wrong(
            "clients_per_round",
            f"at most {clients}, the clients of task {settings.task}",
            settings.clients_per_round,
        )
    return _unwritable(out)


def _wrong(flag, expected, got):
    return f"--{flag}: expected {expected}, but got {got!r}."


def _unwritable(out):
    if not out:
        return "--out: expected a folder for the results, but got none."
    try:  # Tried, not asked: permissions do not tell of full or read-only disks.
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return None
    except OSError as error:
        return f"--out: expected a folder that can be written, but got {out!r} ({error.strerror})."


def progress_printer():
    """Returns an `on_round` callback that prints a line a round, with the time that is left."""
    start = time.perf_counter()

    def show(row, done, total):
        left = (time.perf_counter() - start) / done * (total - done)
        print(
            f"[{done}/{total}] seed {row.seed} round {row.round}: held-out accuracy "
            f"{row.accuracy:.3f}, down {row.downlink_bytes / 1e3:,.0f} kB, up "
            f"{row.uplink_bytes / 1e3:,.0f} kB a client, {row.seconds:.1f} s, "
            f"about {_clock(left)} left",
            flush=True,
        )

    return show


def _clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main(argv):
    """Checks the flags, then simulates."""
    if len(argv) > 1:
        _fail(f"unknown argument {argv[1]!r}; flags look like --rounds=60, see --help.")
    names = Settings.__dataclass_fields__
    settings = Settings(**{name: getattr(_FLAGS, name) for name in names})
    problem = check(settings, _FLAGS.out)
    if problem:
        _fail(problem)
    logging.set_verbosity(logging.WARNING)  # Keras and TFF tell more than a user wants to read.
    command = " ".join(["python -m tff_sims.simulate", *sys.argv[1:]])
    summary = simulate(settings, _FLAGS.out, command, progress_printer())
    spread = f" ± {summary['accuracy_std']:.3f}" if settings.repeats > 1 else ""
    print(f"held-out accuracy {summary['accuracy']:.3f}{spread}; results in {_FLAGS.out}")


def _parse(argv):
    try:
        return app.parse_flags_with_usage(argv) if _wants_help(argv) else _FLAGS(argv)
    except flags.Error as error:
        return _fail(str(error).replace("\n", " "))


def _wants_help(argv):
    return any(argument.lstrip("-").startswith("help") for argument in argv[1:])


def _fail(message):
    print(message, file=sys.stderr)
    sys.exit(2)


def run():
    """Entry point: flags that do not parse end in one line and exit status 2, too."""
    _define_flags()
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
