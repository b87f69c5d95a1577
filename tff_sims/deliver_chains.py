"""Chains of stages that `tff_sims.deliver` splits a model into, as its --stages has them."""

WIDTHS = (2, 3, 4, 5, 6, 7)
CHAINS = (*(f"INT{w},INT8,FP32" for w in WIDTHS), "INT8,FP32", "S1E3M3,S1E3M7,FP32")
"""Of float32 weights."""
NESTED_CHAINS = tuple(f"INT{width},INT8" for width in WIDTHS)
"""Of a nested model."""
