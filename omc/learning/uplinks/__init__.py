"""Uplinks: what clients answer, one kind a file; docs/uplinks.md says which is for what.

>>> build_weighted_fed_avg(model_fn, policy, uplink=omc.learning.uplinks.Dithered(clients=100))
"""

from omc.learning import short_forms
from omc.learning.uplinks.base import (
    Answer,
    LocalResult,
    TrainableVariable,
    Uplink,
    VariableUplink,
)
from omc.learning.uplinks.dithered import Dithered
from omc.learning.uplinks.grid import Grid
from omc.learning.uplinks.rotated import Rotated
from omc.learning.uplinks.update import Update
from omc.learning.uplinks.weights import Weights

NAMED = {
    "weights": Weights,
    "update": Update,
    "dithered": Dithered,
    "rotated": Rotated,
    "grid": Grid,
}
"""Short forms of `uplink=` -> class, which is made with its defaults."""


def resolve(uplink):
    """The `Uplink` of a short form, or the object itself; errors as `short_forms.resolve`."""
    return short_forms.resolve(
        "uplink", uplink, NAMED, Uplink, "omc.learning.uplinks.Dithered(clients=100)"
    )


__all__ = [
    "NAMED",
    "Answer",
    "Dithered",
    "Grid",
    "LocalResult",
    "Rotated",
    "TrainableVariable",
    "Update",
    "Uplink",
    "VariableUplink",
    "Weights",
    "resolve",
]
