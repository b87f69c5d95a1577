"""Peers of the codec in the same rounds: ml_dtypes' casts and TFF's packing, in ns a weight."""

import logging

import ml_dtypes
import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.python.core.internal import tensor_encoding

from benchmarks import harness, loops
from omc.codecs import Codec
from omc.formats import Format

_SIZES = {  # weights -> (shape, calls in one measurement, most rounds)
    1 << 22: ((2048, 2048), 1, 5),
    1 << 16: ((256, 256), 8, 9),
}
_CASTS = {ml_dtypes.bfloat16: "S1E5M10", ml_dtypes.float8_e4m3fn: "S1E4M3"}
_PACKINGS = {4: "INT4", 8: "INT8", 11: "S1E3M7"}  # bits of TFF's -> OMC's format of these bits


def run(quick=False):
    """Casts and packings, each beside the OMC format of as many bits.

    Args:
        quick: Only 1 M weights, and 8 bits of TFF's packing.

    Returns:
        List of `harness.Table`.
    """
    casts = harness.Table(
        "casts",
        "Casts of ml_dtypes beside OMC, and copies of the dense result",
        [
            ("weights", "weights", ",d"),
            ("cast", "cast", ""),
            ("threads", "threads", ""),
            ("narrow_ns", "to narrow, ns/weight", ".3f"),
            ("dense_ns", "to float32, ns/weight", ".3f"),
            ("to_copy_1", "to float32 x copy 1 thread", ".2f"),
            ("to_copy_all", "to float32 x copy all threads", ".2f"),
        ],
    )
    packing = harness.Table(
        "packing",
        "TFF's packing beside OMC's: fit and encode, and decode",
        [
            ("weights", "weights", ",d"),
            ("packing", "packing", ""),
            ("mode", "mode", ""),
            ("bits", "bits/weight", ".2f"),
            ("narrow_ns", "encode ns/weight", ".2f"),
            ("dense_ns", "decode ns/weight", ".2f"),
            ("to_tff", "both x TFF", ".3f"),
        ],
    )
    sizes = {1 << 20: ((1024, 1024), 1, 3)} if quick else _SIZES
    for count, (shape, calls, rounds) in sizes.items():
        weights = np.random.default_rng(0).normal(0, 0.044, shape).astype(np.float32)
        harness.progress(f"peers {count:,} weights: casts")
        _cast_rows(casts.rows, weights, 4 * calls, rounds)
        for bits in (8,) if quick else _PACKINGS:
            harness.progress(f"peers {count:,} weights: TFF's packing in {bits} bits")
            _packing_rows(packing.rows, weights, bits, calls, rounds)
    return [casts, packing]


def _cast_rows(rows, weights, calls, rounds):
    def cast(array, dtype):
        for _ in range(calls):
            array.astype(dtype)

    functions = loops.copies(tf.constant(weights), calls)
    labels = {}
    for dtype, name in _CASTS.items():
        narrow, label = weights.astype(dtype), np.dtype(dtype).name
        labels[label] = "1"
        functions[label, "narrow"] = lambda d=dtype: cast(weights, d)
        functions[label, "dense"] = lambda n=narrow: cast(n, np.float32)
        label = f"OMC {name}, {loops.modes()[0]}"
        labels[label] = "all"
        functions.update(_omc(label, loops.modes()[0], name, weights, calls))
    each = harness.medians(harness.interleaved(functions, rounds, seconds=15))
    total = weights.size * calls
    for label, threads in labels.items():
        times = _both(each, label, total, looped=label.startswith("OMC"))
        row = {"weights": weights.size, "cast": label, "threads": threads}
        rows.append(row | times | loops.to_copies(each, times["dense_ns"], total))


def _packing_rows(rows, weights, bits, calls, rounds):
    dense = tf.constant(weights)
    encode, decode = tff_encoder(bits, weights.shape)
    packed = encode(dense)
    tff = f"TFF uniform, {bits} bits"
    name = _PACKINGS[bits]
    functions = {
        (tff, "narrow"): lambda: [encode(dense) for _ in range(calls)],
        (tff, "dense"): lambda: [decode(packed) for _ in range(calls)],
    }
    nbytes = sum(part.dtype.size * int(tf.size(part)) for part in tf.nest.flatten(packed))
    labels = {tff: (tff, "ops", nbytes)}
    stored = Codec(Format.parse(name), weights.shape).nbytes
    inner = 8 * calls  # OMC is quicker, so that it takes more calls to time it.
    for mode in loops.modes():
        label = f"OMC {name}, {mode}"
        labels[label] = (f"OMC {name}", mode, stored)
        functions.update(_omc(label, mode, name, weights, inner))
    functions["empty"] = loops.copies(dense, inner)["empty"]
    each = harness.medians(harness.interleaved(functions, rounds, seconds=15))
    peer = _both(each, tff, weights.size * calls, looped=False)
    for label, (packing, mode, nbytes) in labels.items():
        ours = _both(each, label, weights.size * inner, looped=True) if label != tff else peer
        row = {
            "weights": weights.size,
            "packing": packing,
            "mode": mode,
            "bits": 8 * nbytes / weights.size,
            "to_tff": loops.quotient(_total(ours), _total(peer)),
        }
        rows.append(row | ours)


def _omc(label, mode, name, weights, calls):
    codec, dense = Codec(Format.parse(name), weights.shape), tf.constant(weights)
    with loops.path(mode):
        buffer = codec.encode(dense)
        encode = loops.looped(lambda _, values: codec.encode(values), calls)
        decode = loops.looped(lambda _, codes: codec.decode(codes), calls)
        return {
            (label, "narrow"): loops.bound(encode, buffer, dense),
            (label, "dense"): loops.bound(decode, dense, buffer),
        }


def _both(each, label, weights, looped):
    return {
        f"{way}_ns": loops.nanoseconds(each, (label, way), weights, looped)
        for way in ("narrow", "dense")
    }


def _total(times):
    return None if None in times.values() else sum(times.values())


def tff_encoder(bits, shape):
    """(encode, decode) of tff.aggregators.EncodedSumFactory.quantize_above_threshold(bits).

    TFF 0.87 has no other packing. The factory runs just these calls of TensorFlow Model
    Optimization on client and server; here they are one TensorFlow function each, without TFF's
    serialization around them.
    """
    uniform = tensor_encoding.encoders.uniform_quantization(bits)
    spec = tf.TensorSpec(shape, tf.float32)
    encoder = tensor_encoding.encoders.as_gather_encoder(uniform, spec)
    first, before, after = encoder.get_params(encoder.initial_state())
    encode = tf.function(lambda values: encoder.encode(values, first)[0])
    decode = tf.function(
        lambda packed: encoder.decode_after_sum(encoder.decode_before_sum(packed, before), after, 1)
    )
    logging.disable(logging.WARNING)  # It warns at each trace that unpacking takes memory.
    try:
        decode(encode(tf.zeros(shape)))
    finally:
        logging.disable(logging.NOTSET)
    return encode, decode
