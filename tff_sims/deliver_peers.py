"""Other coders' bytes of the same weights; a script for a Python that has them, not for ours.

  PYTHON -I tff_sims/deliver_peers.py WEIGHTS.npz ERRORS.json

WEIGHTS.npz holds float32 arrays; the names of those that are quantized begin with "q". ERRORS.json
names errors, sum (decoded - w)^2 / sum w^2 over the quantized arrays, at which nncodec is to code.
Printed is one line of JSON, a dict of name -> bytes. What is not installed is left out: zstandard,
zipnn and nncodec (which need torch) are none of our requirements.
"""

import contextlib
import importlib
import importlib.util
import json
import math
import sys
import tempfile
import zlib

import numpy as np

_FINE, _COARSE = -72, 0  # Quantization parameters of nncodec that are searched.


def measure(arrays, errors):
    """Bytes of what each installed coder makes of the weights; all but nncodec are lossless.

    Args:
        arrays: Dict of name -> float32 array.
        errors: Dict of a name -> error at which nncodec is to code.

    Returns:
        Dict of name -> bytes.
    """
    data = b"".join(array.astype("<f4").tobytes() for array in arrays.values())
    found = {"zlib -9": len(zlib.compress(data, 9))}
    for module, add in (("zstandard", _zstandard), ("zipnn", _zipnn)):
        if importlib.util.find_spec(module):
            found.update(add(importlib.import_module(module), data))
    if importlib.util.find_spec("nncodec"):
        coder = importlib.import_module("nncodec.nn")
        for name, error in errors.items():
            for trellis in (True, False):
                how = "with" if trellis else "without"
                label = f"nncodec at the error of {name}, {how} trellis"
                found[label] = _nncodec(coder, arrays, error, trellis)
    return found


def _zstandard(module, data):
    grouped = np.frombuffer(data, np.uint8).reshape(-1, 4).T.tobytes()
    coder = module.ZstdCompressor(level=19)
    return {
        "zstandard -19": len(coder.compress(data)),
        "zstandard -19, bytes grouped": len(coder.compress(grouped)),
    }


def _zipnn(module, data):
    coder = module.ZipNN(input_format="byte", bytearray_dtype="float32", threads=1)
    coded = coder.compress(bytearray(data))  # It works in place.
    if bytes(coder.decompress(coded)) != data:
        raise ValueError("zipnn: what it decodes is not what it was given")
    return {"zipnn": len(coded)}


def _nncodec(coder, arrays, error, trellis):
    """Bytes at an error: between the two streams around it, whose steps are 2^(1/4) apart.

    b = b_0 + (b_1 - b_0) log(e / e_0) / log(e_1 / e_0), rounded; None where none is so exact.
    """
    arrays = {name: _rows_first(array) for name, array in arrays.items()}
    fine, coarse, known = _FINE, _COARSE, {}
    while coarse - fine > 1:
        middle = (fine + coarse) // 2
        known[middle] = _coded(coder, arrays, middle, trellis)
        if known[middle][1] <= error:
            fine = middle
        else:
            coarse = middle
    if fine not in known or coarse not in known:
        return None
    (most, below), (least, above) = known[fine], known[coarse]
    share = math.log(error / below) / math.log(above / below)
    return round(most + (least - most) * share)


def _rows_first(array):
    """As nncodec, made for PyTorch, has matrices and kernels: outputs, inputs, then places."""
    order = [array.ndim - 1, array.ndim - 2, *range(array.ndim - 2)][: array.ndim]
    return np.ascontiguousarray(array.transpose(order) if array.ndim > 1 else array)


def _coded(coder, arrays, qp, trellis):
    with tempfile.TemporaryDirectory() as folder:
        options = {"use_dq": trellis, "qp": qp, "results": folder, "verbose": False}
        stream = coder.encode({name: array.copy() for name, array in arrays.items()}, options)
        decoded = coder.decode(stream, {"verbose": False})
    wrong = right = 0.0
    for name, array in arrays.items():
        if name.startswith("q"):
            exact = array.astype(np.float64)
            wrong += float(((decoded[name] - exact) ** 2).sum())
            right += float((exact**2).sum())
    return len(stream), wrong / right


def main(weights, errors):
    """Measures the weights of a file; prints the result."""
    with np.load(weights) as archive:
        arrays = {name: archive[name] for name in archive.files}
    with open(errors, encoding="utf-8") as file:
        wanted = json.load(file)
    with contextlib.redirect_stdout(sys.stderr):  # Where coders may say what they like.
        found = measure(arrays, wanted)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
