"""allocate(): a format for each of a model's variables under budgets, as a policy."""

import dataclasses
from collections.abc import Iterable, Iterator

import tensorflow as tf

from omc import checks
from omc.errors import InputError, InputTypeError, ModelError
from omc.formats import Format
from omc.keras import host
from omc.keras.nesting import nesting_of
from omc.mixed_precision import limits, sensitivities, strategies
from omc.mixed_precision.allocation import Allocation, AllocationRow, BudgetUse, pattern
from omc.mixed_precision.lagrangian import multiplier
from omc.mixed_precision.measuring import Measured, entropy_nbytes
from omc.mixed_precision.nested_measuring import NestedMeasured, formats_of, stored_policy
from omc.mixed_precision.peak import within_peak
from omc.mixed_precision.problem import Problem
from omc.policies import Policy

FORMATS = ("INT2", "INT3", "INT4", "INT5", "INT6", "INT7", "INT8")


def allocate(
    model,
    *,
    bits=None,
    stored_bytes=None,
    wire_bytes=None,
    peak_bytes=None,
    strategy="exact",
    sensitivity=None,
    formats=FORMATS,
    policy="INT8",
    data=None,
    loss=None,
    probes=16,
    seed=0,
    coded_nbytes=entropy_nbytes,
    step_peak=None,
):
    """Chooses a format for each variable that a policy would quantize, under one or more budgets.

    The loss that is made least is a sum over variables, see `omc.mixed_precision.sensitivities`.
    For many budgets on one model make an `Allocator`, which measures once.

    >>> policy = omc.allocate(model, bits=3.0)
    >>> print(policy); policy.plot("widths.png")
    >>> omc.wrap(model, policy)

    Of a nested model (`omc.nest`) widths are chosen for the matrices that change theirs, out of
    those that are prepared, and `omc.nested.switch(model, policy)` reads it so, without retraining.
    Errors are then those of the second rounding, and bytes those of a device that has the
    allocation alone.

    Args:
        model: A built `tf.keras.Model`, plain or wrapped; it is left as it is.
        bits: Most bits of a code, on average over the weights that are allocated. Codes alone
            count: padding and transforms (8 bytes a variable) count in the budgets of bytes.
        stored_bytes: Most bytes of the whole model as `omc.wrap` stores it.
        wire_bytes: Most bytes of the whole model once codes are entropy-coded.
        peak_bytes: Most bytes of a training step, as `step_peak` measures them.
        strategy: "exact", "lagrangian", "greedy", "pruning_growing", "fixed", or a function
            `Problem` -> `Solution`.
        sensitivity: "error", "hessian", "hessian_error", "loss", "hasb_printed" or "hasb_code";
            None for "loss" where `data` is given and "error" where not.
        formats: Formats (or names) to choose from; of a nested model by default its widths.
        policy: `Policy` (or a format's name) that tells which variables are quantized and how;
            what it overrides stays as it says. Not for a nested model, which says so itself.
        data: Batches on which the loss and its Hessian are measured, as for
            `omc.mixed_precision.traces`.
        loss: The loss; None for the compiled one.
        probes: Probes for the Hessian.
        seed: Seed of the probes.
        coded_nbytes: Function (buffer, codec) -> bytes on the wire; by default the codes' order-0
            entropy, which stands in for a coder.
        step_peak: Function of a Policy: peak bytes of a training step of the model wrapped in it.

    Returns:
        `Allocation`, a `Policy`.

    Raises:
        InputError: No budget, or one that no allocation can meet (the message tells the least
            possible); an unknown strategy or sensitivity; nothing to allocate; a policy with
            partial quantization; weights that are not finite; no data, loss or `step_peak` where
            one is needed; for a nested model, a format that is no width of it, or a policy.
        InputTypeError: An argument of the wrong type.
        FormatError: An unknown format.
        ModelError: The model is not built.
    """
    allocator = Allocator(model, formats, policy, data, loss, probes, seed, coded_nbytes)
    return allocator.allocate(
        bits=bits,
        stored_bytes=stored_bytes,
        wire_bytes=wire_bytes,
        peak_bytes=peak_bytes,
        strategy=strategy,
        sensitivity=sensitivity,
        step_peak=step_peak,
    )


class Allocator:
    """Allocations for many budgets on one model; what is measured of it is measured once.

    Attributes:
        names: Tuple of the names of the variables that are allocated, in the order of the model.
            Those of equal name share a format, for a policy tells variables apart by name.
    """

    def __init__(
        self,
        model,
        formats=FORMATS,
        policy="INT8",
        data=None,
        loss=None,
        probes=16,
        seed=0,
        coded_nbytes=entropy_nbytes,
    ):
        """Arguments and errors as those of `allocate`."""
        _check_model(model)
        self._policy = _checked_policy(policy)
        if isinstance(data, Iterator):
            data = list(data)  # For the next measurement, too.
        self._data = data
        hessian = dict(data=data, loss=loss, probes=probes, seed=checks.integer("seed", seed))
        is_nested = nesting_of(model) is not None
        default = isinstance(formats, tuple) and formats == FORMATS
        formats = _checked_formats(formats)
        if not callable(coded_nbytes):
            expected = "a function (buffer, codec) -> bytes"
            raise InputTypeError("coded_nbytes", expected, coded_nbytes)
        if is_nested:
            if policy != "INT8":
                got = f"a policy for {model.name!r}, which is nested"
                raise InputError("policy", "none, for what is stored stays as it is", got)
            self._policy = stored_policy(model)
            formats = formats_of(model, None if default else formats)
            self._measured = NestedMeasured(model, formats, hessian, coded_nbytes)
        else:
            self._measured = Measured(model, formats, self._policy, hessian, coded_nbytes)
        self.names = tuple(self._measured.members)
        if not self.names:
            tip = "biases, statistics and what the policy overrides are not allocated."
            raise InputError("policy", "one that quantizes a variable of the model", "none", tip)

    def allocate(
        self,
        *,
        bits=None,
        stored_bytes=None,
        wire_bytes=None,
        peak_bytes=None,
        strategy="exact",
        sensitivity=None,
        step_peak=None,
    ):
        """Arguments, result and errors as those of the function `allocate`."""
        if sensitivity is None:
            sensitivity = "error" if self._data is None else "loss"
        sensitivities.named(sensitivity)
        way = strategies.named(strategy)
        asked = dict(bits=bits, stored_bytes=stored_bytes, wire_bytes=wire_bytes)
        asked = {
            name: limits.plain(name, limit) for name, limit in asked.items() if limit is not None
        }
        if not asked and peak_bytes is None:
            raise InputError("bits", "a budget: bits, stored_bytes, wire_bytes or peak_bytes", None)
        budgets = [self._budget(name, limit) for name, limit in asked.items()]
        if peak_bytes is None:
            return self._solved(budgets, asked, way, sensitivity)
        peak_bytes = limits.plain("peak_bytes", peak_bytes)
        if not callable(step_peak):
            expected = "a function of a Policy: the peak bytes of a training step"
            raise InputTypeError("step_peak", expected, step_peak)

        def solve(stored):
            if stored is None and not budgets:  # Of one budget, that every allocation keeps.
                stored = sum(int(sizes.max()) for sizes in self._measured.stored.values())
            own = [] if stored is None else [self._budget("stored_bytes", stored)]
            return self._solved([*budgets, *own], asked, way, sensitivity)

        least = sum(int(sizes.min()) for sizes in self._measured.stored.values())
        return within_peak(peak_bytes, step_peak, least, solve)

    def _budget(self, name, limit):
        measured = self._measured
        if name == "bits":
            return limits.bits_budget(limit, measured.counts, measured.formats)
        sizes = measured.coded if name == "wire_bytes" else measured.stored
        others = sum(int(size[0]) for p, size in sizes.items() if p not in measured.places)
        return limits.bytes_budget(name, limit, measured.table(sizes), others)

    def _solved(self, budgets, asked, way, sensitivity):
        """The `Allocation` of a strategy, (name, function), under `Budget`s."""
        measured, (name, find) = self._measured, way
        losses = measured.losses(sensitivity)
        table = measured.table(losses)
        problem = Problem(measured.formats, measured.counts, table, tuple(budgets))
        if name != "exact" and not problem.fits(problem.least):
            got = "some that the cheapest formats of each do not keep"
            tip = "strategy='exact' searches all allocations."
            raise InputError(budgets[0].name, "limits that go together", got, tip)
        found = strategies.checked(find(problem), problem)
        chosen = [measured.formats[choice] for choice in found.choices]
        rows = self._rows(found.choices, losses, way[0], sensitivity, "wire_bytes" in asked)
        fields = {f.name: getattr(self._policy, f.name) for f in dataclasses.fields(Policy)}
        own = {pattern(line): fmt for line, fmt in zip(self.names, chosen)}
        fields["overrides"] = {**self._policy.overrides, **own}
        average = sum(n * fmt.bits for n, fmt in zip(measured.counts, chosen)) / sum(
            measured.counts
        )
        return Allocation(
            **fields,
            rows=rows,
            budgets=tuple(BudgetUse(k, v, _used(k, rows, average)) for k, v in asked.items()),
            strategy=name,
            sensitivity=sensitivity,
            optimal=found.optimal,
            bound=_bound(problem, found),
        )

    def _rows(self, choices, losses, strategy, sensitivity, coded):
        """An `AllocationRow` for each variable of the model."""
        measured, rows = self._measured, []
        lines = zip(measured.members.values(), choices)
        chosen = {place: choice for places, choice in lines for place in places}
        traced = "trace" in sensitivities.named(sensitivity).needs
        for place, planned in enumerate(measured.plan):
            inside, choice = place in chosen, chosen.get(place, 0)
            fmt = measured.formats[choice] if inside else planned.format
            raw = planned.spec.dtype.name if planned.spec.dtype != tf.float32 else fmt.name
            rows.append(
                AllocationRow(
                    name=planned.spec.name,
                    shape=planned.spec.shape,
                    format=fmt.name if inside or planned.codec else raw,
                    stored_bytes=int(measured.stored[place][choice]),
                    coded_bytes=int(measured.coded[place][choice]) if coded else None,
                    trace=measured.traces[place] if inside and traced else None,
                    loss=float(losses[place][choice]) if inside else None,
                    reason=f"allocated, {strategy}" if inside else planned.reason,
                )
            )
        return tuple(rows)


def _used(name, rows, average):
    if name == "bits":
        return average
    return sum(row.coded_bytes if name == "wire_bytes" else row.stored_bytes for row in rows)


def _bound(problem, found):
    """A loss that no allocation is below: that of an optimal one, else by relaxation."""
    loss = problem.loss(found.choices)
    if found.optimal:
        return loss
    mu = multiplier(problem)
    prices = [mu / max(budget.limit, 1) for budget in problem.budgets]
    return min(loss, max(problem.bound(prices), problem.bound([0.0] * len(prices))))


def _check_model(model):
    host.check_model(model)
    if not host.is_built(model) or not model.weights:
        raise ModelError(
            "model",
            "a built model",
            f"{model.name!r}, which has no variables yet",
            "call model.build(input_shape), or the model on a batch, first.",
        )


def _checked_policy(policy):
    policy = Policy.of(policy)
    if policy.fraction != 1:
        got = f"one of fraction {policy.fraction}"
        tip = "what partial quantization leaves in float32 would exceed the budget."
        raise InputError("policy", "a policy without partial quantization", got, tip)
    return policy


def _checked_formats(formats):
    if isinstance(formats, (str, Format)) or not isinstance(formats, Iterable):
        raise InputTypeError("formats", "a list of formats", formats)
    parsed = dict.fromkeys(Format.parse(fmt) for fmt in formats)
    if not parsed:
        raise InputError("formats", "at least one format", "none")
    return tuple(sorted(parsed, key=lambda fmt: fmt.bits))
