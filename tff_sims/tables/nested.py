"""Double Rounding's table (arXiv 2502.01199), re-implemented: one model at many widths, and rivals.

What differs from the paper (ours): weights are stored as INT8 codes and as nothing else while they
train, the first and the last layer in 8 bits in place of float32, one width teaches the next, and
all is small: networks that two cores train in minutes. Figures are to be compared with FP32 and
with dedicated training here, seed by seed, and not with the paper's.
"""

import dataclasses
from typing import Optional

from tff_sims.tables.central_runs import START, CentralRuns
from tff_sims.tables.plan import (
    Claim,
    Curve,
    Effect,
    Reading,
    Subject,
    Table,
    WidthRow,
    WidthSection,
)

NAME = "nested"
WIDTHS = (8, 6, 4, 3, 2)
WITH_DOMAIN = ("pictures",)
# Labels of rows, and their runs where these have other names.
_START, _FP32 = "FP32, the start", "FP32"
_DEDICATED, _JOINT = "dedicated, one model a width", "joint"
_AFTER = "calibrated after training", "calibrated"
_RUN_FP32 = "FP32-longer"
_ACTIVATIONS = {"same": "activations as weights", "eight": "activations at 8"}
_FEW = (8, 6, 4, 2)  # Trained where 3 is to be a width that nobody trained.
_BETWEEN = (7, 5)
_WEIGHT = 1.4  # Time of a step at one width, in FP32's.
_LIMITS = {  # What joint training may lose at a width, in points -> against (dedicated, FP32).
    8: (0.5, 0.5),
    6: (0.5, 0.5),
    4: (0.5, 0.5),
    2: (1.0, 3.0),
}
_ENDS = (8, 2)  # Widths that are trained for themselves where all rows are longer.
_SHOWN = (8, 4, 2)  # Widths at which effects are judged.
_LINE_LIMIT = 1.5  # Points that an untrained width may be below the line between its neighbours.
_PARTS = {  # Row of the ablation -> (run, flags, what is taken away).
    "no ALRS": ("no-alrs", {"alrs": False}, "ALRS"),
    "no distillation": ("no-distillation", {"distillation": 0.0}, "distillation"),
    "one BatchNorm set": ("one-batchnorm", {"batchnorm": "shared"}, "a BatchNorm set a width"),
    "bare shift, trained for it": ("shift", {"rounding": "shift"}, "the second rounding"),
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        epochs: Epochs of FP32, from whose weights every row of the same seed starts.
        row_epochs: Epochs of a row: dedicated, joint, and FP32 that is trained on as long.
        more_epochs: Epochs of the rows that show what more of them do, with the first seed alone;
            None for no such rows.
        seeds: Tuple of ints.
        train_examples: Examples that everything trains on; None for all.
        learning_rate: Of the rows, at the start.
        distillation: Share of the joint rows' loss.
    """

    epochs: int
    row_epochs: int
    seeds: tuple
    train_examples: Optional[int] = None
    learning_rate: float = 0.05
    distillation: float = 0.5
    more_epochs: Optional[int] = None


TASKS = {
    "pictures": Subject(Scale(24, 2, (0, 1), more_epochs=8), Scale(3, 1, (0,), 5120)),
    "keywords": Subject(Scale(20, 10, (0, 1, 2), learning_rate=0.1), Scale(5, 2, (0,))),
}
"""Tasks that the table can be made of; the first is the default."""


def build(task="pictures", quick=False, domain=None):
    """The table's plan.

    Args:
        task: Key of `TASKS`.
        quick: Whether to make the short form: one seed, few examples, fewer rows.
        domain: Folder or zip of the data, for the tasks of `WITH_DOMAIN`.

    Returns:
        `plan.Table`.
    """
    scale = TASKS[task].quick if quick else TASKS[task].full
    rows = _Rows(task, domain, scale)
    sections = [rows.same(quick)]
    if scale.more_epochs and not quick:
        sections.append(rows.longer())
    sections += [] if quick else [rows.eight()]
    sections.append(rows.parts(quick))
    dedicated = sections[0].row(_DEDICATED)
    joint = sections[0].row(_JOINT)
    return Table(
        name=NAME,
        page=f"{NAME}-{task}",
        title=_title(task, scale),
        legend="Accuracy in percent on the test data, mean ± standard deviation over seeds; w4 is "
        "4 bits a weight; seconds are CPU seconds of one core for a step, at every width of the "
        "row; × is the share of FP32's.",
        metric="error",
        runs=rows.runs,
        sections=tuple(sections),
        seeds=scale.seeds,
        targets=tuple(claim for part in sections for claim in _claims(part, quick)),
        effects=tuple(rows.effects),
        quick=quick,
        minutes=10.0 if quick else None,
        bits={
            f"{row.label}, {_ACTIVATIONS[part.name]}": Curve(
                tuple(row.errors.items()), Reading(_RUN_FP32, "errors", 32)
            )
            for part in sections
            for row in part.rows
            if part.name in _ACTIVATIONS and row.label in (_DEDICATED, _JOINT)
        },
        sizes={
            "FP32": _sizes({width: Reading(_RUN_FP32, "parameter_bytes") for width in WIDTHS}),
            "dedicated, each": _sizes(
                {
                    width: Reading(reading.run, "parameter_bytes")
                    for width, reading in dedicated.errors.items()
                }
            ),
            "nested, all widths": _sizes(
                {width: Reading(joint.runs[0], "parameter_bytes") for width in WIDTHS}
            ),
            "that width alone": _sizes(
                {width: Reading(joint.runs[0], "bytes_at_width", width) for width in joint.errors}
            ),
        },
    )


def _title(task, scale):
    seeds = ", ".join(map(str, scale.seeds))
    return (
        f"Double Rounding on {task}, {scale.row_epochs} epochs after {scale.epochs} of "
        f"FP32, seeds {seeds}"
    )


def _sizes(readings):
    return Curve(tuple(readings.items()))


def _claims(section, quick):
    """What joint training has to reach in a section, list of `Claim`."""
    if section.against != _DEDICATED or quick:
        return []
    dedicated, joint = section.row(_DEDICATED).errors, section.row(_JOINT).errors
    fp32, claims = section.row(_FP32).errors[32], []
    for width, limits in _LIMITS.items():
        if width not in dedicated:
            continue
        for name, baseline, limit in zip((_DEDICATED, _FP32), (dedicated[width], fp32), limits):
            what = f"{section.name}, {_JOINT}: accuracy lost at {width} bits against {name}"
            claims.append(Claim(what, ((1, joint[width]), (-1, baseline)), limit))
    for row in section.rows:
        for width in row.untrained if row.label.startswith(_JOINT) else ():
            if width in (5, 3):
                above, below = (row.errors.get(width + step) for step in (1, -1))
                terms = ((1, row.errors[width]), (-0.5, above), (-0.5, below))
                what = f"{section.name}, {row.label}: untrained {width} bits below the line between"
                claims.append(Claim(what, terms, _LINE_LIMIT))
    return claims


class _Rows(CentralRuns):
    """Builds sections, and collects the runs and effects that they need."""

    def __init__(self, task, domain, scale):
        super().__init__(task, scale, {"domain": domain} if task in WITH_DOMAIN else {})
        self.effects = []
        self._add(_RUN_FP32, 1 / _WEIGHT, method="fp32")

    def same(self, quick):
        """Activations at the width of the weights."""
        widths = (8, 4, 2) if quick else WIDTHS
        rows = [
            *self._fp32(),
            _row(_DEDICATED, {w: self._dedicated(w, "same") for w in widths}),
            self._joint(_JOINT, "joint", extra=_BETWEEN),
        ]
        if not quick:
            few = ", ".join(map(str, _FEW))
            label = f"joint, trained at {few} only"
            rows.append(self._joint(label, "joint-few", bits=_FEW, extra=(7, 5, 3)))
        rows.append(self._joint(*_AFTER, extra=_BETWEEN, epochs=0))
        return WidthSection(
            "same", "Activations at the width of the weights", tuple(rows), _FP32, _DEDICATED
        )

    def _fp32(self):
        """Rows of FP32: what all others start from, and trained on as long as they are."""
        return [_row(_START, {32: START}), _row(_FP32, {32: _RUN_FP32})]

    def eight(self):
        """Activations at 8 bits, whatever the width of the weights."""
        flags = {"activations": "8"}
        dedicated = {w: self._dedicated(w, "8") for w in WIDTHS}
        rows = (
            *self._fp32(),
            _row(_DEDICATED, dedicated),
            self._joint(_JOINT, "joint-a8", extra=_BETWEEN, **flags),
            self._joint(_AFTER[0], f"{_AFTER[1]}-a8", extra=_BETWEEN, epochs=0, **flags),
        )
        return WidthSection("eight", "Activations at 8 bits", rows, _FP32, _DEDICATED)

    def longer(self):
        """More epochs, to see whether their number is what limits joint training."""
        flags = {"epochs": self._scale.more_epochs}
        joint = self._joint(_JOINT, "joint-longer", **flags)  # The longest first.
        dedicated = {w: self._dedicated(w, "same", suffix="-longer", **flags) for w in _ENDS}
        fp32 = self._add(f"{_RUN_FP32}-longer", 1 / _WEIGHT, method="fp32", **flags)
        rows = _row(_FP32, {32: fp32}), _row(_DEDICATED, dedicated), joint
        for name in {name for row in rows for name in row.runs}:
            self.runs[name] = dataclasses.replace(self.runs[name], seeds=self._scale.seeds[:1])
        title = f"{self._scale.more_epochs} epochs; activations at the width of the weights"
        return WidthSection("longer", title, rows, _FP32, _DEDICATED)

    def parts(self, quick):
        """Joint training without one of its parts at a time; activations as the weights."""
        rows = [self._joint(_JOINT, "joint", extra=_BETWEEN)]
        parts = []
        for label, (run, flags, part) in _PARTS.items():
            if not quick or run == "no-distillation":
                rows.append(self._joint(label, run, **flags))
                parts.append(part)
        shifted = {w: Reading("joint", "shift_errors", w) for w in WIDTHS}
        rows.append(WidthRow("bare shift, untrained", shifted))
        parts.append("the second rounding, after training")
        for part, row in zip(parts, rows[1:]):
            self.effects += [
                Effect(f"{part}, w{width}", row.errors[width], rows[0].errors[width])
                for width in _SHOWN
            ]
        title = "What each of the parts does (ablation); activations at the width of the weights"
        return WidthSection("parts", title, tuple(rows), _JOINT, _JOINT)

    def _dedicated(self, width, activations, suffix="", **flags):
        """Name of the run that trains one width."""
        # At 8 bits the two are the same.
        name = f"w{width}" + ("-a8" if activations == "8" and width != 8 else "")
        if name.endswith("-a8"):
            flags["activations"] = activations
        return self._add(name + suffix, 1, bits=width, distillation=0.0, **flags)

    def _joint(self, label, name, bits=WIDTHS, extra=(), **flags):
        """Row of a run that trains several widths."""
        flags.setdefault("distillation", self._scale.distillation)
        if extra:
            flags["extra_bits"] = ",".join(map(str, extra))
        if name == "joint":
            flags["read_by_shift"] = True
        self._add(name, len(bits), bits=",".join(map(str, bits)), **flags)
        return _row(label, {width: name for width in sorted((*bits, *extra))[::-1]}, extra)

    def _add(self, name, widths, **flags):
        scale = self._scale
        own = dict(method="nested", epochs=scale.row_epochs, learning_rate=scale.learning_rate)
        return self.add(name, widths * _WEIGHT, {**own, **flags})


def _row(label, runs, untrained=()):
    """A `WidthRow` of each width's run."""
    errors = {width: Reading(run, "errors", width) for width, run in runs.items()}
    return WidthRow(label, errors, tuple(untrained))
