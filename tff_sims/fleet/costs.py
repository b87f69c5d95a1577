"""A round's cost for every device, from what was measured."""

import numpy as np

from omc.errors import InputError
from tff_sims.fleet import transfer
from tff_sims.fleet.rounds import Costs
from tff_sims.fleet.work import ONE_WIDTH


def of_devices(devices, work, client_seconds, seed):
    """What a round of a run costs each device.

    A device holds the model at the width that its class names, and else draws one of the run's, of
    equal shares. Its data are those of one of the clients that were measured, for good.

    Args:
        devices: `Devices`.
        work: `Work`.
        client_seconds: As of `tff_sims.fleet.client_seconds.measure`.
        seed: int from 0.

    Returns:
        `Costs`.

    Raises:
        InputError: A class names a width that the run does not have.
    """
    at = _widths(devices, work, np.random.default_rng([seed, 6]))
    down = np.array([work.down_bytes[width] for width in work.widths], float)[at]
    up = np.array([work.up_bytes[width] for width in work.widths], float)[at]
    measured = np.array([client_seconds[width] for width in work.widths])
    client = np.random.default_rng([seed, 7]).integers(measured.shape[1], size=len(devices))
    seconds = measured[at, client] / devices.speed
    seconds += transfer.seconds(down, devices.down_mbps, devices.latency_s, devices.loss)
    seconds += transfer.seconds(up, devices.up_mbps, devices.latency_s, devices.loss)
    return Costs(seconds, down, up)


def _widths(devices, work, rng):
    """Place of each device's width among the run's, int array."""
    if work.widths == (ONE_WIDTH,):
        return np.zeros(len(devices), int)
    at = rng.integers(len(work.widths), size=len(devices))
    for bits in np.unique(devices.bits[devices.bits > 0]):
        width = str(int(bits))
        if width not in work.widths:
            expected = f"bits among {', '.join(work.widths)}, the widths of {work.folder}"
            raise InputError("fleet", expected, f"{width} in column 'bits'")
        at[devices.bits == bits] = work.widths.index(width)
    return at
