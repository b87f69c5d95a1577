"""Uplinks: what clients answer, one kind a file; docs/uplinks.md says which is for what.

>>> build_weighted_fed_avg(model_fn, policy, uplink=omc.learning.uplinks.Dithered(clients=100))
"""

from omc.errors import InputError, InputTypeError
from omc.learning.uplinks.base import (
    Answer,
    LocalResult,
    TrainableVariable,
    Uplink,
    VariableUplink,
)
from omc.learning.uplinks.dithered import Dithered
from omc.learning.uplinks.rotated import Rotated
from omc.learning.uplinks.update import Update
from omc.learning.uplinks.weights import Weights

NAMED = {"weights": Weights, "update": Update, "dithered": Dithered, "rotated": Rotated}
"""Short forms of `uplink=` -> class, which is made with its defaults."""


def resolve(uplink):
    """The `Uplink` of a short form, or the object itself.

    Raises:
        InputError: A name that is none of `NAMED`.
        InputTypeError: Neither a name nor an `Uplink`.
    """
    if isinstance(uplink, str):
        if uplink not in NAMED:
            raise InputError("uplink", f"one of {tuple(NAMED)}", uplink)
        return NAMED[uplink]()
    if not isinstance(uplink, Uplink):
        tip = f"for example {tuple(NAMED)} or omc.learning.uplinks.Dithered(clients=100)."
        raise InputTypeError("uplink", "a name or an Uplink", type(uplink).__name__, tip)
    return uplink


__all__ = [
    "NAMED",
    "Answer",
    "Dithered",
    "LocalResult",
    "Rotated",
    "TrainableVariable",
    "Update",
    "Uplink",
    "VariableUplink",
    "Weights",
    "resolve",
]
