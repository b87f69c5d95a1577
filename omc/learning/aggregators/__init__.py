"""Aggregators: what the server makes of the answers, one kind a file; docs/aggregators.md.

>>> build_weighted_fed_avg(model_fn, policy, uplink="update", aggregator="trimmed_mean")
"""

from omc.learning import short_forms
from omc.learning.aggregators.admission import KINDS, Admitted
from omc.learning.aggregators.base import Aggregated, Aggregator
from omc.learning.aggregators.mean import Mean
from omc.learning.aggregators.order_statistics import Median, TrimmedMean
from omc.learning.aggregators.private_mean import PrivateMean
from omc.learning.aggregators.secure_mean import SecureMean

NAMED = {"mean": Mean, "trimmed_mean": TrimmedMean, "median": Median}
"""Short forms of `aggregator=` -> class, which is made with its defaults."""


def resolve(aggregator):
    """The `Aggregator` of a short form, or the object itself; errors as `short_forms.resolve`."""
    return short_forms.resolve(
        "aggregator", aggregator, NAMED, Aggregator, "omc.learning.aggregators.Mean(clipping=1.0)"
    )


__all__ = [
    "KINDS",
    "NAMED",
    "Admitted",
    "Aggregated",
    "Aggregator",
    "Mean",
    "Median",
    "PrivateMean",
    "SecureMean",
    "TrimmedMean",
    "resolve",
]
