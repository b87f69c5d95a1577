"""Quantizers of activations: what a layer computes with beside its weights, at a few bits.

With n bits, scale s and offset b, for an activation x and u = (x - b) / s:

    Q(x) = clip(round(u), 0, 2^n - 1) * s + b              (ties to even)

    dQ/dx = 1 inside 0 <= u <= 2^n - 1, else 0;   dQ/db = 0 inside, else 1
    dQ/ds = round(u) - u inside, else 0 or 2^n - 1

after LSQ and Double Rounding (arXiv 2502.01199). Ours: the offset stands at the low end, as in
LSQ+, not at the middle of the codes, so that 0 after a ReLU stays 0 while s is learned.
"""

import numpy as np
import tensorflow as tf

from omc import kernels

_SAMPLE = 1 << 14  # Activations of a batch that are remembered to fit a quantizer to.
_CLIPS = np.linspace(1.0, 0.05, 39)  # Shares of the range that are tried.
_LEAST_SCALE = 1e-6
_OUTGROWN = 2.0  # Part of its range that activations' root mean square is not to exceed.


def quantize(x, scale, offset, bits):
    """Q(x), float32.

    Args:
        x: float32 tensor.
        scale, offset: float32 [].
        bits: Width, 1 to 8.
    """
    if kernels.usable():
        return kernels.quantize(x, scale, offset, bits)
    _, rounded = _units(x, scale, offset, bits)
    return rounded * scale + offset


def quantize_gradient(x, dy, scale, offset, bits):
    """(dx, ds, db), float32: the gradients of a loss of which `dy` is the one for Q(x)."""
    if kernels.usable():
        return kernels.quantize_gradient(x, dy, scale, offset, bits)
    units, rounded = _units(x, scale, offset, bits)
    inside = (units >= 0.0) & (units <= 2.0**bits - 1.0)
    slope = tf.where(inside, rounded - units, rounded)
    total = tf.reduce_sum(tf.cast(dy * slope, tf.float64))
    outside = tf.reduce_sum(tf.cast(tf.where(inside, 0.0, dy), tf.float64))
    return tf.where(inside, dy, 0.0), tf.cast(total, tf.float32), tf.cast(outside, tf.float32)


def _units(x, scale, offset, bits):
    units = (x - offset) * (1.0 / scale)
    return units, tf.round(tf.clip_by_value(units, 0.0, 2.0**bits - 1.0))


class InputQuantizer:
    """The quantizer of what meets a weight, at one width.

    Attributes:
        bits: Width of the activations.
        row: Row of `table` with its scale and offset.
        table: tf.Variable float32 [rows, 2], which the quantizers of all widths share.
        squares: None, or a list to which each call adds the mean square of some of its activations.
    """

    squares = None

    def __init__(self, table, row, bits):
        self.table, self.row, self.bits = table, row, bits

    def parameters(self):
        """(scale, offset), float32 []."""
        return tuple(tf.unstack(self.table.read_value()[self.row]))

    @property
    def levels(self):
        """2^bits - 1, the largest code."""
        return 2.0**self.bits - 1.0

    def choose(self, function):
        """What a function of the width gives."""
        return function(self.bits)

    def __call__(self, x):
        """Q(x) in the dtype of x."""
        scale, offset = self.parameters()
        wide = tf.cast(x, tf.float32)
        if self.squares is not None:
            flat = tf.reshape(wide, [-1])
            some = flat[:: tf.maximum(tf.size(flat) // _SAMPLE, 1)]
            self.squares.append(tf.reduce_mean(tf.square(tf.stop_gradient(some))))
        return tf.cast(self.choose(lambda bits: quantize(wide, scale, offset, bits)), x.dtype)

    def outgrown(self):
        """Whether activations went far beyond the range, of those in `squares`: bool []."""
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        here = [s for s in self.squares or () if getattr(s, "graph", graph) is graph]
        if not here:  # Functions inside keep theirs for themselves.
            return tf.constant(False)
        scale, offset = self.parameters()
        end = tf.maximum(tf.abs(offset), tf.abs(offset + scale * self.levels))
        square = tf.reduce_max(tf.stack(here))
        return tf.math.is_finite(square) & (square > tf.square(_OUTGROWN * end))

    def gradient(self, x, dy):
        """(dx, gradient for the table) of a loss, given that for Q(x)."""
        scale, offset = self.parameters()
        wide, dy = tf.cast(x, tf.float32), tf.cast(dy, tf.float32)
        dx, *both = self.choose(lambda bits: quantize_gradient(wide, dy, scale, offset, bits))
        place = tf.one_hot(self.row, self.table.shape[0])[:, tf.newaxis]
        return tf.cast(dx, x.dtype), place * tf.stack(both)


class Recorder:
    """Stands where an `InputQuantizer` is to be: changes nothing and remembers activations."""

    bits = None

    def __init__(self):
        self._samples = []

    @property
    def seen(self):
        """Whether anything came by."""
        return bool(self._samples)

    def observe(self, x):
        """Remembers some of a batch's activations, evenly spread; eager tensors only."""
        if tf.executing_eagerly():
            flat = tf.reshape(tf.cast(x, tf.float32), [-1])
            self._samples.append(flat[:: max(int(flat.shape[0]) // _SAMPLE, 1)].numpy())

    def fit(self, bits):
        """(scale, offset) with the least squared error on what was seen, at a width.

        The ends of the range are drawn in together, by the best of a few shares; the lower one
        stays at 0 where nothing is negative. Where all was 0, as behind a kernel that begins at 0,
        the range is about -1 to 1, of which 0 is a code.
        """
        values = np.concatenate(self._samples).astype(np.float64)
        if not np.any(values):
            half = max((2**bits - 1) // 2, 1)
            return 1.0 / half, -1.0 if bits > 1 else 0.0
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        most, best = 2**bits - 1, None
        for clip in _CLIPS:
            offset = clip * low
            scale = max((clip * high - offset) / most, _LEAST_SCALE)
            rounded = np.clip(np.rint((values - offset) / scale), 0, most) * scale + offset
            error = float(np.mean((values - rounded) ** 2))
            if best is None or error < best[0]:
                best = error, scale, offset
        return best[1:]
