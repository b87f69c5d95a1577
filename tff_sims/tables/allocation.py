"""Table of allocations: accuracy over average bits, for every strategy and sensitivity (ours).

A model is trained in FP32. Then each of its weight matrices is stored at a width of its own, as
`omc.allocate` gives it for an average, and measured; and it is trained on for some epochs in those
codes, which are all that is stored.
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

NAME = "allocation"
WITH_DOMAIN = ("pictures",)
BUDGETS = (4, 3.5, 3, 2.75, 2.5, 2.25, 2)
_LONGER = "FP32-longer"
_UNIFORM = "uniform"
_BY_HESSIAN, _BY_LOSS = "exact, hessian_error", "exact, loss"
_WAYS = {  # Label -> (strategy, sensitivity).
    _UNIFORM: ("fixed", "error"),
    "pruning-growing": ("pruning_growing", "error"),
    "exact, error": ("exact", "error"),
    "exact, hessian": ("exact", "hessian"),
    _BY_HESSIAN: ("exact", "hessian_error"),
    "greedy, hessian_error": ("greedy", "hessian_error"),
    "lagrangian, hessian_error": ("lagrangian", "hessian_error"),
    _BY_LOSS: ("exact", "loss"),
    "exact, hasb_printed": ("exact", "hasb_printed"),
    "exact, hasb_code": ("exact", "hasb_code"),
}
_QUICK_WAYS = (_UNIFORM, _BY_LOSS)
_TRAINED_WAYS = (_UNIFORM, "exact, error", _BY_HESSIAN, _BY_LOSS)
_TRAINED_BUDGETS = (3, 2.5)
_JUDGED = (3, 2.5)  # Averages of bits at which allocations are judged.
_WEIGHT = 1.2  # Time of a step in codes, in FP32's.


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        epochs: Epochs of FP32, from whose weights every other run of the same seed starts.
        row_epochs: Epochs of training in codes, and of FP32 that is trained on as long.
        seeds: Tuple of ints.
        learning_rate: Of the training in codes, at the start.
        train_examples: Examples that everything trains on; None for all.
    """

    epochs: int
    row_epochs: int
    seeds: tuple
    learning_rate: float
    train_examples: Optional[int] = None


TASKS = {
    "digits": Subject(Scale(20, 10, (0, 1, 2), 0.01), Scale(20, 5, (0,), 0.01)),
    "pictures": Subject(Scale(24, 2, (0, 1), 0.05), Scale(3, 1, (0,), 0.05, 5120)),
}
"""Tasks that the table can be made of; the first is the default."""


def build(task="digits", quick=False, domain=None):
    """The table's plan.

    Args:
        task: Key of `TASKS`.
        quick: Whether to make the short form: one seed, few examples, fewer rows.
        domain: Folder or zip of the data, for the tasks of `WITH_DOMAIN`.

    Returns:
        `plan.Table`.
    """
    scale = TASKS[task].quick if quick else TASKS[task].full
    runs = _Runs(task, domain, scale)
    once, trained = runs.once(quick), runs.trained(quick)
    judged = [
        (part, label, bits)
        for part in (once, trained)
        for label in (_BY_HESSIAN, _BY_LOSS)
        for bits in _JUDGED
        if not quick
    ]
    seeds = ", ".join(map(str, scale.seeds))
    return Table(
        name=NAME,
        page=f"{NAME}-{task}",
        title=f"Allocation on {task}: {scale.epochs} epochs of FP32, then {scale.row_epochs} in "
        f"codes, seeds {seeds}",
        legend="Accuracy in percent on the test data, mean ± standard deviation over seeds, of a "
        "model that stores each weight matrix at a width of its own, for an average of bits a "
        "weight.",
        metric="error",
        runs=runs.runs,
        sections=(once, trained),
        seeds=scale.seeds,
        targets=tuple(_claim(*each) for each in judged),
        effects=tuple(_effect(*each) for each in judged),
        quick=quick,
        minutes=10.0 if quick else None,
        bits={
            f"{row.label}, {part.name}": Curve(
                tuple(row.errors.items()), Reading(_LONGER, "errors", 32)
            )
            for part in (once, trained)
            for row in part.rows
            if row.label in (_UNIFORM, _BY_HESSIAN, _BY_LOSS)
        },
    )


def _claim(section, label, bits):
    terms = (1, section.row(label).errors[bits]), (-1, section.row(_UNIFORM).errors[bits])
    what = f"{section.name}, {label}: error less that of one width throughout, {bits} bits"
    return Claim(what, terms, 0.0)


def _effect(section, label, bits):
    with_it, without = section.row(label).errors[bits], section.row(_UNIFORM).errors[bits]
    return Effect(f"widths a layer ({label}), {section.name}, {bits} bits", without, with_it)


class _Runs(CentralRuns):
    """Builds sections, and collects the runs that they need."""

    def __init__(self, task, domain, scale):
        super().__init__(task, scale, {"domain": domain} if task in WITH_DOMAIN else {})
        self._add(_LONGER, 1.0, method="fp32", epochs=scale.row_epochs)

    def once(self, quick):
        """Stored after the training, and not trained again."""
        rows = [WidthRow("FP32", {32: Reading(START, "errors", 32)})]
        for label in _QUICK_WAYS if quick else _WAYS:
            budgets = ",".join(f"{bits:g}" for bits in sorted(BUDGETS))
            run = self._allocated(label, "", budgets, 0)
            readings = {bits: Reading(run, "errors", bits) for bits in BUDGETS}
            rows.append(WidthRow(label, readings))
        return _section("once", "Stored after training, not trained again", rows)

    def trained(self, quick):
        """Trained on in those codes; the last epochs are as many for all rows."""
        rows = [WidthRow("FP32", {32: Reading(_LONGER, "errors", 32)})]
        for label in _QUICK_WAYS if quick else _TRAINED_WAYS:
            readings = {}
            for bits in _TRAINED_BUDGETS[:1] if quick else _TRAINED_BUDGETS:
                given = int(bits) if label == _UNIFORM else bits  # 2.5 bits throughout are 2.
                suffix, epochs = f"-{given:g}-trained", self._scale.row_epochs
                run = self._allocated(label, suffix, f"{given:g}", epochs)
                readings[bits] = Reading(run, "errors", given)
            rows.append(WidthRow(label, readings))
        return _section("trained", "Trained on in codes of those widths", rows)

    def _allocated(self, label, suffix, budgets, epochs):
        strategy, sensitivity = _WAYS[label]
        name = label.replace(", ", "-") + suffix
        return self._add(
            name,
            _WEIGHT,
            method="allocated",
            strategy=strategy,
            sensitivity=sensitivity,
            budgets=budgets,
            epochs=epochs,
        )

    def _add(self, name, weight, **flags):
        if flags["epochs"]:
            flags["learning_rate"] = self._scale.learning_rate
        return self.add(name, weight, flags)


def _section(name, title, rows):
    rows = tuple(rows)
    return WidthSection(name, title, rows, "FP32", _UNIFORM, costs=False, heading="{} bits %")
