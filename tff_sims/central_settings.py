"""Everything that decides a central training, and what is allowed."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Optional

from omc.keras.switching import PASSES
from omc.mixed_precision import STRATEGIES
from omc.mixed_precision.sensitivities import SENSITIVITIES
from tff_sims.central_data import SUBJECTS
from tff_sims.results import weights_file
from tff_sims.settings import MOST, out_of_range, refusal, unwritable, within_float32
from tff_sims.settings import as_line as _as_line
from tff_sims.tasks import TASKS

_ALLOWED = {
    "task": tuple(sorted(SUBJECTS)),
    "method": ("fp32", "nested", "allocated"),
    "batchnorm": ("sets", "shared"),
    "rounding": ("nearest", "shift"),
    "schedule": ("cosine", "constant"),
    "evaluate": ("test", "validation"),
    "activations": ("same", "none", *map(str, range(1, 9))),
}
STORED_BITS, LEAST_BITS = 8, 2


@dataclasses.dataclass(frozen=True)
class CentralSettings:
    """The flags of `tff_sims.central`.

    Attributes:
        task: Key of `tff_sims.central_data.SUBJECTS`.
        domain: Part of the task's world; None for the task's default.
        method: "fp32" (plain Keras), "nested" (INT8 codes that are trained at all `bits`), or
            "allocated" (codes of a width a layer, which are trained as they are: `omc.wrap`).
        bits: Widths that are trained, "8,6,4,3,2"; one width is dedicated training.
        extra_bits: Widths that are measured beside those, and that nobody trains.
        activations: "same" as the weights, "1" to "8" bits for every width, or "none" for float32.
        batchnorm, distillation, alrs, rounding: As in `omc.nest`.
        read_by_shift: Measure the finished model once more, read by the bare shift.
        epochs: Passes over the training data; None for the task's, 0 for calibration alone.
        batch_size: Examples of a step; None for the task's.
        learning_rate: Of SGD, at the start; None for the task's.
        schedule: "cosine" (to 0 in the last step) or "constant".
        momentum: Of SGD.
        augment: Whether to augment the training data, where the task knows how (pictures).
        init: Folder of a finished fp32 run whose weights to start from, or None.
        seed: Seed of initial weights, order and augmentation.
        train_examples: Examples to train on; None for all.
        evaluate: Part to measure on, as in `tff_sims.central_data.load`.
        calibration: Training examples from which quantizers and BatchNorm statistics are made.
        switching: None, or "hasb" to draw a width for each layer, as `omc.mixed_precision.hasb`.
        budgets: Average bits, "3,4", at which widths a layer are allocated: of a nested model after
            the training, of an allocated one before it, from the weights of `init`; None for none.
            (None, not "": so are the runs that were made before.)
        strategy, sensitivity: As in `omc.allocate`, of method allocated; None for its defaults.
    """

    task: str = "pictures"
    domain: Optional[str] = None
    method: str = "fp32"
    bits: str = "8,6,4,3,2"
    extra_bits: str = ""
    activations: str = "same"
    batchnorm: str = "sets"
    distillation: float = 0.5
    alrs: bool = True
    rounding: str = "nearest"
    read_by_shift: bool = False
    epochs: Optional[int] = None
    batch_size: Optional[int] = None
    learning_rate: Optional[float] = None
    schedule: str = "cosine"
    momentum: float = 0.9
    augment: bool = True
    init: Optional[str] = None
    seed: int = 0
    train_examples: Optional[int] = None
    evaluate: str = "test"
    calibration: int = 2000
    switching: Optional[str] = None
    budgets: Optional[str] = None
    strategy: Optional[str] = None
    sensitivity: Optional[str] = None

    @property
    def seeds(self):
        """The one seed, as a list: what `RunFolder` asks for."""
        return [self.seed]

    @property
    def nested(self):
        """Whether the model is nested."""
        return self.method == "nested"

    @property
    def allocated(self):
        """Whether each layer is stored and trained at a width of its own."""
        return self.method == "allocated"

    @property
    def widths(self):
        """Trained widths, a tuple of ints, the highest first; () where nothing is nested."""
        return parsed(self.bits) if self.nested else ()

    @property
    def extra_widths(self):
        """Widths that are measured and not trained, a tuple of ints, the highest first."""
        return parsed(self.extra_bits) if self.nested else ()

    @property
    def limits(self):
        """Budgets in average bits: a list of floats, as they were given."""
        return parsed_budgets(self.budgets) if self.budgets else []

    @property
    def passes(self):
        """Steps of the optimizer for each batch, int."""
        return PASSES if self.switching else len(self.widths) or 1

    def complete(self):
        """These settings with the task's own in place of None."""
        subject = SUBJECTS[self.task]
        rate = subject.learning_rate if self.method == "fp32" else subject.tuning_rate
        own = dict(epochs=subject.epochs, batch_size=subject.batch_size, learning_rate=rate)
        given = {name: getattr(self, name) for name in own}
        return dataclasses.replace(
            self, **{name: own[name] if value is None else value for name, value in given.items()}
        )

    def digests(self):
        """SHA-256s of data and weights to start from that lie in folders, a dict; None without."""
        digest, weights = getattr(TASKS[self.task], "digest", None), None
        if self.init is not None:
            weights = weights_file(self.init, self.seed).read_bytes()
        return {
            "data": digest(self.domain) if digest else None,
            "weights of init": hashlib.sha256(weights).hexdigest() if weights else None,
        }

    def make_task(self):
        """The `Classification`.

        Raises:
            OmcError: The task does not allow what is asked for.
        """
        split = SUBJECTS[self.task].split
        return TASKS[self.task](seed=self.seed, split=split, domain=self.domain)


def parsed(text):
    """Widths of a comma-separated list, the highest first; None where it is no such list."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdigit() and 1 <= int(part) <= STORED_BITS for part in parts):
        return None
    widths = sorted(map(int, parts), reverse=True)
    return tuple(widths) if len(set(widths)) == len(widths) else None


def parsed_budgets(text):
    """Average bits of a comma-separated list, floats; None where it is no such list."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    whole = all(1 <= bits <= STORED_BITS for bits in found)
    return found if whole and len(set(found)) == len(found) else None


def check(settings, out):
    """Why a training cannot start, in one line that says what is allowed; None if it can.

    Args:
        settings: `CentralSettings` as the user gave them.
        out: Folder for the results.
    """
    checks = (
        _wrong_name,
        _wrong_widths,
        _wrong_switching,
        _wrong_budgets,
        _wrong_number,
        _wrong_init,
    )
    for find in checks:
        problem = find(settings)
        if problem:
            return problem
    return unwritable(out)


def as_line(error):
    """As `tff_sims.settings.as_line`, with this program's flags."""
    return _as_line(error, (*CentralSettings.__dataclass_fields__, "out"))


def _wrong_name(settings):
    for flag, values in _ALLOWED.items():
        if getattr(settings, flag) not in values:
            return refusal(flag, f"one of {', '.join(values)}", getattr(settings, flag))
    allowed = TASKS[settings.task].domains
    if None not in (settings.domain, allowed) and settings.domain not in allowed:
        names = f"one of {', '.join(allowed)}" if allowed else "none"
        return refusal("domain", f"{names} with task {settings.task}", settings.domain)
    return None


def _wrong_widths(settings):
    expected = f"widths from {STORED_BITS} to 1 with commas between them, each once"
    for flag in ("bits", "extra_bits"):
        if parsed(getattr(settings, flag)) is None:
            return refusal(flag, expected, getattr(settings, flag))
    if not parsed(settings.bits):
        return refusal("bits", expected, settings.bits)
    both = sorted(set(parsed(settings.bits)) & set(parsed(settings.extra_bits)))
    if both:
        return refusal("extra_bits", "widths that are not in --bits", settings.extra_bits)
    return None


def _wrong_switching(settings):
    if settings.switching not in (None, "hasb"):
        return refusal("switching", "hasb, or nothing", settings.switching)
    if settings.switching and not settings.nested:
        return refusal("switching", "nothing but with --method=nested", settings.switching)
    if settings.switching and len(settings.widths) < 2:
        return refusal("bits", "two widths or more for --switching=hasb", settings.bits)
    return None


def _wrong_budgets(settings):
    found = None if settings.budgets is None else parsed_budgets(settings.budgets)
    if (settings.budgets is None) is not (found is None):
        expected = f"average bits from 1 to {STORED_BITS}, such as 3,4, each once"
        return refusal("budgets", expected, settings.budgets)
    if found and settings.method == "fp32":
        return refusal("budgets", "nothing with --method=fp32", settings.budgets)
    for flag, names in (("strategy", STRATEGIES), ("sensitivity", SENSITIVITIES)):
        value = getattr(settings, flag)
        if value is not None and not settings.allocated:
            return refusal(flag, "nothing but with --method=allocated", value)
        if value is not None and value not in names:
            return refusal(flag, f"one of {', '.join(names)}", value)
    if not settings.allocated:
        return None
    if not found or (len(found) > 1 and settings.epochs != 0):
        expected = "one average of bits, such as 3, or several with --epochs=0"
        return refusal("budgets", f"{expected}, for --method=allocated", settings.budgets)
    if min(found) < LEAST_BITS:
        expected = f"at least {LEAST_BITS} bits, the narrowest format, for --method=allocated"
        return refusal("budgets", expected, settings.budgets)
    if settings.init is None:
        return refusal("init", "a finished fp32 run, for --method=allocated", settings.init)
    return None


_RANGES = (
    (("epochs",), lambda v: 0 <= v <= MOST, f"0 to {MOST}"),
    # An epoch draws from 1000 * seed + epoch, which numpy wants below 2^32.
    (("seed",), lambda v: 0 <= v <= 4_000_000, "0 to 4000000"),
    (("batch_size", "train_examples", "calibration"), lambda v: 1 <= v <= MOST, f"1 to {MOST}"),
    (("learning_rate",), within_float32, "a number from 1e-30 to 1e30"),
    (("momentum",), lambda v: 0 <= v < 1, "a number from 0 to below 1"),
    (("distillation",), lambda v: 0 <= v <= 1, "a number from 0 to 1"),
)


def _wrong_number(settings):
    return out_of_range(settings, _RANGES)


def _wrong_init(settings):
    if settings.init is None:
        return None
    path = weights_file(settings.init, settings.seed)
    if not os.path.isfile(path):
        expected = f"the folder of a finished fp32 run, with {path.name}"
        return refusal("init", expected, settings.init)
    summary = pathlib.Path(settings.init) / "summary.json"
    if settings.evaluate == "validation" and summary.exists():
        other = json.loads(summary.read_text("utf-8")).get("evaluate")
        if other != "validation":
            expected = "a run with --evaluate=validation, which has not learnt what is held out"
            return refusal("init", expected, f"{settings.init}, with {other}")
    return None
