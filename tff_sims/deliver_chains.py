"""Chains of stages that `tff_sims.deliver` splits a model into, as its --stages has them.

A stage is a format, or a number: bits a weight on average, which `omc.allocate` distributes over
the weight matrices by measured losses.
"""

WIDTHS = (2, 3, 4, 5, 6, 7)
CHAINS = (*(f"INT{w},INT8,FP32" for w in WIDTHS), "INT8,FP32", "S1E3M3,S1E3M7,FP32")
"""Of float32 weights."""
CALIBRATED_CHAINS = (
    *(f"INT{w},INT8,FP32" for w in WIDTHS[:4]),
    *(f"{bits},INT8,FP32" for bits in ("3", "3.5", "4", "4.5")),
)
"""Of float32 weights, with BatchNorm statistics of each stage."""
NESTED_CHAINS = tuple(f"INT{width},INT8" for width in WIDTHS)
"""Of a nested model."""


def allocated_bits(stage):
    """Bits a weight of a stage that is allocated, a float; None of another one."""
    try:
        return float(stage)
    except ValueError:
        return None
