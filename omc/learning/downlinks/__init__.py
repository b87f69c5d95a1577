"""Downlinks: how weights reach the clients, one kind a file; docs/downlinks.md tells them apart."""

from omc.learning import short_forms
from omc.learning.downlinks.base import Downlink, Offer, delivered, pick
from omc.learning.downlinks.by_bandwidth import ByBandwidth
from omc.learning.downlinks.changes import Changes
from omc.learning.downlinks.coded import Coded
from omc.learning.downlinks.codes import Codes

NAMED = {"codes": Codes, "coded": Coded, "changes": Changes}
"""Short forms of `downlink=` -> class."""


def resolve(downlink):
    """The `Downlink` of a short form, or the object itself; errors as `short_forms.resolve`."""
    return short_forms.resolve(
        "downlink", downlink, NAMED, Downlink, "omc.learning.downlinks.Coded(bits=6)"
    )


__all__ = [
    "NAMED",
    "ByBandwidth",
    "Changes",
    "Coded",
    "Codes",
    "Downlink",
    "Offer",
    "delivered",
    "pick",
    "resolve",
]
