"""Peaks of memory: of TensorFlow's allocator, of the heap, of the process.

Three figures, for three questions:

- `measure_peak`, allocator: what the tensors took, the figure of choice for training steps. It is
  that of TensorFlow's BFC allocator, which serves every tensor on the CPU, small ones too. A tensor
  counts with the whole piece that it gets: rounded up to 256 bytes, and up to twice that where a
  free piece of less than twice the size is at hand. The same on every machine, which TensorFlow's
  own choice is not: it keeps no figures where the processor has no AVX-512 VNNI, and elsewhere
  those of oneDNN's allocator, without tensors below 256 KiB.
- `heap_peak`: what every malloc took, of Python and the graph too, exact to the byte, but slow.
- `process_peak_bytes`, and `Peak.process_bytes`: what was resident, with code, libraries and what
  allocators keep for later.
"""

import contextlib
import os
import re
import tempfile
import types

import tensorflow as tf

from omc.errors import InputError

_BFC = "TF_CPU_ALLOCATOR_USE_BFC"
_DEVICE = "CPU:0"


class Peak:
    """Peaks seen inside `measure_peak`; bytes.

    Attributes:
        allocator_bytes: Peak of TensorFlow's CPU allocator, above its level at entry.
        allocator_total_bytes: The same peak, with what was allocated at entry.
        process_bytes: Peak resident memory of the whole process (VmHWM), 0 where /proc is absent.
    """

    allocator_bytes = 0
    allocator_total_bytes = 0
    process_bytes = 0


def count_allocations():
    """Has TensorFlow's allocator keep the figures that `measure_peak` reads.

    To be called before TensorFlow's first op, which is when it chooses its allocator; `import
    tensorflow` and `import omc` may come before. It sets TF_CPU_ALLOCATOR_USE_BFC=1 for this
    process and those that it starts, which has the same effect when it is set outside. Called
    again it does nothing.

    Raises:
        InputError: TensorFlow has begun with another allocator.
    """
    before = os.environ.get(_BFC)
    os.environ[_BFC] = "1"
    if not _counts_small_tensors():
        if before is None:
            del os.environ[_BFC]
        else:
            os.environ[_BFC] = before
        raise InputError(
            _BFC,
            "1 in the environment when TensorFlow runs its first op",
            "an allocator without figures for every tensor",
            "call omc.measurement.count_allocations() first in the program, or set it outside.",
        )


@contextlib.contextmanager
def measure_peak():
    """Context in which peaks are measured; read them from the `Peak` after it ends.

    The allocator's figure is that of the module's docstring. The process figure resets the kernel's
    high-water mark first, where /proc allows it.

    Raises:
        InputError: TensorFlow began without `count_allocations`.
    """
    count_allocations()
    peak = Peak()
    _reset_process_peak()
    tf.config.experimental.reset_memory_stats(_DEVICE)
    before = tf.config.experimental.get_memory_info(_DEVICE)["current"]
    yield peak
    peak.allocator_total_bytes = tf.config.experimental.get_memory_info(_DEVICE)["peak"]
    peak.allocator_bytes = peak.allocator_total_bytes - before
    peak.process_bytes = process_peak_bytes()


@contextlib.contextmanager
def heap_peak():
    """Context that counts every malloc of the process; afterwards `.bytes` is the most at one time.

    What was allocated before does not count. Each tensor has to be a malloc of its own: in a pool
    it would count when the pool grows, or never. So the process is to be started with
    TF_ENABLE_ONEDNN_OPTS=0 and without TF_CPU_ALLOCATOR_USE_BFC. Slows the process down; needs the
    package memray.

    Raises:
        InputError: TensorFlow's allocator is a pool.
    """
    if _current_bytes() is not None:
        raise InputError(
            "TF_ENABLE_ONEDNN_OPTS",
            f"0, and {_BFC} 0 or unset, when TensorFlow runs its first op",
            "an allocator that hands out pieces of a pool",
            "measure in a process of its own; measure_peak is for this one.",
        )
    import memray

    peak = types.SimpleNamespace(bytes=0)
    with tempfile.TemporaryDirectory() as directory:
        record = os.path.join(directory, "heap.bin")
        with memray.Tracker(record):
            yield peak
        peak.bytes = memray.FileReader(record).metadata.peak_memory


def process_peak_bytes(pid="self"):
    """Peak resident memory of a process, in bytes (VmHWM); 0 where /proc does not tell."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _counts_small_tensors():
    """Whether the allocator keeps figures of every tensor: none at all, or oneDNN's, fail here."""
    before = _current_bytes()
    if before is None:
        return False
    probe = tf.zeros([64])
    counted = _current_bytes() > before
    del probe
    return counted


def _current_bytes():
    """Bytes of tensors now, as far as the allocator counts them; None where it does not."""
    try:
        return tf.config.experimental.get_memory_info(_DEVICE)["current"]
    except ValueError:
        return None


def _reset_process_peak():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
        refs.write("5")
