"""Measurement: what is really stored, allocated and sent."""

from omc.measurement.memory import MemoryReport, memory_report
from omc.measurement.peaks import Peak, count_allocations, heap_peak, measure_peak

__all__ = [
    "MemoryReport",
    "Peak",
    "count_allocations",
    "heap_peak",
    "measure_peak",
    "memory_report",
]
