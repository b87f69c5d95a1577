"""Rate and error of the uplinks on what clients really changed, beside TFF's own packing.

The change of one client: a network trained in float32 on scikit-learn's digits, then on the digits
of five classes alone. Bits count all that is sent, seeds and scales too; the error is relative,
||read - change||^2 / ||change||^2, and that of the mean over 100 such clients a hundredth of it
where the uplink is unbiased. Seconds are the processor's, to encode and to decode.
"""

import time

import numpy as np
import tensorflow as tf

from benchmarks import harness
from benchmarks.peers import tff_encoder
from models.keyword_cnn import keyword_cnn
from models.mlp import mlp
from omc import coding
from omc.codecs import Codec
from omc.formats import Format
from omc.learning.uplinks import Dithered, LocalResult, Rotated, TrainableVariable, Update
from omc.policies import VariableSpec

# Squared steps in units of the change's mean square, over 12: the error that is left.
_ERRORS = (5.0, 1.33, 0.57, 0.19, 0.083, 0.0052)
_QUICK_ERRORS = (1.33, 0.083)


def run(quick=False):
    """All uplinks on the change of two networks.

    Args:
        quick: One network that was hardly trained, fewer rates.

    Returns:
        List of `harness.Table`.
    """
    columns = [
        ("network", "change of", ""),
        ("uplink", "uplink", ""),
        ("bits", "bits/weight", ".3f"),
        ("share", "of FP32", ".4f"),
        ("error", "relative error", ".4f"),
        ("encode", "encode, ns/weight", ".1f"),
        ("decode", "decode, ns/weight", ".1f"),
    ]
    table = harness.Table("uplinks", "Uplinks on real changes", columns)
    for name, change in _changes(quick).items():
        for label, measure in _uplinks(quick):
            harness.progress(f"{name}, {label}")
            table.rows.append({"network": name, "uplink": label, **measure(change)})
    return [table]


def _uplinks(quick):
    """List of (label, function from a change to its figures)."""
    found = [
        (f"dithered, error {error:g}", _measured(Dithered(1, error)))
        for error in (_QUICK_ERRORS if quick else _ERRORS)
    ]
    for error in _QUICK_ERRORS:
        found.append((f"stochastic rounding, coded, error {2 * error:g}", _without_dither(error)))
    found += [
        (f"rotated, {bits}", _measured(Rotated(bits))) for bits in ((1,) if quick else (1, 2, 3, 4))
    ]
    for fmt in ("INT4", "INT8"):
        found.append((f"update, {fmt}", _measured(Update(), fmt)))
        found.append((f"update, {fmt}, coded", _measured(Update(), fmt, coded=True)))
    return [*found, *((f"TFF, {bits} bits", _packed_by_tff(bits)) for bits in (1, 4, 8))]


def _measured(uplink, fmt=None, coded=False):
    def measure(change):
        results = [_result(index, value, fmt) for index, value in enumerate(change)]
        variables = [result.described for result in results]
        encode = tf.function(lambda seed: uplink.encode(results, seed).tensors, autograph=False)
        decode = tf.function(lambda sent: uplink.decode(variables, sent), autograph=False)
        seed = tf.constant([1, 2])
        sent, encoding = _timed(lambda: encode(seed))
        read, decoding = _timed(lambda: decode(sent))
        nbytes = sum(
            len(coding.encode_buffer(tensor, variable.codec))
            if coded and variable.codec
            else tensor.numpy().nbytes
            for tensor, variable in zip(sent, variables)
        )
        times = {} if coded else {"encode": encoding, "decode": decoding}
        return _figures(change, read, nbytes, **times)

    return measure


def _without_dither(error):
    """Stochastic rounding, which both ends know nothing of, with the same coder."""

    def measure(change):
        flat = np.concatenate([value.ravel() for value in change])
        step = np.sqrt(12 * error * np.mean(flat.astype(np.float64) ** 2))
        noise = np.random.default_rng(0).random(flat.size)
        codes = np.floor(flat / step + noise).astype(np.int32)
        read = np.split((codes * step).astype(np.float32), np.cumsum([v.size for v in change])[:-1])
        read = [r.reshape(v.shape) for r, v in zip(read, change)]
        return _figures(change, read, len(coding.encode(codes)))

    return measure


def _packed_by_tff(bits):
    def measure(change):
        nbytes, read, encoding, decoding = 0, [], 0.0, 0.0
        for value in change:
            encode, decode = tff_encoder(bits, value.shape)
            packed, seconds = _timed(lambda v=value, e=encode: e(tf.constant(v)))
            values, more = _timed(lambda p=packed, d=decode: d(p))
            nbytes += sum(t.numpy().nbytes for t in tf.nest.flatten(packed))
            read.append(values.numpy())
            encoding, decoding = encoding + seconds, decoding + more
        return _figures(change, read, nbytes, encode=encoding, decode=decoding)

    return measure


def _figures(change, read, nbytes, encode=None, decode=None):
    count = sum(value.size for value in change)
    error = sum(np.sum((np.asarray(r, np.float64) - c) ** 2) for r, c in zip(read, change))
    energy = sum(np.sum(np.square(c, dtype=np.float64)) for c in change)
    return {
        "bits": 8 * nbytes / count,
        "share": nbytes / (4 * count),
        "error": error / energy,
        "encode": encode and 1e9 * encode / count,
        "decode": decode and 1e9 * decode / count,
    }


def _timed(function, repeats=5):
    """(what it gave, processor's seconds of the fastest of some calls after the first)."""
    result, best = function(), np.inf
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return result, best


class _Held:
    """A client's variable after its training: the start was 0."""

    def __init__(self, change):
        self._value = tf.constant(-change)

    def read_value(self):
        """Its value."""
        return self._value

    decode = read_value


def _result(index, change, fmt):
    matrix = change.ndim > 1
    codec = Codec(Format.parse(fmt), change.shape) if fmt and matrix else None
    spec = VariableSpec(f"v{index}", change.shape, tf.float32, True)
    zeros = tf.zeros(change.shape)
    received = codec.encode(zeros) if codec else zeros
    return LocalResult(TrainableVariable(index, spec, codec), received, _Held(change))


def _changes(quick):
    """Dict of name -> list of arrays, what one client's training changed."""
    from sklearn.datasets import load_digits  # Of the extra omc[sims].

    digits = load_digits()
    flat, y = (digits.data / 16).astype(np.float32), digits.target
    tf.keras.utils.set_random_seed(0)
    networks = {"MLP": (mlp(), flat)}
    if not quick:
        pictures = flat.reshape(-1, 8, 8).repeat(4, axis=1).repeat(4, axis=2)
        networks["keyword CNN"] = (keyword_cnn(classes=10, features=32, frames=32), pictures)
    return {name: _change(*pair, y, quick) for name, pair in networks.items()}


def _change(model, x, y, quick):
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(0.1), loss)
    model.fit(x, y, batch_size=32, epochs=1 if quick else 5, verbose=0)
    before = [v.numpy() for v in model.trainable_variables]
    own = y < 5
    model.fit(x[own][:200], y[own][:200], batch_size=20, epochs=1, verbose=0)
    return [b - v.numpy() for b, v in zip(before, model.trainable_variables)]
