"""OMC: memory-constrained on-device federated training for Keras.

>>> import omc
>>> model = omc.wrap(keras_model, omc.Policy("S1E3M7", fraction=0.9))
>>> model.compile("sgd", "mse"); model.fit(x, y)
>>> print(omc.memory_report(model))

`omc.learning` holds the TensorFlow Federated processes and needs the extra `omc[tff]`.
"""

import importlib
import os
import sys

# `python -m omc.progressive`, say, imports this first: TensorFlow's log is no output of a command.
if (
    sys.argv[:1] == ["-m"]
    and any(
        flag == "-m" and module.startswith("omc.")
        for line in [getattr(sys, "orig_argv", [])]  # Which Python 3.9 has not.
        for flag, module in zip(line, line[1:])
    )
):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from omc import coding, nested, progressive
from omc.compressed import CompressedTensor, compress, decompress
from omc.errors import ArtifactError, OmcError
from omc.formats import Format
from omc.keras import (
    at_width,
    calibrate,
    export,
    init_compressed,
    load,
    nest,
    recompute,
    save,
    wrap,
)
from omc.measurement import memory_report
from omc.mixed_precision import allocate
from omc.policies import Policy
from omc.version import __version__

__all__ = [
    "ArtifactError",
    "CompressedTensor",
    "Format",
    "OmcError",
    "Policy",
    "__version__",
    "allocate",
    "at_width",
    "calibrate",
    "coding",
    "compress",
    "decompress",
    "export",
    "init_compressed",
    "learning",
    "load",
    "measurement",
    "memory_report",
    "nest",
    "nested",
    "progressive",
    "recompute",
    "save",
    "wrap",
]


def __getattr__(name):
    if name == "learning":  # On first use, so that the core works without TFF.
        return importlib.import_module("omc.learning")
    raise AttributeError(f"module 'omc' has no attribute {name!r}")
