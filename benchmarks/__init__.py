"""Benchmarks: speed, memory and bytes, always next to FP32 or a named peer in the same run."""

import os

# Before any of them loads TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "1"  # Peaks of every tensor, see omc.measurement.peaks.
