"""Puts a variable's next stage in the place of what it stores, also where it learned meanwhile."""

import dataclasses

import tensorflow as tf

from omc.alternative_codecs import raw_codec
from omc.errors import ArtifactError
from omc.keras import nesting, wrapping
from omc.progressive import contents, streams

_PIECE = 1 << 17  # Weights.


def upgrade(part, entry, variable, target):
    """Replaces a variable's codes by an entry's.

    Args:
        part: `Part`, verified.
        entry: One of its packed entries.
        variable: `CompressedVariable`; what a delta applies to, or for an update anything.
        target: Digest (bytes) of what it leads to.

    Raises:
        ArtifactError: The part is another than was verified.
    """
    given = ()
    if part.kind == "delta":
        given = contents.held(variable.buffer), nesting.stored_codec(variable)
    buffer = _checked(part, entry, target, given)
    # A copy, in TensorFlow's memory, and whole: a variable that is assigned to by slices is copied
    # at every read from then on.
    with tf.device(variable.buffer.device):
        after = tf.raw_ops.DeepCopy(x=buffer)
    _put(part, variable, entry.codec, after)


def merge(part, entry, variable, target, delivered):
    """Replaces a trained variable's codes by an entry's, with what it learned added.

        new = encode(next + (trained - delivered))

    under the transform of the next stage, which grows where a sum leaves its range; rounded to
    nearest. A weight that did not move gets the next stage's code. A few dense copies of the one
    variable exist meanwhile. [ours]

    Args:
        part, entry, variable, target: As for `upgrade`, but the variable is trained.
        delivered: (buffer, codec) of what it was trained from, the stage before.

    Raises:
        ArtifactError: The part is another than was verified.
    """
    buffer, held = _checked(part, entry, target, delivered), nesting.stored_codec(variable)
    with tf.device(variable.buffer.device):
        now = tf.reshape(held.decode(contents.held(variable.buffer)), [-1])
        was = tf.reshape(delivered[1].decode(tf.constant(delivered[0])), [-1])
        if not entry.codec.format.is_fp32:
            learned = tf.reshape(now - was, variable.shape)
            del now, was
            after = entry.codec.add(tf.constant(buffer), learned)
        else:  # As large as they are dense, so by pieces, in place.
            for begin in range(0, entry.codec.count, _PIECE):
                learned = now[begin : begin + _PIECE] - was[begin : begin + _PIECE]
                codec, at = raw_codec(tuple(learned.shape)), slice(4 * begin, 4 * (begin + _PIECE))
                buffer[at] = codec.add(tf.constant(buffer[at]), learned).numpy()
            del now, was
            after = tf.raw_ops.DeepCopy(x=buffer)
    _put(part, variable, entry.codec, after)


def _checked(part, entry, target, given):
    buffer = contents.buffer_of(part, entry, *given)
    if streams.digest_of(buffer, entry.codec) != target:
        raise ArtifactError("part", "a part that stays as it is", f"{part!r}, altered meanwhile")
    return buffer


def _put(part, variable, codec, buffer):
    before = variable.buffer
    with tf.device(before.device):
        after = tf.Variable(buffer, trainable=False, name=before.name.split(":")[0])
    variable.restore(dataclasses.replace(codec, saturates=variable.codec.saturates), after)
    wrapping.give_reason(variable, f"stage {part.stage}")
    # A function that someone traced may hold the old buffer: its memory is freed all the same.
    empty = tf.zeros([0], tf.uint8)
    tf.raw_ops.AssignVariableOp(resource=before.handle, value=empty, validate_shape=False)
