"""P2U (Progressive Precision Update, arXiv 2506.22871): a model of few bits first, then the rest.

Trained models are split into a base and deltas (`omc.progressive`), for bases of 2 to 8 bits;
beside them stand FP32 and INT8 whole, plain bit planes, and other coders. Every run that trains has
the flags that it has in the table of nested models, so that its folder can be copied from there.
"""

import dataclasses

from tff_sims.deliver_chains import CALIBRATED_CHAINS, CHAINS, NESTED_CHAINS
from tff_sims.tables import nested
from tff_sims.tables.deliveries import LATENCY, RATES, DeliverySection
from tff_sims.tables.plan import DELIVER, Claim, Reading, Run, Table

NAME = "progressive"
WITH_DOMAIN = nested.WITH_DOMAIN
WITH_PEERS = True
_FP32, _LONGER, _JOINT = "FP32", "FP32-longer", "joint"
_DELIVERY, _NESTED_DELIVERY, _CALIBRATED = "delivery", "nested-delivery", "calibrated-delivery"
_BASE, _ALLOCATED_BASE, _NESTED_BASE = "INT4,INT8,FP32", "9%,INT8,FP32", "INT4,INT8"
_BASES = {  # Of each run, those that have something to reach.
    _DELIVERY: (_BASE,),
    _CALIBRATED: (_BASE, _ALLOCATED_BASE),
    _NESTED_DELIVERY: (_NESTED_BASE,),
}
_SAMPLE = 2000  # Training examples of statistics and, some of them, of allocations.
_SHARE, _POINTS, _NESTED_POINTS, _MORE = 9.0, 2.0, 1.0, 3.0
_SOONER, _NEVER_LATER = 10.0, 100.0  # Percent of the time in which FP32 is usable.
_FAST = (1, 10)  # Mbit/s at which the first stage has to be usable so soon.


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a task offers to the table.

    Attributes:
        nested: Whether it delivers nested training's models, too; they cost hours on pictures.
    """

    nested: bool


TASKS = {"keywords": Subject(True), "pictures": Subject(False)}
"""Tasks that the table can be made of, at the nested table's scales; the first is the default."""


def build(task="keywords", quick=False, domain=None, peers_python=None):
    """The table's plan.

    Args:
        task: Key of `TASKS`.
        quick: Whether to make the short form: one seed, few epochs.
        domain: Folder or zip of the data, for the tasks of `WITH_DOMAIN`.
        peers_python: Path of a Python that has other coders, or None.

    Returns:
        `plan.Table`.
    """
    subject = nested.TASKS[task]
    scale = subject.quick if quick else subject.full
    trained = nested.build(task, quick, domain).runs
    runs = {_FP32: trained[_FP32]}
    places = {**trained[_FP32].places, "peers_python": peers_python or ""}
    runs[_DELIVERY] = Run(_DELIVERY, {"task": task}, _FP32, DELIVER, places=places)
    title = "The trained model in parts, the first of 2 to 8 bits"
    sections = [DeliverySection("bases", title, _DELIVERY, CHAINS, Reading(_DELIVERY))]
    flags = {"task": task, "calibration": _SAMPLE, "stages": "/".join(CALIBRATED_CHAINS)}
    runs[_CALIBRATED] = Run(_CALIBRATED, flags, _FP32, DELIVER, places=trained[_FP32].places)
    title = "BatchNorm statistics of each stage; bases of one width, and allocated ones"
    sections.append(
        DeliverySection(
            "calibrated", title, _CALIBRATED, CALIBRATED_CHAINS, Reading(_CALIBRATED), beside=False
        )
    )
    if TASKS[task].nested:
        runs.update({name: trained[name] for name in (_LONGER, _JOINT)})
        runs[_NESTED_DELIVERY] = Run(
            _NESTED_DELIVERY, {"task": task}, _JOINT, DELIVER, places=trained[_JOINT].places
        )
        title = "Trained at 8, 6, 4, 3 and 2 bits at once, and delivered up to INT8"
        section = DeliverySection(
            _JOINT, title, _NESTED_DELIVERY, NESTED_CHAINS, Reading(_LONGER), beside=False
        )
        sections.append(section)
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    seeds = ", ".join(map(str, scale.seeds))
    return Table(
        name=NAME,
        page=f"{NAME}-{task}",
        title=f"Progressive download of {task}, seeds {seeds}",
        legend="Bytes are lengths of files; accuracy is the receiver's on the test data, mean ± "
        "standard deviation over seeds; s are CPU seconds of one core, medians of five; a link "
        f"has {rates} Mbit/s and {1e3 * LATENCY:g} ms there and back.",
        metric="error",
        runs=runs,
        sections=tuple(sections),
        seeds=scale.seeds,
        targets=tuple(
            claim
            for section in sections
            for base in _BASES[section.run]
            for claim in _claims(section, base)
        ),
        quick=quick,
        minutes=10.0 if quick else None,
    )


def _claims(section, base):
    """What a base of 4 bits or less has to reach, list of `Claim`."""
    nested_model = section.run == _NESTED_DELIVERY
    fp32 = "FP32 trained as long" if nested_model else "FP32"
    errors = (1, Reading(section.run, "errors_at_once", base)), (-1, section.fp32)
    points = _NESTED_POINTS if nested_model else _POINTS
    percents = [
        ("bytes of the base, of FP32's", "base_share", _SHARE),
        ("all parts, more than the target coded at once", "parts_more", _MORE),
        *(
            (f"first usable at {r:g} Mbit/s, of FP32's time", f"first_share_{r:g}", _SOONER)
            for r in _FAST
        ),
        (
            "first usable at the worst bandwidth, of FP32's time",
            "first_share_worst",
            _NEVER_LATER,
        ),
    ]
    what = f"{section.name}, {base}: "
    claims = [
        Claim(what + text, ((1, Reading(section.run, key, base)),), limit, "%")
        for text, key, limit in percents
    ]
    claims.insert(1, Claim(f"{what}accuracy lost at once against {fp32}", errors, points))
    return claims
