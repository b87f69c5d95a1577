"""Decodes chosen rows of a compressed matrix, as an embedding needs them, and nothing else."""

import tensorflow as tf

from omc import packing, transforms
from omc.alternative_codecs import AlternativeCodec
from omc.codecs import from_bytes


def decode_rows(codec, buffer, indices):
    """Rows of the decoded tensor, from the bytes of their own codes alone.

        result[..., :] = codec.decode(buffer)[indices[...]]

    Where more rows are asked for than there are, the whole tensor is decoded instead.

    Args:
        codec: `Codec` or `AlternativeCodec` of a tensor [rows, ...] of rank 1 or more.
        buffer: uint8 [nbytes], as the codec writes it.
        indices: Integer tensor of any shape, values in 0 .. rows - 1. Others raise TensorFlow's
            InvalidArgumentError, as `tf.gather` does.

    Returns:
        float32 tensor [*indices.shape, *codec.shape[1:]], bit for bit what the codec's ops give.
    """
    if isinstance(codec, AlternativeCodec):
        return codec.switch(buffer, lambda own, sized: decode_rows(own, sized, indices))
    if codec.format.is_fp32:
        return tf.gather(tf.reshape(from_bytes(buffer), codec.shape), indices)
    wanted = indices.shape.num_elements()
    if wanted is not None and wanted >= codec.shape[0]:
        return tf.gather(codec.decode(buffer), indices)
    values = transforms.values_of_codes(_codes(codec, buffer, indices), codec.format)
    if codec.transform:
        scale, offset = codec.transform_of(buffer)
        product = values * scale  # Checked as in the codec, so that XLA rounds as often as it does.
        values = tf.where(tf.math.is_finite(product), product, 0.0) + offset
    shape = tf.concat([tf.shape(indices), codec.shape[1:]], axis=0)
    values = tf.reshape(values, tf.cast(shape, tf.int32))
    return tf.ensure_shape(values, indices.shape.concatenate(codec.shape[1:]))


def _codes(codec, buffer, indices):
    """Codes (int32 [n, width]) of n rows; positions as omc.packing lays them out."""
    bits, columns = codec.format.bits, codec.columns
    dtype = tf.int32 if packing.ROWS * columns < 2**31 else tf.int64
    rows, width = codec.shape[0], codec.count // max(codec.shape[0], 1)
    # A lookup rather than a product, for it refuses an index that there is no row for.
    first = tf.gather(tf.range(0, rows * width, max(width, 1), dtype), tf.reshape(indices, [-1]))
    flat = first[:, tf.newaxis] + tf.range(width, dtype=dtype)
    row, column = flat // columns, flat % columns
    codes, start = None, 0
    for plane in packing.plane_widths(bits):
        field = tf.gather(buffer, start + row % plane * columns + column)
        start += plane * columns
        if plane < packing.ROWS:
            shift = tf.cast(row // plane * plane, tf.uint8)
            field = tf.bitwise.bitwise_and(
                tf.bitwise.right_shift(field, shift), tf.constant(2**plane - 1, tf.uint8)
            )
        field = tf.cast(field, tf.int32)
        if codes is not None:
            field = tf.bitwise.bitwise_or(tf.bitwise.left_shift(codes, plane), field)
        codes = field
    return codes
