"""Chains of stages that `tff_sims.deliver` splits a model into, as its --stages has them.

A stage is a format, or what `omc.allocate` gives the weight matrices by measured losses: under a
number of bits a weight on average, "3.5", or, first of a chain, of bytes of the whole part, "9%" of
float32's.
"""

WIDTHS = (2, 3, 4, 5, 6, 7)
CHAINS = (*(f"INT{w},INT8,FP32" for w in WIDTHS), "INT8,FP32", "S1E3M3,S1E3M7,FP32")
"""Of float32 weights."""
CALIBRATED_CHAINS = (
    *(f"INT{w},INT8,FP32" for w in WIDTHS[:4]),
    *(f"{bits},INT8,FP32" for bits in ("3", "3.5", "4", "4.5")),
    *(f"{share}%,INT8,FP32" for share in ("7.5", "9")),
)
"""Of float32 weights, with BatchNorm statistics of each stage."""
NESTED_CHAINS = tuple(f"INT{width},INT8" for width in WIDTHS)
"""Of a nested model."""


def budget(stage):
    """(Number, whether it is percent of float32's bytes) of an allocated stage; None of another."""
    number, percent, rest = stage.partition("%")
    try:
        return None if rest else (float(number), bool(percent))
    except ValueError:
        return None
