"""Downlinks: how weights reach the clients, one kind a file; docs/downlinks.md tells them apart."""

from omc.errors import InputError, InputTypeError
from omc.learning.downlinks.base import Downlink, Offer, delivered, pick
from omc.learning.downlinks.changes import Changes
from omc.learning.downlinks.coded import Coded
from omc.learning.downlinks.codes import Codes

NAMED = {"codes": Codes, "coded": Coded, "changes": Changes}
"""Short forms of `downlink=` -> class."""


def resolve(downlink):
    """The `Downlink` of a short form, or the object itself.

    Raises:
        InputError: A name that is none of `NAMED`.
        InputTypeError: Neither a name nor a `Downlink`.
    """
    if isinstance(downlink, str):
        if downlink not in NAMED:
            raise InputError("downlink", f"one of {tuple(NAMED)}", downlink)
        return NAMED[downlink]()
    if not isinstance(downlink, Downlink):
        raise InputTypeError("downlink", f"one of {tuple(NAMED)} or a Downlink", downlink)
    return downlink


__all__ = [
    "NAMED",
    "Changes",
    "Coded",
    "Codes",
    "Downlink",
    "Offer",
    "delivered",
    "pick",
    "resolve",
]
