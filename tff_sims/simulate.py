"""Federated training on one machine or several, with memory and traffic measured.

  python -m tff_sims.simulate --task=digits --method=omc --format=S1E3M7 --rounds=60 --out=runs/omc
  python -m tff_sims.simulate --task=digits --method=fp32 --rounds=60 --out=runs/fp32

A task is data split over clients and a model. In every round some clients download the model, train
on their own data and send back what they learnt. With method fp32 all of that is float32 (TFF's own
federated averaging); with method omc weights are stored, trained and sent in a few bits each.

Into --out go summary.json (accuracy on held-out data, bytes, memory, speed), rounds.csv (one line a
round), accuracy.png and weights-SEED.npz (the final float32 master, for --init).

A run that was interrupted, however that happened, goes on where it was when the same command is
given again, with the same results. docs/simulations.md tells more.
"""

import os
import sys
import time

from absl import flags, logging

from tff_sims import command_line
from tff_sims.machine import few_heaps

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if __name__ == "__main__":
    few_heaps()

# Not in main(): TensorFlow imported while absl runs an app would not be eager inside Keras.
from omc.errors import OmcError, WorkerError  # noqa: E402
from omc.learning.links import close_links, open_links  # noqa: E402
from tff_sims.settings import Settings, as_line, check  # noqa: E402
from tff_sims.simulation import simulate  # noqa: E402
from tff_sims.tasks import TASKS  # noqa: E402

_FLAGS = flags.FLAGS


def _define_flags():
    def default(name):
        return Settings.__dataclass_fields__[name].default

    def string(name, text):
        flags.DEFINE_string(name, default(name), text)

    def integer(name, text):
        flags.DEFINE_integer(name, default(name), text)

    def number(name, text):
        flags.DEFINE_float(name, default(name), text)

    string("task", f"What to learn. Allowed: {', '.join(sorted(TASKS))}.")
    string("method", "fp32 (TFF's own federated averaging) or omc.")
    string(
        "format",
        "Format of quantized weights with method omc: SxEyMz (1 sign, y exponent, z mantissa bits; "
        "S1E3M7 has 11), INT2 to INT8, or FP32.",
    )
    number(
        "fraction",
        "Share of the weight matrices that a client quantizes, 0 to 1; which ones is drawn anew "
        "for every client and round. The others stay float32.",
    )
    string(
        "transform",
        "pvt (a scale and an offset around each variable's codes) or none (bare codes).",
    )
    flags.DEFINE_bool(
        "weight_matrices_only",
        default("weight_matrices_only"),
        "Quantize weight matrices only; with --noweight_matrices_only biases and the like, too.",
    )
    string(
        "rounding",
        "How a client rounds updated weights: nearest, or stochastic (unbiased; better for formats "
        "with few bits).",
    )
    string(
        "uplink",
        "What a client sends: weights (the trained weights as it holds them), update (what "
        "changed, rounded without bias), dithered (what changed, in about a bit a weight, coded), "
        "rotated (EDEN: --uplink_bits a weight, not coded) or grid (integers for --aggregator="
        "secure). docs/uplinks.md tells more.",
    )
    number(
        "target_error",
        "With --uplink=dithered: squared error that is left in the mean over --clients_per_round, "
        "relative to one client's change.",
    )
    integer("uplink_bits", "With --uplink=rotated: bits a weight, 1 to 4.")
    string(
        "downlink",
        "What a client gets: codes (the weights as it stores them), coded (the same, entropy "
        "coded) or changes (what changed since the version that the device holds). "
        "docs/downlinks.md tells more.",
    )
    string(
        "downlink_bits",
        "With --downlink=coded or changes: bits that are sent of each weight, fewer than --format "
        "stores; all by default. Several, such as 4,4,4,8, are those of classes of clients behind "
        "slower and faster links: each client belongs to one for good, here three of four to the "
        "slower one.",
    )
    integer("window", "With --downlink=changes: versions that the server remembers.")
    string(
        "widths",
        "Bits at which clients hold, train and send the model with method omc, such as 8,4,2: each "
        "client draws one of them, for good. The server keeps one model in --format, from which "
        "every width is read (nested precision). Needs --uplink=update. By default all clients "
        "hold --format.",
    )
    string(
        "budgets",
        "Average bits a weight that clients afford with method omc, such as 2,4,6,8 (FedMPQ): each "
        "layer of each client gets a width of its own, anew every round. As many as --clients are "
        "theirs in order; else each client draws one, repeated ones more often. Needs --uplink of "
        "changes, --format=INT8 or narrower and --fraction=1. docs/fedmpq.md tells more.",
    )
    string(
        "allocation",
        "With --budgets: least_error (each layer's widths by what they cost in squared error), "
        "pruning_growing (the paper's) or fixed (every layer at its client's budget).",
    )
    string(
        "scales",
        "With --budgets: fitted (narrow codes at the scale of least error) or largest (that of the "
        "largest weight).",
    )
    string(
        "budget_weighting",
        "With --budgets: a client's weight in the mean: budget (examples x budget) or examples.",
    )
    number("grid_bound", "With --uplink=grid: largest change of a weight that is sent.")
    integer("grid_bits", "With --uplink=grid: bits of a code, 2 to 24.")
    string(
        "aggregator",
        "What the server makes of the answers: mean (weighted by examples), trimmed_mean or median "
        "(robust), private (differential privacy: --clipping, --noise_multiplier) or secure (TFF's "
        "secure sum; needs --uplink=grid). With --method=fp32: mean, or compression (TFF's own "
        "compression_aggregator). docs/aggregators.md tells more.",
    )
    number("trimmed_share", "With --aggregator=trimmed_mean: clients left out at either end.")
    string(
        "clipping",
        "With --aggregator=mean or private: largest norm of a client's change, a number, or "
        "(mean) adaptive.",
    )
    string(
        "zeroing",
        "With --aggregator=mean: a client that changes a weight by more than this "
        "number, or adaptive, does not count.",
    )
    number(
        "noise_multiplier",
        "With --aggregator=private: deviation of the noise on the sum, in clips. The summary has "
        "epsilon.",
    )
    number(
        "epsilon",
        "With --aggregator=private, in place of --noise_multiplier: the least noise with which all "
        "rounds together stay below it.",
    )
    number(
        "rogues",
        "Probability that a client sends what it may not (NaN, a scale of 1e30, another round's "
        "answer, ...), to see what the server does about it.",
    )
    number("lasso", "With --budgets: factor of the bit-level group lasso; 0 for none.")
    number(
        "reduction_threshold",
        "With --budgets: clients drop bit planes that are less dense than this; 0 for none.",
    )
    integer("rounds", "Rounds of training, at least 1.")
    integer(
        "clients",
        "Size of the population; the task's by default. Its memory does not grow with it.",
    )
    integer("clients_per_round", "Clients drawn in every round.")
    number(
        "dropout",
        "Probability that a drawn client fails in a round: it has downloaded (which counts), its "
        "update is lost. A round in which all fail leaves the weights as they are.",
    )
    number(
        "stragglers",
        "Probability that a drawn client is slow: it is cut off after a share of its batches, "
        "uniform between 0 and 1 and at least one batch, and sends what it has.",
    )
    string("split", "How data is split over clients, " + _by_task("splits"))
    number("alpha", "How alike clients are: Dirichlet alpha, small = very unlike.")
    string("domain", "Part of the task's world to train and test on, " + _by_task("domains"))
    string(
        "init",
        "Folder of a finished run: start from its final float32 weights, of the same seed, in "
        "place of random ones.",
    )
    number("learning_rate", "Rate of the clients' optimizer; the task's by default.")
    integer(
        "evaluate_every",
        "Rounds from one evaluation to the next; the last round always has one.",
    )
    integer(
        "stop_after",
        "End a run early once its best held-out accuracy is this many rounds old; looked at when "
        "it is evaluated. The last weights count, not the best.",
    )
    number("target", "End a run early once its held-out accuracy reaches this.")
    integer("seed", "Seed of data split, initial weights, sampling and rounding.")
    integer("repeats", "Runs with seeds seed, seed+1, ...; the summary has the mean.")
    number(
        "checkpoint_seconds",
        "A checkpoint is written after a round when the last one is older than this: at most so "
        "much work is done again after a kill. 0 for one after every round.",
    )
    flags.DEFINE_bool(
        "tensorboard",
        default("tensorboard"),
        "Also write every round for TensorBoard, into OUT/tensorboard.",
    )
    flags.DEFINE_list(
        "workers",
        [],
        "Addresses, host:port,host:port, of TFF workers to train on, started with python -m "
        "tff_sims.workers; by default one local worker. docs/workers.md tells more.",
    )
    flags.DEFINE_bool(
        "client_memory",
        default("client_memory"),
        "Measure the peak memory of one client in a process of its own, after the last round.",
    )
    flags.DEFINE_string("out", None, "Folder for the results (required).")
    flags.DEFINE_bool(
        "restart", False, "Begin anew: remove the results that an earlier run left in --out."
    )


def _by_task(attribute):
    choices = {name: getattr(task, attribute) for name, task in sorted(TASKS.items())}
    texts = [
        f"{name}: {'a folder' if names is None else ', '.join(names) or 'none'}"
        for name, names in choices.items()
    ]
    return f"by task, the default first ({'; '.join(texts)})."


def progress_printer():
    """Returns an `on_round` callback that prints a line a round, with the time that is left."""
    start, shown = time.perf_counter(), 0

    def show(row, done, total):
        nonlocal shown
        shown += 1
        left = (time.perf_counter() - start) / shown * (total - done)
        lost = f", {row.failed} of {row.clients} clients failed" if row.failed else ""
        accuracy = f"held-out accuracy {row.accuracy:.3f}" if row.evaluated else "not evaluated"
        print(
            f"[{done}/{total}] seed {row.seed} round {row.round}: {accuracy}{lost}, "
            f"down {row.downlink_bytes / 1e3:,.0f} kB, up {row.uplink_bytes / 1e3:,.0f} kB "
            f"a client, {row.seconds:.1f} s, about {_clock(left)} left",
            flush=True,
        )

    return show


def _clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main(argv):
    """Checks the flags, then simulates."""
    if len(argv) > 1:
        command_line.fail(f"unknown argument {argv[1]!r}; flags look like --rounds=60, see --help.")
    names = Settings.__dataclass_fields__
    settings = Settings(**{name: getattr(_FLAGS, name) for name in names})
    problem = check(settings, _FLAGS.out)
    if problem:
        command_line.fail(problem)
    if _FLAGS.workers:
        try:
            close_links(open_links(_FLAGS.workers))
        except OmcError as error:
            command_line.fail(as_line(error))
    logging.set_verbosity(logging.WARNING)  # Keras and TFF tell more than a user wants to read.
    command = " ".join(["python -m tff_sims.simulate", *sys.argv[1:]])
    try:
        summary = simulate(
            settings,
            _FLAGS.out,
            command,
            on_round=progress_printer(),
            on_start=lambda text: print(text, flush=True),
            restart=_FLAGS.restart,
            workers=_FLAGS.workers,
        )
    except WorkerError as error:
        command_line.fail(as_line(error), status=1)
    except OmcError as error:
        command_line.fail(as_line(error))
    spread = f" ± {summary['accuracy_std']:.3f}" if settings.repeats > 1 else ""
    print(f"held-out accuracy {summary['accuracy']:.3f}{spread}; results in {_FLAGS.out}")


def run():
    """Entry point: flags that do not parse end in one line."""
    command_line.run(main, _define_flags)


if __name__ == "__main__":
    run()
