"""Writes to a part of a compressed variable: rows, slices, single weights.

The new values are computed densely, for the moment, by TensorFlow's own ops on tensors; what is
then *added* is the difference, zero wherever nothing was written: the rest keeps its codes.
"""

import tensorflow as tf

from omc.errors import InputTypeError


class PartialWrites:
    """The methods of a tf.Variable that write a part of it.

    Each does what tf.Variable's does and returns the variable. Written values are rounded to codes
    once, as an update is. Indices out of range raise TensorFlow's InvalidArgumentError.
    """

    def scatter_add(self, sparse_delta, use_locking=False, name=None):
        """Adds tf.IndexedSlices: what optimizers call with an embedding's gradient."""
        return self._move(self._dense_rows(sparse_delta), 1.0, read_value=True)

    def scatter_sub(self, sparse_delta, use_locking=False, name=None):
        """Subtracts tf.IndexedSlices."""
        return self._move(self._dense_rows(sparse_delta), -1.0, read_value=True)

    def scatter_update(self, sparse_delta, use_locking=False, name=None):
        """Replaces the rows that tf.IndexedSlices name."""
        return self._write(tf.tensor_scatter_nd_update, *self._rows(sparse_delta))

    def scatter_max(self, sparse_delta, use_locking=False, name=None):
        """Replaces rows by the larger of their values and those of tf.IndexedSlices."""
        return self._write(tf.tensor_scatter_nd_max, *self._rows(sparse_delta))

    def scatter_min(self, sparse_delta, use_locking=False, name=None):
        """Replaces rows by the smaller of their values and those of tf.IndexedSlices."""
        return self._write(tf.tensor_scatter_nd_min, *self._rows(sparse_delta))

    def scatter_mul(self, sparse_delta, use_locking=False, name=None):
        """Multiplies the rows that tf.IndexedSlices name."""
        return self._replace(lambda old: old * self._products(sparse_delta))

    def scatter_div(self, sparse_delta, use_locking=False, name=None):
        """Divides the rows that tf.IndexedSlices name."""
        return self._replace(lambda old: old / self._products(sparse_delta))

    def batch_scatter_update(self, sparse_delta, use_locking=False, name=None):
        """Replaces, in each batch of the leading dimensions, what the last dimension names."""
        _check_slices(sparse_delta)
        places = tf.convert_to_tensor(sparse_delta.indices)
        ranges = [tf.range(tf.cast(size, places.dtype)) for size in tf.unstack(tf.shape(places))]
        batches = tf.meshgrid(*ranges, indexing="ij")[:-1]
        return self.scatter_nd_update(tf.stack([*batches, places], -1), sparse_delta.values)

    def scatter_nd_add(self, indices, updates, name=None):
        """Adds slices; indices [..., K] hold the first K coordinates of each."""
        return self._write(tf.tensor_scatter_nd_add, indices, updates)

    def scatter_nd_sub(self, indices, updates, name=None):
        """Subtracts slices, as `scatter_nd_add`."""
        return self._write(tf.tensor_scatter_nd_sub, indices, updates)

    def scatter_nd_update(self, indices, updates, name=None):
        """Replaces slices, as `scatter_nd_add`."""
        return self._write(tf.tensor_scatter_nd_update, indices, updates)

    def scatter_nd_max(self, indices, updates, name=None):
        """Replaces slices by the larger of both, as `scatter_nd_add`."""
        return self._write(tf.tensor_scatter_nd_max, indices, updates)

    def scatter_nd_min(self, indices, updates, name=None):
        """Replaces slices by the smaller of both, as `scatter_nd_add`."""
        return self._write(tf.tensor_scatter_nd_min, indices, updates)

    def _strided_slice_assign(self, begin, end, strides, value, name=None, *masks, **named):
        # What `variable[...].assign(value)` calls.
        kinds = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
        masks = {**dict(zip(kinds, masks)), **named}
        value = tf.convert_to_tensor(value, self.dtype)

        def write(old):
            return tf.raw_ops.TensorStridedSliceUpdate(
                input=old, begin=begin, end=end, strides=strides, value=value, **masks
            )

        return self._replace(write)

    def _write(self, function, indices, updates):
        return self._replace(
            lambda old: function(old, indices, tf.convert_to_tensor(updates, self.dtype))
        )

    def _replace(self, function):
        """Stores what a function makes of the dense value; what stays equal keeps its codes."""
        old = self.decode()
        new = function(old)
        if self.stores_floats:
            return self.assign(new)
        return self._move(tf.where(tf.equal(new, old), 0.0, new - old), 1.0, read_value=True)

    def _rows(self, sparse):
        """(indices [n, 1], values [n, ...]) of tf.IndexedSlices with indices of any shape."""
        _check_slices(sparse)
        indices = tf.convert_to_tensor(sparse.indices)
        values = tf.convert_to_tensor(sparse.values, self.dtype)
        if not values.shape.rank:
            values = tf.fill(tf.concat([tf.shape(indices), self.shape[1:]], 0), values)
        values = tf.reshape(values, tf.concat([[-1], self.shape[1:]], 0))
        return tf.reshape(indices, [-1, 1]), values

    def _dense_rows(self, sparse):
        indices, values = self._rows(sparse)
        return tf.scatter_nd(indices, values, tf.cast(self.shape, indices.dtype))

    def _products(self, sparse):
        """For each weight the product of all that tf.IndexedSlices have for it; 1 without any."""
        indices, values = self._rows(sparse)
        with tf.control_dependencies([tf.debugging.assert_non_negative(indices)]):
            return tf.math.unsorted_segment_prod(values, indices[:, 0], self.shape[0])


def _check_slices(sparse):
    if not isinstance(sparse, tf.IndexedSlices):
        raise InputTypeError("sparse_delta", "tf.IndexedSlices", type(sparse).__name__)
