"""Everything that decides a simulation, and what is allowed."""

import dataclasses
import hashlib
import math
import os
import tempfile
from typing import Optional

import omc
from omc.errors import InputError, OmcError
from omc.formats import Format
from omc.learning import FedMPQ, client_id, downlinks, uplinks
from omc.learning.fedmpq import SCALES, STRATEGIES, WEIGHTINGS
from omc.learning.widths import Widths, checked_policy
from tff_sims import aggregation
from tff_sims.results import weights_file
from tff_sims.tasks import TASKS

METHODS = ("fp32", "omc")
ROUNDINGS = ("nearest", "stochastic")
TRANSFORMS = ("pvt", "none")
MOST = 2**31 - 1
"""Largest seed or count of a flag: what TensorFlow's int32 holds."""
_LINKS = (
    "uplink", "downlink", "clipping", "zeroing", "trimmed_share", "noise_multiplier", "epsilon",
    "rogues",
)  # fmt: skip
_OF_BUDGETS = ("allocation", "lasso", "reduction_threshold", "scales", "budget_weighting")
_FLAGS = ("out", "workers")  # Those that are no settings.


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of `tff_sims.simulate`.

    Attributes:
        task: Key of `tff_sims.tasks.TASKS`.
        method: "fp32" (TFF's own federated averaging) or "omc".
        format: Format of quantized variables; not used by method fp32.
        fraction: Share of the eligible variables that is quantized.
        transform: "pvt" (scale and offset around each variable's codes) or "none".
        weight_matrices_only: Leave biases and the like in float32.
        rounding: "nearest" or "stochastic", during the clients' training.
        uplink: Key of `omc.learning.uplinks.NAMED`.
        target_error: Of uplink "dithered": relative squared error of the cohort's mean.
        uplink_bits: Of uplink "rotated": bits a weight.
        downlink: Key of `omc.learning.downlinks.NAMED`.
        downlink_bits: Of downlinks "coded" and "changes": bits that are sent, such as "4"; None for
            all. Several, such as "4,8", are those of classes of clients behind slower and faster
            links (`omc.learning.downlinks.ByBandwidth`), drawn of shares as they are repeated.
        window: Of downlink "changes": versions that the server remembers.
        widths: Bits at which clients hold the model with method omc, such as "8,4,2"; each client
            draws one of them, of equal shares, for good. None: all as `format` says.
        budgets: Average bits a weight that clients afford with method omc, such as "2,4,6,8", for
            `omc.learning.FedMPQ`; None without it. As many as there are clients are theirs in
            order; else each client draws one, of shares as they are repeated.
        allocation: Of budgets: `strategy` of `omc.learning.FedMPQ`; None for the default.
        lasso: Of budgets: factor of the bit-level group lasso; None for the default.
        reduction_threshold: Of budgets: density of bits below which clients drop a plane; 0 for no
            precision reduction, None for the default.
        scales: Of budgets: as of `omc.learning.FedMPQ`; None for the default.
        budget_weighting: Of budgets: `weighting` of `omc.learning.FedMPQ`; None for the default.
        grid_bound: Of uplink "grid": largest change of a weight; None for the default.
        grid_bits: Of uplink "grid": bits of a code; None for the default.
        aggregator: One of `tff_sims.aggregation.NAMES`, with method fp32 one of its `FP32_NAMES`.
        trimmed_share: Of aggregator "trimmed_mean"; None for the default.
        clipping: Of aggregators "mean" and "private": largest norm of a client's change, a number;
            "adaptive" with the former; None for none.
        zeroing: Of aggregator "mean": largest change of a weight, or "adaptive"; None for none.
        noise_multiplier: Of aggregator "private": its noise, in clips; None with `epsilon`.
        epsilon: Of aggregator "private": what all rounds of one run may cost, at delta =
            clients^-1.1; None where `noise_multiplier` is given.
        rogues: Probability that a client sends what it may not (`tff_sims.rogues`).
        rounds: Most rounds of one run.
        clients: Size of the population; None for the task's.
        clients_per_round: Clients drawn in a round.
        dropout: Probability that a drawn client fails in a round.
        stragglers: Probability that a drawn client is cut off before it is done.
        split: How data is split over clients; None for the task's default.
        alpha: Dirichlet concentration of the split.
        domain: Part of the task's world; None for the task's default.
        init: Folder of a finished run whose weights to start from, or None.
        learning_rate: Rate of the clients' optimizer; None for the task's.
        evaluate_every: Rounds from one evaluation to the next; the last round always has one.
        stop_after: Rounds without a better accuracy after which a run ends; None for never.
        target: Accuracy at which a run ends; None for never.
        seed: Seed of the first run.
        repeats: Runs, with seeds seed, seed + 1, ...
        checkpoint_seconds: A checkpoint is written when the last one is older than this.
        tensorboard: Write rows for TensorBoard, too.
        client_memory: Measure the memory of one client in a process of its own, at the end.
    """

    task: str = "digits"
    method: str = "omc"
    format: str = "S1E3M7"
    fraction: float = 0.9
    transform: str = "pvt"
    weight_matrices_only: bool = True
    rounding: str = "stochastic"
    uplink: str = "weights"
    target_error: float = 0.05
    uplink_bits: int = 1
    downlink: str = "codes"
    downlink_bits: Optional[str] = None
    window: int = 8
    widths: Optional[str] = None
    budgets: Optional[str] = None
    allocation: Optional[str] = None
    lasso: Optional[float] = None
    reduction_threshold: Optional[float] = None
    scales: Optional[str] = None
    budget_weighting: Optional[str] = None
    grid_bound: Optional[float] = None
    grid_bits: Optional[int] = None
    aggregator: str = "mean"
    trimmed_share: Optional[float] = None
    clipping: Optional[str] = None
    zeroing: Optional[str] = None
    noise_multiplier: Optional[float] = None
    epsilon: Optional[float] = None
    rogues: float = 0.0
    rounds: int = 60
    clients: Optional[int] = None
    clients_per_round: int = 10
    dropout: float = 0.0
    stragglers: float = 0.0
    split: Optional[str] = None
    alpha: float = 0.5
    domain: Optional[str] = None
    init: Optional[str] = None
    learning_rate: Optional[float] = None
    evaluate_every: int = 1
    stop_after: Optional[int] = None
    target: Optional[float] = None
    seed: int = 0
    repeats: int = 1
    checkpoint_seconds: float = 10.0
    tensorboard: bool = False
    client_memory: bool = True

    @property
    def seeds(self):
        """Seeds of the runs."""
        return list(range(self.seed, self.seed + self.repeats))

    @property
    def client_widths(self):
        """`omc.learning.Widths`, `omc.learning.FedMPQ` of drawn budgets, or None.

        Raises:
            OmcError: `widths` or `budgets` is no list of widths that the format has, or needs
                another `uplink`; both at once.
        """
        return self.make_widths()

    def make_widths(self, task=None):
        """As `client_widths`; with a task also for budgets that are given to its clients in order.

        Args:
            task: `Task` of one run, or None.
        """
        flag = "widths" if self.budgets is None else "budgets"
        text = getattr(self, flag)
        if text is None:
            return None
        if self.method != "omc":
            raise InputError(flag, "none with method fp32", text)
        if None not in (self.widths, self.budgets):
            raise InputError("budgets", "none with widths", self.budgets, "give one of the two.")
        example = "8,4,2" if flag == "widths" else "2,4,6,8"
        bits = _whole_numbers(flag, text, f"whole numbers such as {example}")
        widths = Widths(tuple(bits)) if flag == "widths" else self._fedmpq(bits, task)
        policy = self.policy(self.seed)
        try:
            checked_policy(widths, policy)
        except InputError as error:
            if error.argument != "widths":
                raise
            # Budgets are of integers alone: it is the format then that does not fit.
            wrong = "format" if flag == "budgets" and policy.format.kind != "int" else flag
            raise InputError(wrong, error.expected, error.got, error.tip) from error
        self.make_uplink().check(policy, widths)
        return widths

    def _fedmpq(self, bits, task):
        budgets, assigned, threshold = tuple(dict.fromkeys(bits)), {}, self.reduction_threshold
        if task is not None and len(bits) == task.num_clients:
            ids = [client_id(task.client_dataset(client)) for client in range(len(bits))]
            assigned = dict(zip(ids, bits))
        return FedMPQ(
            budgets,
            shares=tuple(map(bits.count, budgets)),
            assigned=assigned,
            lasso=FedMPQ.lasso if self.lasso is None else self.lasso,
            threshold=FedMPQ.threshold if threshold is None else threshold or None,
            strategy=self.allocation or FedMPQ.strategy,
            scales=self.scales or FedMPQ.scales,
            weighting=self.budget_weighting or FedMPQ.weighting,
        )

    @property
    def uplink_options(self):
        """Arguments of the uplink's class, as plain values."""
        options = {
            "dithered": {"clients": self.clients_per_round, "target_error": self.target_error},
            "rotated": {"bits": self.uplink_bits},
            "grid": {"bound": self.grid_bound, "bits": self.grid_bits},
        }
        found = options.get(self.uplink, {})
        return {name: value for name, value in found.items() if value is not None}

    def make_uplink(self):
        """The `omc.learning.uplinks.Uplink`."""
        return uplinks.NAMED[self.uplink](**self.uplink_options)

    def make_downlink(self):
        """The `omc.learning.downlinks.Downlink`.

        Raises:
            InputError: `downlink_bits` is no list of whole numbers.
        """
        make = downlinks.NAMED[self.downlink]
        if self.downlink not in ("coded", "changes"):
            return make()
        options = {"window": self.window} if self.downlink == "changes" else {}
        if self.downlink_bits is None:
            return make(**options)
        expected = "a whole number such as 4, or one for each class such as 4,8"
        text = str(self.downlink_bits)  # Summaries of older runs, which fleets read, have a number.
        bits = _whole_numbers("downlink_bits", text, expected)
        classes = tuple(dict.fromkeys(bits))
        each = tuple(make(bits=own, **options) for own in classes)
        return downlinks.ByBandwidth(each, tuple(map(bits.count, classes))) if each[1:] else each[0]

    def policy(self, seed):
        """The `omc.Policy` of one run; FP32 for method fp32."""
        return omc.Policy(**self.policy_arguments(seed))

    def policy_arguments(self, seed):
        """Arguments of `policy`, as plain values."""
        if self.method == "fp32":
            return {"format": "FP32", "seed": seed}
        return {
            "format": self.format,
            "fraction": self.fraction,
            "transform": self.transform,
            "weight_matrices_only": self.weight_matrices_only,
            "rounding": self.rounding,
            "seed": seed,
        }

    def digests(self):
        """SHA-256s of data and weights to start from that lie in folders, a dict; None without."""
        digest, files = getattr(TASKS[self.task], "digest", None), []
        if self.init is not None:
            files = [weights_file(self.init, seed) for seed in self.seeds]
        weights = b"".join(path.read_bytes() for path in files)
        return {
            "data": digest(self.domain) if digest else None,
            "weights of init": hashlib.sha256(weights).hexdigest() if files else None,
        }

    def make_task(self, seed):
        """The `Task` of one run.

        Raises:
            OmcError: The task does not allow what is asked for.
        """
        return TASKS[self.task](**self.task_arguments(seed))

    def task_arguments(self, seed):
        """Arguments of `make_task`'s function, as plain values."""
        return {
            "seed": seed,
            "split": self.split,
            "alpha": self.alpha,
            "clients": self.clients,
            "domain": self.domain,
        }


def _whole_numbers(flag, text, expected):
    """The ints of a flag that lists them."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(flag, expected, text) from None


def check(settings, out):
    """Why a simulation cannot start, in one line that says what is allowed; None if it can.

    Args:
        settings: `Settings` as the user gave them.
        out: Folder for the results.
    """
    for find in (_wrong_name, _wrong_number, _wrong_links, _wrong_init, _wrong_task):
        problem = find(settings)
        if problem:
            return problem
    return unwritable(out)


def refusal(flag, expected, got):
    """The line that refuses a flag."""
    return f"--{flag}: expected {expected}, but got {got!r}."


def as_line(error, names=None):
    """An `OmcError` as one line for the user, who knows arguments as flags.

    Args:
        error: The error.
        names: Names of the program's flags; None for those of a simulation.
    """
    argument = error.argument
    names = (*Settings.__dataclass_fields__, *_FLAGS) if names is None else names
    flag = f"--{argument}" if argument in names else argument
    got = error.got if isinstance(error.got, str) else repr(error.got)
    return f"{flag}: expected {error.expected}, but got {got}. {error.tip}".strip()


def _wrong_name(settings):
    allowed = {
        "task": sorted(TASKS),
        "method": METHODS,
        "rounding": ROUNDINGS,
        "uplink": tuple(uplinks.NAMED),
        "downlink": tuple(downlinks.NAMED),
        "aggregator": aggregation.FP32_NAMES if settings.method == "fp32" else aggregation.NAMES,
        "transform": TRANSFORMS,
        "allocation": (None, *STRATEGIES),
        "scales": (None, *SCALES),
        "budget_weighting": (None, *WEIGHTINGS),
    }
    for flag, values in allowed.items():
        if getattr(settings, flag) not in values:
            names = ", ".join(filter(None, values))
            return refusal(flag, f"one of {names}", getattr(settings, flag))
    task = TASKS[settings.task]
    for flag, values in (("split", task.splits), ("domain", task.domains)):
        value = getattr(settings, flag)
        if None not in (value, values) and value not in values:
            names = f"one of {', '.join(values)}" if values else "none"
            return refusal(flag, f"{names} with task {settings.task}", value)
    try:
        Format.parse(settings.format)
    except OmcError as error:
        return refusal("format", error.expected, settings.format)
    return None


def within_float32(value):
    """Whether a float keeps well within the range that float32 has for it."""
    return 1e-30 <= value <= 1e30


_RANGES = (
    (("fraction",), lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    (
        ("lasso", "noise_multiplier"),
        lambda v: v == 0 or within_float32(v),
        "0, or a number from 1e-30 to 1e30",
    ),
    (
        ("dropout", "stragglers", "reduction_threshold", "rogues"),
        lambda v: 0 <= v < 1,
        "a number from 0 to below 1",
    ),
    (
        (
            "rounds",
            "clients",
            "clients_per_round",
            "repeats",
            "evaluate_every",
            "stop_after",
        ),
        lambda v: 1 <= v <= MOST,
        f"1 to {MOST}",
    ),
    (("window",), lambda v: 1 <= v <= 1024, "1 to 1024"),
    (("uplink_bits",), lambda v: 1 <= v <= 4, "1 to 4"),
    (("grid_bits",), lambda v: 2 <= v <= 24, "2 to 24"),
    # Below, numpy's Dirichlet draws end in NaN or never; above, all clients are alike.
    (("alpha",), lambda v: 1e-3 <= v <= 1e6, "a number from 0.001 to 1000000"),
    (
        ("learning_rate",),
        within_float32,
        "a number from 1e-30 to 1e30",
    ),
    (("target_error",), lambda v: 1e-10 <= v <= 1e6, "a number from 1e-10 to 1e6"),
    (("grid_bound",), lambda v: 1e-30 <= v <= 1e28, "a number from 1e-30 to 1e28"),
    (("target",), lambda v: 0 < v <= 1, "an accuracy above 0, at most 1"),
    (("seed",), lambda v: 0 <= v <= MOST, f"0 to {MOST}"),
    (("checkpoint_seconds",), lambda v: 0 <= v < math.inf, "a number of seconds from 0"),
)


def _wrong_number(settings):
    problem = out_of_range(settings, _RANGES)
    if problem is None and settings.seed + settings.repeats - 1 > MOST:
        expected = f"seeds of at most {MOST}, the last being --seed + --repeats - 1"
        return refusal("repeats", expected, settings.repeats)
    return problem


def out_of_range(settings, ranges):
    """The line that refuses the first flag beyond its range; None if there is none.

    Args:
        settings: Object with the flags as attributes; None is within any range.
        ranges: Tuple of (names, function that tells whether a value is allowed, what is allowed).
    """
    for flags, allowed, expected in ranges:
        for flag in flags:
            value = getattr(settings, flag)
            if value is not None and not allowed(value):
                return refusal(flag, expected, value)
    return None


def _wrong_links(settings):
    try:
        widths, policy = settings.client_widths, settings.policy(settings.seed)
        downlink = settings.make_downlink()
        if settings.method == "omc":
            downlink.check(policy, widths)
            settings.make_uplink().check(policy, widths)
            aggregation.check(settings)
        for flag in _LINKS if settings.method == "fp32" else ():
            if getattr(settings, flag) != getattr(Settings, flag):
                return refusal(flag, "none with method fp32", getattr(settings, flag))
    except OmcError as error:
        return as_line(error)
    for flag in _OF_BUDGETS:
        if settings.budgets is None and getattr(settings, flag) is not None:
            return refusal(flag, "none without --budgets", getattr(settings, flag))
    if settings.downlink_bits is not None and settings.downlink == "codes":
        expected = "none with --downlink=codes (coded and changes send fewer bits)"
        return refusal("downlink_bits", expected, settings.downlink_bits)
    return None


def _wrong_init(settings):
    if settings.init is None:
        return None
    for seed in settings.seeds:
        path = weights_file(settings.init, seed)
        if not os.path.isfile(path):
            return refusal("init", f"the folder of a finished run, with {path.name}", settings.init)
    return None


def _wrong_task(settings):
    try:
        task = settings.make_task(settings.seed)
    except OmcError as error:
        return as_line(error)
    if settings.clients_per_round > task.num_clients:
        return refusal(
            "clients_per_round",
            f"at most {task.num_clients}, the clients of task {settings.task}",
            settings.clients_per_round,
        )
    return None


def unwritable(out):
    """The line that refuses a folder for the results; None where it can be written."""
    if not out:
        return "--out: expected a folder for the results, but got none."
    try:  # Tried, not asked: permissions do not tell of full or read-only disks.
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return None
    except (OSError, ValueError) as error:  # A name that no file can have is a ValueError.
        why = getattr(error, "strerror", error)
        return f"--out: expected a folder that can be written, but got {out!r} ({why})."
