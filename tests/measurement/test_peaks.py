"""Peaks of memory are the same on every machine, and count small tensors too."""

import pytest
import tensorflow as tf

from omc.measurement import measure_peak
from omc.measurement.peaks import process_peak_bytes
from tests.own_process import heap_peaks, printed

# A step of known layers, of which none has a tensor of 256 KiB, and what one process makes of it.
STEP = """
import tensorflow as tf
import omc
from omc.measurement import count_allocations, measure_peak

count_allocations()
kernels = [tf.Variable(tf.fill([64, 128], float(i))) for i in range(8)]

@tf.function
def step(x):
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_sum(tf.matmul(x, kernel) ** 2) for kernel in kernels)
    return tape.gradient(loss, kernels)

x = tf.ones([32, 64])
step(x)
with measure_peak() as peak:
    gradients = step(x)
    held = [tf.zeros([1000]) for _ in range(100)]
print(peak.allocator_bytes > 8 * 64 * 128 * 4 + 100 * 4000, peak.process_bytes > 2**20)
del gradients, held
with measure_peak() as peak:
    held = [tf.zeros([1000]) for _ in range(100)]
print(peak.allocator_bytes)
"""
LATE = """
import tensorflow as tf
from omc.errors import InputError
from omc.measurement import measure_peak

tf.zeros([1])
try:
    with measure_peak():
        print("measured")
except InputError as error:
    print(error.argument)
"""
HEAP = """
import tensorflow as tf
from omc.measurement import heap_peak

tf.zeros([1])
with heap_peak() as peak:
    held = [tf.zeros([1000]) for _ in range(100)] + [tf.zeros([1000, 1000])]
print(peak.bytes)
"""


def test_a_machine_with_onednn_and_one_without_measure_the_same():
    without, with_ = (printed(STEP, TF_ENABLE_ONEDNN_OPTS=flag) for flag in "01")
    assert without[:2] == with_[:2] == ["True", "True"]
    # A tensor of 4,000 bytes takes 4,096.
    assert int(without[2]) == int(with_[2]) == pytest.approx(100 * 4096, rel=0.02)


@pytest.mark.parametrize("flag", ["0", "1"])
def test_too_late_to_count_is_a_typed_error(flag):
    assert printed(LATE, TF_ENABLE_ONEDNN_OPTS=flag) == ["TF_CPU_ALLOCATOR_USE_BFC"]


def test_the_heap_counts_every_tensor():
    (found,) = heap_peaks(HEAP)
    assert 4_400_000 <= found < 4_800_000


def test_a_peak_is_the_highest_level_inside():
    with measure_peak() as peak:
        a = tf.zeros([1 << 18])
        del a
        b = tf.zeros([1 << 17])
    assert 1 << 20 <= peak.allocator_bytes <= 2 << 20  # A piece may be up to twice its tensor.
    assert b.shape == [1 << 17] and peak.allocator_total_bytes >= peak.allocator_bytes
    assert 0 < peak.process_bytes <= process_peak_bytes()
