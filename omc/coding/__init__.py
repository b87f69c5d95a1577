"""Entropy coder of codes, differences and updates: lossless, and the same bytes on every machine.

>>> data = omc.coding.encode(codes)  # An array of integers; given others with `context=`.
>>> codes = omc.coding.decode(data)
>>> data = omc.coding.encode_buffer(compressed.buffer, compressed.codec)

Adaptive models of tokens, coded by range asymmetric numeral systems on interleaved lanes; what
stands in the lowest bits of a wide code goes along as it is. docs/coding.md has the stream and why
it is so. `stream`, `tables`, `lanes` and `tokens` are the specification, in numpy, and serve where
the native ops (omc/kernels/coder*.cc) do not; `graph` has the same for TensorFlow graphs.
"""

from omc.coding import graph
from omc.coding.buffers import decode_buffer, encode_buffer
from omc.coding.symbols import decode, encode

__all__ = ["decode", "decode_buffer", "encode", "encode_buffer", "graph"]
