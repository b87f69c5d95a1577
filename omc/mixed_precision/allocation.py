"""Allocation: a policy with a format of its own for each variable, and the report of why."""

import dataclasses
import glob
from typing import NamedTuple, Optional

from omc.policies import Policy


class AllocationRow(NamedTuple):
    """One variable of an allocation.

    Attributes:
        name: Variable name.
        shape: Tuple of ints.
        format: Name of its format ("FP32", or the dtype, where it is left as it is).
        stored_bytes: Bytes that `omc.wrap` stores for it.
        coded_bytes: Bytes on the wire, where a budget is about them; else None.
        trace: Trace of its Hessian, where the sensitivity is about it; else None.
        loss: Its part of the objective; None where its format was not for the allocation to choose.
        reason: Why it has its format.
    """

    name: str
    shape: tuple
    format: str
    stored_bytes: int
    coded_bytes: Optional[int]
    trace: Optional[float]
    loss: Optional[float]
    reason: str


class BudgetUse(NamedTuple):
    """How a budget was used.

    Attributes:
        name: Argument that set it.
        limit: What was allowed, as it was given.
        used: What the allocation takes.
    """

    name: str
    limit: float
    used: float


@dataclasses.dataclass(frozen=True, repr=False)
class Allocation(Policy):
    """A `Policy` whose overrides give each variable its format; made by `omc.allocate`.

    Its text (`print`) is the table of formats, bytes and losses; `as_dict` and `plot` show the
    same. It fits every model of the same architecture: variables go by their names or, where Keras
    numbered the layers anew ("dense_7" for "dense_1"), by their places.

    Attributes:
        rows: Tuple of AllocationRow, one a variable, in the order of a plan.
        budgets: Tuple of BudgetUse.
        strategy: Name of the strategy.
        sensitivity: Name of the sensitivity.
        optimal: Whether it is proven that no allocation in the budgets has a smaller loss.
        bound: A loss that none is below: the loss itself where `optimal`, else one by Lagrangian
            relaxation.
    """

    rows: tuple = ()
    budgets: tuple = ()
    strategy: str = ""
    sensitivity: str = ""
    optimal: bool = False
    bound: float = 0.0

    @property
    def loss(self):
        """The objective: sum of the variables' losses (float)."""
        return sum(row.loss for row in self.rows if row.loss is not None)

    @property
    def stored_bytes(self):
        """Bytes of the whole model as `omc.wrap` stores it."""
        return sum(row.stored_bytes for row in self.rows)

    @property
    def widths(self):
        """Dict of variable name -> format name, of the variables that were allocated."""
        return {row.name: row.format for row in self.rows if row.loss is not None}

    def candidates(self, specs):
        """As `Policy.candidates`; by place where names differ and shapes are the allocated ones."""
        allocated = [(row.name, row.shape) for row in self.rows]
        same = [spec.shape for spec in specs] == [shape for _, shape in allocated]
        if not same or {spec.name for spec in specs} >= {name for name, _ in allocated}:
            return self._explained(super().candidates(specs))
        renamed = [spec._replace(name=name) for spec, (name, _) in zip(specs, allocated)]
        plan = self._explained(super().candidates(renamed))
        return tuple(planned._replace(spec=spec) for planned, spec in zip(plan, specs))

    def _explained(self, plan):
        patterns = {f"override {pattern(name)!r}" for name in self.widths}
        reason = f"allocated, {self.strategy}"
        return tuple(p._replace(reason=reason) if p.reason in patterns else p for p in plan)

    def as_dict(self):
        """The report as plain dicts and numbers, for JSON."""
        return {
            "rows": [row._asdict() for row in self.rows],
            "budgets": [budget._asdict() for budget in self.budgets],
            "strategy": self.strategy,
            "sensitivity": self.sensitivity,
            "stored_bytes": self.stored_bytes,
            "loss": self.loss,
            "bound": self.bound,
            "optimal": self.optimal,
        }

    def __str__(self):
        coded = any(row.coded_bytes is not None for row in self.rows)
        traced = any(row.trace is not None for row in self.rows)
        header = ["variable", "shape", "format", "stored bytes"]
        header += ["coded bytes"] * coded + ["trace"] * traced + [self.sensitivity, "why"]
        lines = [header]
        for row in self.rows:
            cells = [row.name, str(row.shape), row.format, _number(row.stored_bytes)]
            cells += [_number(row.coded_bytes)] * coded + [_number(row.trace)] * traced
            lines.append([*cells, _number(row.loss), row.reason])
        total = ["total", "", "", _number(self.stored_bytes)]
        if coded:
            total.append(_number(sum(row.coded_bytes for row in self.rows)))
        lines.append([*total, *[""] * traced, _number(self.loss), self._quality()])
        text = _aligned(lines, left=(0, 1, 2, len(header) - 1))
        rule = "-" * max(map(len, text))
        uses = [f"{use.name}: {_number(use.used)} of {_number(use.limit)}" for use in self.budgets]
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1], *uses])

    def _quality(self):
        if self.optimal:
            return f"{self.strategy}, proven least"
        return f"{self.strategy}, none below {_number(self.bound)}"

    def __repr__(self):
        kept = ", ".join(f"{use.name}={use.limit}" for use in self.budgets)
        return f"Allocation({kept}, strategy={self.strategy!r}, widths={self.widths})"

    def plot(self, path, most=60):
        """Draws the width of each allocated variable as bars, beside its share of the bytes.

        Args:
            path: File to write, .png or .svg.
            most: Variables to show, the first ones; from 1.

        Raises:
            InputTypeError, InputError: Another kind of file, one that cannot be written, or `most`
                below 1.
        """
        from omc.mixed_precision import plots  # matplotlib only where a picture is wanted

        plots.width_bars(self, path, most)


def pattern(name):
    """The override pattern that matches this name alone."""
    return glob.escape(name)


def _number(value):
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else f"{value:.4g}"


def _aligned(lines, left):
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
