"""Tensors of a safetensors file, one at a time: the library's own reader maps or copies all."""

import json
import math

import numpy as np
import tensorflow as tf

from omc import coding

_ALIGNMENT = 64  # Bytes.
_LONGEST_HEADER = 100_000_000  # The format's own limit.
# The element types of the format that numpy has.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read_head(file):
    """Length and header of a safetensors file (bytearray), as far as they are there."""
    head = file.read(8)
    return bytearray(head + file.read(min(int.from_bytes(head, "little"), _LONGEST_HEADER)))


def aligned(count, dtype):
    """An uninitialised array [count] that begins where TensorFlow wants its tensors to."""
    dtype = np.dtype(dtype)
    octets = np.empty(count * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -octets.ctypes.data % _ALIGNMENT
    return octets[start : start + count * dtype.itemsize].view(dtype)


def tensor_of(array):
    """A tensor with an array's values, copied once; TensorFlow's own conversion copies twice.

    Args:
        array: numpy array.
    """
    plain = array.flags.c_contiguous and array.flags.writeable and array.dtype.kind in "iuf"
    if array.size and plain and array.ctypes.data % _ALIGNMENT == 0:
        return tf.raw_ops.DeepCopy(x=tf.experimental.dlpack.from_dlpack(array.__dlpack__()))
    return tf.convert_to_tensor(array)


class Tensors:
    """Tensors of an open safetensors file by name, read when they are asked for.

    Args:
        file: The file, open in binary mode; its header is known to be sound.
    """

    def __init__(self, file):
        self._file = file
        file.seek(0)
        head = read_head(file)
        self._table = json.loads(head[8:])
        self._start = len(head)
        self._decoded = {}

    def dtype(self, name):
        """Its numpy dtype."""
        return np.dtype(_DTYPES[self._table[name]["dtype"]])

    def size(self, name):
        """Its elements."""
        return math.prod(self._table[name]["shape"])

    def slice(self, name, start, count):
        """Elements `start` to `start + count`, a new array [count].

        Raises:
            ValueError: There are not so many.
        """
        if name in self._decoded:
            return self._decoded[name][start : start + count]
        dtype = self.dtype(name)
        if start + count > self.size(name):
            raise ValueError(f"tensor {name!r} has {self.size(name)} elements")
        begin = self._start + self._table[name]["data_offsets"][0] + start * dtype.itemsize
        array = aligned(count, dtype)
        self._file.seek(begin)
        if self._file.readinto(array.view(np.uint8)) != array.nbytes:
            raise ValueError(f"tensor {name!r} ends too early")
        return array

    def decode(self, name, codec):
        """Has the values of a coded tensor in the place of its codes."""
        buffer = coding.decode_buffer(self.slice(name, 0, self.size(name)), codec)
        self._decoded[name] = buffer.view(np.float32) if codec.format.is_fp32 else buffer
        self._table[name] = {
            "dtype": "F32" if codec.format.is_fp32 else "U8",
            "shape": [len(self._decoded[name])],
        }
