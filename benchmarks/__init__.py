"""Benchmarks: speed, memory and bytes, always next to FP32 or a named peer in the same run."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before any of them loads TensorFlow.
