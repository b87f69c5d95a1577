"""Measurement: what is really stored, allocated and sent."""

from omc.measurement.memory import MemoryReport, memory_report

__all__ = ["MemoryReport", "memory_report"]
