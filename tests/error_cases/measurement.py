"""Error cases: figures that TensorFlow's allocator does not give."""

from unittest import mock

from omc import measurement
from omc.measurement import peaks
from tests.error_cases.registry import case


@case("peak after TensorFlow began without counting")
def _(folder):
    with mock.patch.object(peaks, "_current_bytes", lambda: None), measurement.measure_peak():
        pass


@case("peak of the heap where tensors come from a pool")
def _(folder):
    with measurement.heap_peak():
        pass
