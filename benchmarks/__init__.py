"""Benchmarks: speed and memory, always next to FP32 in the same run."""
