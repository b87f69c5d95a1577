"""Whether a worker computes with OMC's native ops: asked of the worker itself, to the bit.

TFF's worker has them if it was started with them (`omc.kernels.worker`). What a worker that
somebody else started really has shows in one way only: a computation of a few dozen weights runs
there that uses decode, add, encode and the coder, and its bytes are compared with the pure path's
in here.
"""

import asyncio
import contextlib
import functools
import re
import threading
from concurrent import futures

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from omc import coding, kernels, nested
from omc.alternative_codecs import AlternativeCodec, raw_codec
from omc.codecs import Codec, to_bytes
from omc.errors import WorkerError
from omc.formats import Format
from omc.kernels import worker
from omc.learning.links import START_SECONDS, Watch

_local = threading.local()
# The field `op` of a node in a serialized graph: tag, length, name.
_OUR_OP = re.compile(rb"\x12[\x05-\x40]Omc>")
_FORMATS = ("S1E3M7", "INT4")
_SHAPE = (5, 13)


def missing(links):
    """Which workers cannot compute with the ops, and why.

    Args:
        links: Non-empty list of `omc.learning.links.Link`s that answer.

    Returns:
        Dict from a link's address to the reason, a str; empty where all of them can.

    Raises:
        WorkerError: A worker is gone, or falls silent.
    """
    everywhere = _missing_here()
    if everywhere is not None:
        return {link.address: everywhere for link in links}
    _probe()  # Here, once, for all threads.
    watch = Watch(links, START_SECONDS)
    try:
        with futures.ThreadPoolExecutor(len(links)) as pool:
            reasons = zip(links, pool.map(_missing_in, links))
            return {link.address: why for link, why in reasons if why is not None}
    finally:
        watch.stop()


def probing():
    """Whether this thread traces the probe, which uses the ops whatever the workers have."""
    return getattr(_local, "probing", False)


def used_in(computation):
    """Whether a TFF computation calls native ops: a worker without them cannot run it."""
    proto = tff.framework.serialize_computation(computation)
    return _OUR_OP.search(proto.SerializeToString()) is not None


def _missing_here():
    if worker.switched_off():
        return f"{worker.SWITCH}=0"
    return None if kernels.available() else "the ops are not built: python -m omc.kernels.build"


def _missing_in(link):
    computation, expected = _probe()
    try:
        got = asyncio.run(_answer(link, computation))
    except WorkerError as error:
        if not link.alive(START_SECONDS):
            raise  # No refusal: the worker is gone.
        unknown = "not registered" in error.got
        return "it was started without them" if unknown else f"they fail there ({error.got})"
    finally:
        link.flush()
    return None if np.array_equal(got, expected) else "they give other bits there"


async def _answer(link, computation):
    executor = tff.framework.RemoteExecutor(link, dispose_batch_size=1)
    executor.set_cardinalities({tff.CLIENTS: 0})
    program = await executor.create_value(computation, computation.type_signature)
    result = await executor.create_call(program)
    return await result.compute()


@functools.cache
def _probe():
    """The probe, a TFF computation that returns uint8 [n], and what it has to return."""
    with tf.init_scope():
        with kernels.pure():
            expected = results().numpy()
        with _probing():
            return tff.tensorflow.computation(results), expected


@contextlib.contextmanager
def _probing():
    _local.probing = True
    try:
        yield
    finally:
        _local.probing = False


def results():
    """Bytes (uint8 [n]) of what codec and coder make of fixed weights, in this path or that.

    Two formats; encode, decode, add (to nearest and stochastic), both on a buffer and on the
    variable that holds it, on raw float32 in their place, the coder of whole buffers, and what
    makes buffers wider.
    """
    values, delta = np.sin(np.arange(2 * 65, dtype=np.float32)).reshape([2, *_SHAPE])
    values, delta = tf.constant(values), tf.constant(0.1 * delta)
    key = tf.constant([3, 4])
    found = []
    for name in _FORMATS:
        codec = Codec(Format.parse(name), _SHAPE)
        buffer = codec.encode(values)
        moved = codec.add(buffer, delta, key)
        coded = coding.graph.encode_buffer(moved, codec, buffer)
        found += [buffer, moved, to_bytes(codec.decode(buffer)), coded]
        found.append(coding.graph.decode_buffer(coded, codec, buffer))
        found += _of_variable(codec, buffer, delta)
        either, raw = AlternativeCodec((codec, raw_codec(_SHAPE))), to_bytes(values)
        found += [to_bytes(either.decode(raw)), either.add(raw, delta)]
    wide = Codec(Format.parse("INT8"), _SHAPE)
    any_of_them = AlternativeCodec((wide, codec, raw_codec(_SHAPE)))
    found += [to_bytes(any_of_them.decode(buffer)), any_of_them.add(buffer, delta, key)]
    found.append(nested.widen_buffer(buffer, codec, wide))
    return tf.concat(found, axis=0)


def _of_variable(codec, buffer, delta):
    """Decoded values and buffer of a variable to which delta was added."""
    if not kernels.usable():
        moved = codec.add(buffer, delta)
        return [to_bytes(codec.decode(moved)), moved]
    variable = tf.Variable(buffer, dtype=tf.uint8)
    added = kernels.update_variable(variable.handle, delta, tf.constant(1.0), None, [codec])
    with tf.control_dependencies([added]):
        decoded = kernels.decode_variable(variable.handle, [codec])
        return [to_bytes(decoded), variable.read_value()]
