"""OMC's tables (arXiv 2205.03494), re-implemented: formats, data splits, adaptation, ablation.

What differs from the paper (ours): the speech is synthetic and made on the spot, the model is a
Conformer of a size that two cores train in minutes, and the errors come from few rounds. Figures
are to be compared with FP32 here, seed by seed, and not with the paper's.
"""

import dataclasses
from typing import Optional

from tff_sims.tables.plan import EVALUATE, Curve, Effect, Reading, Row, Run, Section, Table, Target

NAME = "omc"
_FORMATS = ("S1E4M14", "S1E5M10", "S1E3M7", "S1E2M3")
_BITS = {"FP32": 32, "S1E4M14": 19, "S1E5M10": 16, "S1E3M7": 11, "S1E2M3": 6}
_FRACTION = 0.9
_AVERAGED = 0.5  # Of a row's rounds: one evaluation alone scatters by half a point.
_ERROR_LIMIT = (0.3, 3.0)  # Points above FP32, or percent of FP32's error.
_BYTES_LIMIT = 0.42

_PARTS = {  # Row of the ablation -> (what is taken away, flags that do it).
    "no PVT": ("PVT", {"transform": "none"}),
    "all variables": ("matrices only", {"weight_matrices_only": False}),
    "PPQ 1.0": (f"PPQ: 1.0 instead of {_FRACTION:g}", {"fraction": 1.0}),
    "PPQ 0.5": (f"PPQ: 0.5 instead of {_FRACTION:g}", {"fraction": 0.5}),
}
# Few bits are where there is something to see; of 11 bits it is the transform that matters most.
_ABLATED = {"S1E3M7": ("no PVT",), "S1E2M3": tuple(_PARTS)}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is run.

    Attributes:
        warm_up: Rounds of FP32, once a seed, from whose weights every row goes on; 0 for none.
        rounds: Rounds of a row.
        adaptation_rounds: Rounds of a row of the adaptation.
        clients_per_round: Clients drawn in a round.
        evaluate_every: Rounds from one evaluation of a row to the next.
        seeds: Tuple of ints.
        learning_rate: Clients' learning rate after the warm-up; None for the task's.
    """

    warm_up: int
    rounds: int
    adaptation_rounds: int
    clients_per_round: int
    evaluate_every: int
    seeds: tuple
    learning_rate: Optional[float] = None


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a task offers to the table.

    Attributes:
        metric: Heading of its error.
        split: Its name for "each client has its own kind of data".
        domains: (all sections' and the one adapted from, the one adapted to), or None where the
            task has one domain only.
        full, quick: `Scale`s.
    """

    metric: str
    split: str
    domains: object
    full: Scale
    quick: Scale


TASKS = {
    "speech": Subject(
        metric="WER",
        split="speaker",
        domains=("quiet", "noisy"),
        # Half the task's rate, as a schedule would: steps that are large for a trained model
        # scatter its error by more than formats do.
        full=Scale(100, 50, 25, 8, 5, (0, 1, 2), learning_rate=0.001),
        quick=Scale(60, 3, 2, 4, 1, (0,)),
    ),
    "keywords": Subject(
        metric="error",
        split="speaker",
        domains=("quiet", "noisy"),
        full=Scale(0, 60, 20, 10, 5, (0, 1, 2)),
        quick=Scale(0, 5, 3, 5, 5, (0,)),
    ),
    "digits": Subject(
        metric="error",
        split="dirichlet",
        domains=None,
        full=Scale(0, 60, 20, 10, 5, (0, 1, 2)),
        quick=Scale(0, 5, 5, 5, 5, (0,)),
    ),
}
"""Tasks that the table can be made of; the first is the default."""


def build(task="speech", quick=False):
    """The table's plan.

    Args:
        task: Key of `TASKS`.
        quick: Whether to make the short form: one seed, few rounds, fewer rows.

    Returns:
        `plan.Table`.
    """
    subject = TASKS[task]
    scale = subject.quick if quick else subject.full
    rows = _Rows(task, subject, scale)
    formats = ("S1E3M7", "S1E2M3") if quick else _FORMATS
    few = ("S1E3M7",) if quick else ("S1E3M7", "S1E2M3")

    sections = [
        rows.formats(
            "iid", "Clients with the same kind of data", {"split": "iid"}, few if quick else formats
        ),
        rows.formats(
            subject.split,
            f"Each client its own ({subject.split})",
            {"split": subject.split},
            formats,
        ),
    ]
    if subject.domains:
        sections.append(rows.adaptation(subject, scale, few))
    ablated = {"S1E2M3": ("no PVT",)} if quick else _ABLATED
    sections.append(rows.ablation(subject.split, ablated))

    drawn = {
        part: tuple(row for row in part.rows if row.label in _BITS)
        for part in sections
        if part.name != "ablation"
    }
    return Table(
        name=NAME,
        title=_title(task, scale),
        legend=f"{subject.metric} in percent of the quantized model that a client would hold, mean "
        "± standard deviation over seeds; differences seed by seed; × is the share of FP32's.",
        metric=subject.metric,
        runs=rows.runs,
        sections=tuple(sections),
        seeds=scale.seeds,
        targets=_targets(("iid", subject.split)),
        effects=tuple(rows.effects),
        quick=quick,
        minutes=10.0 if quick else None,
        curves={part.title: part_rows for part, part_rows in drawn.items()},
        bits={
            part.name: Curve(
                tuple((_BITS[row.label], Reading(row.run)) for row in part_rows),
                Reading(f"{part.name}/FP32"),
            )
            for part, part_rows in drawn.items()
        },
    )


def _title(task, scale):
    after = f" after {scale.warm_up} of FP32" if scale.warm_up else ""
    return f"OMC on {task}, {scale.rounds} rounds{after}, seeds {', '.join(map(str, scale.seeds))}"


def _targets(sections):
    keys = {
        "error": _ERROR_LIMIT,
        "parameter_bytes_ratio": _BYTES_LIMIT,
        "downlink_bytes_per_client_round_ratio": _BYTES_LIMIT,
        "uplink_bytes_per_client_round_ratio": _BYTES_LIMIT,
    }
    return tuple(
        Target(section, "S1E3M7", key, limit) for section in sections for key, limit in keys.items()
    )


class _Rows:
    """Builds sections, and collects the runs and effects that they need."""

    def __init__(self, task, subject, scale):
        self.runs, self.effects = {}, []
        self._first_seed = scale.seeds[0]
        self._common = {
            "task": task,
            "rounds": scale.rounds,
            "clients_per_round": scale.clients_per_round,
            "evaluate_every": scale.evaluate_every,
        }
        if subject.domains:
            self._common["domain"] = subject.domains[0]
        self._warm_up = None
        if scale.warm_up:
            flags = {"split": "iid", "method": "fp32", "rounds": scale.warm_up}
            # The last evaluation alone: it is of the weights from which the others start.
            self._warm_up = self._add("warm-up", {**flags, "evaluate_every": 10}, averaged=0.0)
        if scale.learning_rate:
            self._common["learning_rate"] = scale.learning_rate

    def formats(self, name, title, flags, formats, start=None):
        """FP32 and some formats at fraction 0.9, all else equal; after the warm-up by default."""
        found = [Row("after warm-up", self._warm_up)] if self._warm_up and not start else []
        start = start or self._warm_up
        title = f"{title}; fraction {_FRACTION:g}"
        found.append(Row("FP32", self._add(f"{name}/FP32", {**flags, "method": "fp32"}, start)))
        for fmt in formats:
            found.append(Row(fmt, self._add(f"{name}/{fmt}", {**flags, **_omc(fmt)}, start)))
        return Section(name, title, tuple(found), baseline="FP32")

    def adaptation(self, subject, scale, formats):
        """The FP32 model of section iid, before and after more rounds on another domain."""
        source, target = subject.domains
        start, task = "iid/FP32", self._common["task"]
        before = Run("adaptation/before", dict(task=task, domain=target), start, EVALUATE)
        self.runs[before.name] = before
        section = self.formats(
            "adaptation",
            f"Adaptation from {source} to {target}, {scale.adaptation_rounds} rounds",
            {"split": subject.split, "domain": target, "rounds": scale.adaptation_rounds},
            formats,
            start,
        )
        rows = (Row("before adaptation", before.name), *section.rows)
        return dataclasses.replace(section, rows=rows)

    def ablation(self, split, formats):
        """OMC without one of its methods at a time; formats: dict of format -> keys of _PARTS."""
        found = [Row("FP32", f"{split}/FP32")]
        for fmt, labels in formats.items():
            whole = f"{split}/{fmt}"
            found.append(Row(f"{fmt}, OMC at {_FRACTION:g}", whole))
            for label in labels:
                part, changed = _PARTS[label]
                name = f"ablation/{fmt}-{label.replace(' ', '-')}"
                run = self._add(name, {"split": split, **_omc(fmt), **changed}, self._warm_up)
                found.append(Row(f"{fmt}, {label}", run))
                self.effects.append(Effect(f"{part}, {fmt}", Reading(run), Reading(whole)))
        title = "What each of the three methods does (ablation)"
        return Section("ablation", title, tuple(found), baseline="FP32")

    def _add(self, name, flags, start=None, averaged=_AVERAGED):
        flags = {**self._common, **flags}
        run = Run(name, flags, start, memory_seed=self._first_seed, averaged=averaged)
        self.runs[name] = run
        return name


def _omc(fmt):
    return dict(method="omc", format=fmt, fraction=_FRACTION, rounding="stochastic")
