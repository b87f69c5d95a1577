"""Native TensorFlow ops for the hot loops of the codec; optional, bit-identical to the TF path.

`make setup` compiles them (`omc.kernels.build`), with loops for AVX-512, AVX2 and any processor, of
which the best is chosen at run time (environment variable OMC_SIMD=avx2 or portable asks for less).
They serve wherever they are there, except inside an XLA program, which takes TensorFlow's own ops
only, and inside `pure()`. TFF's worker, another program with a TensorFlow of its own, gets them
from another library (`omc.kernels.worker`).
"""

import contextlib
import functools
import threading
import warnings

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import auto_control_deps_utils
from tensorflow.python.ops import control_flow_util

from omc import transforms

_WITHOUT_GRADIENT = (
    "Decode",
    "DecodeVariable",
    "Add",
    "ScaleGradient",
    "WidenBuffer",
    "Quantize",
    "QuantizeGradient",
    "EncodeCodes",
    "DecodeCodes",
    "TryDecodeCodes",
    "EncodeBuffer",
    "DecodeBuffer",
    "DitherQuantize",
    "DitherContexts",
    "DitherRead",
)
_local = threading.local()
_refusals = []


@functools.cache
def _library():
    from omc.kernels import build  # Here, so that `python -m omc.kernels.build` is the only one.

    path = build.library_path()
    if not path.exists():
        return None
    try:
        library = tf.load_op_library(str(path))
    except tf.errors.OpError as error:
        warnings.warn(
            f"{path.name} does not load, OMC runs slower without it: {error}", stacklevel=2
        )
        return None
    for op in _WITHOUT_GRADIENT:
        tf.no_gradient(f"Omc>{op}")
    auto_control_deps_utils.register_read_only_resource_op("Omc>DecodeVariable")
    return library


def available():
    """Whether the native ops are compiled for this TensorFlow and load."""
    return _library() is not None


def usable():
    """Whether the code being run or traced now may use them."""
    if is_pure() or any(refuse() for refuse in _refusals):
        return False
    if not available():
        return False
    # Private TensorFlow: nothing public tells that a function is traced for XLA.
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return graph is None or not control_flow_util.GraphOrParentsInXlaContext(graph)


@contextlib.contextmanager
def pure():
    """Context in which this thread runs and traces on TensorFlow's own ops alone.

    For graphs that go where the native ops are not: exported models, other machines.
    """
    before = is_pure()
    _local.pure = True
    try:
        yield
    finally:
        _local.pure = before


def is_pure():
    """Whether this thread is inside `pure()`."""
    return getattr(_local, "pure", False)


def refuse_when(condition):
    """Registers a condition (() -> bool) under which the ops are never used.

    For rooms below that trace graphs for another runtime and which this one must not know.
    """
    _refusals.append(condition)


def decode(buffer, codecs):
    """Dense float32 tensor; see `omc.codecs.Codec.decode`.

    Args:
        buffer: uint8 [n], of one of the codecs, as its length tells.
        codecs: Sequence of `omc.codecs.Codec`s of one shape, alike in their `transform`; but for
            one of FP32, which may stand beside others for raw float32.
    """
    return _library().omc_decode(buffer, **_decoding(codecs))


def decode_variable(handle, codecs):
    """As `decode`, from the uint8 variable behind `handle`."""
    return _library().omc_decode_variable(handle, **_decoding(codecs))


def can_add(fmt, transform):
    """Whether `add` serves buffers of this format."""
    return transform and bool(fmt.sign_bits) and not fmt.is_fp32


def add(buffer, delta, sign, key, codecs):
    """Buffer after `values += sign * delta`; see `omc.codecs.Codec.add`.

    Args:
        buffer: uint8 [n], of one of the codecs, as its length tells.
        delta: float32, any shape of the buffer's count.
        sign: float32 [].
        key: int32 [2] for stochastic rounding, or None.
        codecs: As in `decode`; all with a transform, their formats with a sign.
    """
    return _library().omc_add(buffer, delta, sign, _key(key), **_adding(codecs))


def update_variable(handle, delta, sign, key, codecs):
    """As `add`, on the uint8 variable behind `handle`; returns the operation (None when eager)."""
    return _library().omc_update_variable(handle, delta, sign, _key(key), **_adding(codecs))


def scale_gradient(buffer, gradient, codec):
    """float32 []; see `omc.codecs.Codec.scale_gradient`.

    Args:
        buffer: uint8 [codec.nbytes].
        gradient: float32, any shape of the buffer's count.
        codec: `Codec`, not of FP32.
    """
    return _library().omc_scale_gradient(buffer, gradient, **_widths([codec]))


def widen_buffer(buffer, narrow, codec):
    """uint8 [codec.nbytes]; see `omc.nested.widen_buffer`.

    Args:
        buffer: uint8 [n], of one of the narrow codecs, as its length tells.
        narrow: Sequence of `Codec`s.
        codec: `Codec` of as many bits or more.
    """
    bits, new_bits = [own.format.bits for own in narrow], codec.format.bits
    # Codes of integers are multiples of a smaller scale then.
    factor = [2.0 ** (own - new_bits) if codec.format.kind == "int" else 1.0 for own in bits]
    widened = _library().omc_widen_buffer(
        buffer,
        count=codec.count,
        bits=bits,
        new_bits=new_bits,
        transform=codec.transform,
        factor=factor,
    )
    return tf.ensure_shape(widened, [codec.nbytes])


def quantize(x, scale, offset, bits):
    """Activations at a few bits; see `omc.keras.quantizers.quantize`."""
    return _library().omc_quantize(x, scale, offset, bits=bits)


def quantize_gradient(x, dy, scale, offset, bits):
    """(dx, dscale, doffset); see `omc.keras.quantizers`."""
    return tuple(_library().omc_quantize_gradient(x, dy, scale, offset, bits=bits))


def dither_quantize(x, seed, step):
    """(symbols, contexts, squared error); see `omc.coding.dither.quantize`."""
    return tuple(_library().omc_dither_quantize(x, seed, step))


def dither_contexts(seed, count):
    """Contexts (uint8 [count]); see `omc.coding.dither.contexts`."""
    return tf.ensure_shape(_library().omc_dither_contexts(seed, count), [count])


def dither_read(symbols, seed, step):
    """float32 values; see `omc.coding.dither.read`."""
    return _library().omc_dither_read(symbols, seed, step)


def encode_codes(symbols, context):
    """Coded bytes (uint8 [n]); see `omc.coding.encode`.

    Args:
        symbols: int32.
        context: uint8 of as many, or of none.
    """
    return _library().omc_encode_codes(symbols, context)


def decode_codes(data, context, shape, limit):
    """int32 symbols of coded bytes; see `omc.coding.decode`.

    Args:
        data: uint8 [n].
        context: As for `encode_codes`.
        shape: Shape of the symbols, or None for the one that the bytes say.
        limit: Most symbols.
    """
    shape = tf.TensorShape(shape)
    return _library().omc_decode_codes(data, context, shape=shape, limit=limit)


def try_decode_codes(data, context, shape, limit):
    """(symbols, whether the data were right); see `omc.coding.graph.try_decode`."""
    shape = tf.TensorShape(shape)
    return tuple(_library().omc_try_decode_codes(data, context, shape=shape, limit=limit))


def encode_buffer(buffer, given, codec):
    """Coded bytes (uint8 [n]) of a buffer; see `omc.coding.encode_buffer`.

    Args:
        buffer: uint8 [codec.nbytes].
        given: uint8 of as many, or of none.
        codec: `omc.codecs.Codec`.
    """
    return _library().omc_encode_buffer(buffer, given, **_layout(codec))


def decode_buffer(data, given, codec):
    """Buffer of coded bytes; see `omc.coding.decode_buffer`."""
    buffer = _library().omc_decode_buffer(data, given, **_layout(codec))
    return tf.ensure_shape(buffer, [codec.nbytes])


def _layout(codec):
    fmt = codec.format
    return dict(
        count=codec.count,
        bits=fmt.bits,
        sign_bits=fmt.sign_bits,
        exponent_bits=fmt.exponent_bits,
        planes=not fmt.is_fp32,
        transform=codec.transform and not fmt.is_fp32,
    )


def _decoding(codecs):
    own = _coded(codecs)
    layout = dict(shape=own[0].shape, transform=own[0].transform)
    return dict(**_widths(own), **layout, or_raw=len(own) < len(codecs))


def _adding(codecs):
    own = _coded(codecs)
    found = [_stretch_constants(codec.format, codec.saturates) for codec in own]
    constants = {name: [one[name] for one in found] for name in found[0]}
    return dict(**_widths(own), **constants, or_raw=len(own) < len(codecs))


def _coded(codecs):
    return [codec for codec in codecs if not codec.format.is_fp32]


def _widths(codecs):
    formats = [codec.format for codec in codecs]
    return dict(
        bits=[fmt.bits for fmt in formats],
        sign_bits=[fmt.sign_bits for fmt in formats],
        exponent_bits=[fmt.exponent_bits for fmt in formats],
        feedback_bits=[
            -fmt.feedback_bits if fmt.truncates else fmt.feedback_bits for fmt in formats
        ],
    )


@functools.cache
def _stretch_constants(fmt, saturates):
    constants = transforms.stretch_constants(fmt)
    if saturates:
        constants["widest"] = constants["spare_below"] = 0.0  # The factor is 1, whatever comes.
    return {name: float(np.float32(value)) for name, value in constants.items()}


def _key(key):
    return tf.zeros([0], tf.int32) if key is None else key
