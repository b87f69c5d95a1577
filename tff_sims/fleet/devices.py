"""Devices drawn from a fleet's description: plain arrays, a place a device."""

import dataclasses
import functools

import numpy as np

from omc.errors import InputError
from tff_sims.fleet.table import COLUMNS

NIGHT = (22.0, 6.0)
"""Hours of a device's own clock from which and until which it is night; ours."""

_MOST_CLASSES = 100
# A device with a good downlink has a good uplink, too: both have the same quantile. Ours.
_QUANTILES = {"up_mbps": "down_mbps"}


@dataclasses.dataclass(frozen=True)
class Devices:
    """A fleet, in arrays of one length.

    Attributes:
        classes: Names of the classes, a tuple in the file's order.
        of: int array, each device's class.
        down_mbps, up_mbps: Payload, megabits (10^6) a second.
        latency_s: Seconds there and back.
        loss: Share of packets that are lost, and sent again.
        speed: Of computing; 1 is the measured machine's.
        availability, night_availability: Probability of being free when a round begins, by day and
            at night; the latter NaN where it is the same.
        zone_h: Hours by which the device's clock is ahead of the server's.
        failure: Probability that a device that was asked never answers.
        bits: Width that it holds a nested model at; 0 where the description does not say.
    """

    classes: tuple
    of: np.ndarray
    down_mbps: np.ndarray
    up_mbps: np.ndarray
    latency_s: np.ndarray
    loss: np.ndarray
    speed: np.ndarray
    availability: np.ndarray
    night_availability: np.ndarray
    zone_h: np.ndarray
    failure: np.ndarray
    bits: np.ndarray

    def __len__(self):
        return len(self.of)

    @property
    def has_nights(self):
        """Whether availability depends on the hour."""
        return not np.isnan(self.night_availability).all()

    @functools.cached_property
    def most_available(self):
        """The highest probability of any device to be free, by day or night."""
        return float(np.fmax(self.availability, self.night_availability).max())

    def free_at(self, seconds, which):
        """Probability of devices to be free, float array.

        Args:
            seconds: The server's clock, 0 at midnight.
            which: Index array, the devices.
        """
        day, at_night = self.availability[which], self.night_availability[which]
        hours = (seconds / 3600 + self.zone_h[which]) % 24
        night = ((hours >= NIGHT[0]) | (hours < NIGHT[1])) & ~np.isnan(at_night)
        return np.where(night, at_night, day)


def draw(table, count, seed):
    """Draws a fleet; the same for the same arguments.

    Args:
        table: `Table`.
        count: Devices; None for one a row of a table without shares.
        seed: int from 0.

    Returns:
        `Devices`, those of a row next to each other. Rows of one name are one class; with more than
        100 names, all are.

    Raises:
        InputError: A count where each row is one device, or none where rows are classes.
    """
    if table.shares is None:
        if count not in (None, len(table)):
            expected = f"none with a file in which each row is one device ({len(table):,})"
            raise InputError("devices", expected, count, "a column share makes rows classes.")
        rows = np.arange(len(table))
    elif count is None:
        raise InputError("devices", "a number with a file of classes", count)
    else:
        rows = np.repeat(np.arange(len(table)), _counts(table.shares, count))
    numbers = {name: place for place, name in enumerate(dict.fromkeys(table.names))}
    of_row = np.array([numbers[name] for name in table.names], np.int32)
    if len(numbers) > _MOST_CLASSES:  # Names of devices, not of classes.
        numbers, of_row = {"devices": 0}, np.zeros_like(of_row)
    values = {}
    for column in COLUMNS:
        at = [c.name for c in COLUMNS].index(_QUANTILES.get(column.name, column.name))

        def quantiles(at=at):
            return np.random.default_rng([seed, 3, at]).random(len(rows))

        values[column.name] = table.values(column.name, rows, quantiles)
    return Devices(classes=tuple(numbers), of=of_row[rows], **values)


def _counts(shares, count):
    """Whole numbers in proportion to shares, whose sum is `count`: the largest remainders win."""
    exact = shares * count
    counts = np.floor(exact).astype(int)
    rest = np.argsort(counts - exact, kind="stable")[: count - counts.sum()]
    counts[rest] += 1
    return counts
