"""How long bytes take through a device's link."""

import numpy as np

TRIPS = 3
"""Round trips before the first byte: TCP, TLS 1.3, and the request or last acknowledgement."""
WINDOW = 14_600
"""Bytes that a sender may have under way at first: 10 segments of 1460 bytes (RFC 6928)."""


def seconds(nbytes, mbps, latency, loss=0.0):
    """Time of one transfer over a fresh connection.

        t = TRIPS L + n / r + sum_i max(0, L - W 2^i / r),   r = mbps 10^6 / 8 (1 - loss)

    The sum is slow start: a window of W 2^i bytes is sent, then the sender waits for the first
    acknowledgement; i runs over the windows after which bytes are left. Lost packets are sent again
    and cost their share of the rate; that congestion control slows down is left out. Ours.

    Args:
        nbytes: Bytes of payload, a number or an array.
        mbps: Megabits (10^6) a second, array.
        latency: Seconds L there and back, array.
        loss: Share of packets lost, below 1, array.

    Returns:
        float64 array of the arguments' common shape, in seconds.
    """
    nbytes, mbps, latency, loss = np.broadcast_arrays(nbytes, mbps, latency, loss)
    rate = mbps * 1e6 / 8 * (1.0 - loss)
    total = TRIPS * latency + nbytes / rate
    window, largest = WINDOW, float(np.max(nbytes, initial=0))
    widest = float(np.max(rate * latency, initial=0))  # Beyond it nobody waits any more.
    while 2 * window - WINDOW < largest and window < widest:
        wait = np.maximum(0.0, latency - window / rate)
        total += np.where(2 * window - WINDOW < nbytes, wait, 0.0)
        window *= 2
    return total
