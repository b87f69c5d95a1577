"""Plain bit planes, what P2U is compared with: codes of 16 bits in eight steps of two bits each.

After ProgressiveNet (progressive transmission and inference of a deep network). A value w of a
variable with the range [lo, hi] is the code u = floor(2^16 (w - lo) / (hi - lo)); k bits of it say

    w' = lo + (u div 2^(16 - k) + 1/2) (hi - lo) / 2^k

The planes are sent as they are, packed and not coded. 16 bits are the end: float32 is not reached.
"""

import numpy as np

BITS, STEPS = 16, 8
_EACH = BITS // STEPS


def codes(values):
    """Codes of a variable.

    Args:
        values: float array, any shape.

    Returns:
        (uint16 array of the same shape, lo, hi).
    """
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    width = (high - low) or 1.0
    found = np.floor((values - low) / width * 2**BITS)
    return np.minimum(found, 2**BITS - 1).astype(np.uint16), low, high


def plane(found, step):
    """Bytes of a step's two bits, the most significant first.

    Args:
        found: uint16 array, as of `codes`.
        step: int from 0.
    """
    two = found.reshape(-1) >> (BITS - _EACH * (step + 1)) & (2**_EACH - 1)
    bits = np.stack([two >> 1, two & 1], axis=1).astype(np.uint8)
    return np.packbits(bits).tobytes()


def restored(planes, shape, low, high):
    """Values that some planes say.

    Args:
        planes: List of bytes, the first steps in order; at least one.
        shape: Shape of the variable.
        low, high: As `codes` returned them.

    Returns:
        float32 array.
    """
    count, found = int(np.prod(shape)), 0
    for data in planes:
        bits = np.unpackbits(np.frombuffer(data, np.uint8))[: 2 * count].reshape(-1, 2)
        found = found * 2**_EACH + bits[:, 0].astype(np.int64) * 2 + bits[:, 1]
    sent = _EACH * len(planes)
    values = low + (found + 0.5) * ((high - low) / 2**sent)
    return values.reshape(shape).astype(np.float32)
