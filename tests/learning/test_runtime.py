"""TFF's worker ends with its program, however that ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from omc.learning import worker_processes
from omc.learning.worker_processes import MARK

PROGRAM = """
import sys, time
import tensorflow as tf, tensorflow_federated as tff
from omc.learning import local_runtime
from omc.learning.worker_processes import workers

@tff.tensorflow.computation
def count():
    return tf.reduce_sum(tf.range(100000))

with local_runtime():
    count()
    print("worker", workers()[0].pid, flush=True)
    if sys.argv[1] == "raise":
        raise ValueError("a mistake")
    if sys.argv[1] == "wait":
        time.sleep(60)
    while sys.argv[1] == "work":
        count()
"""


def start(mode):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        start_new_session=True,
        # A shell's background job, as these tests may be, ignores it, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stdout:
        if line.startswith("worker"):
            return process, int(line.split()[1])
    raise AssertionError("the program never started its worker")


def gone(pid, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "mode, sent, status",
    [
        ("end", None, 0),
        ("raise", None, 1),
        ("wait", signal.SIGINT, None),
        ("wait", signal.SIGTERM, 143),
        ("wait", signal.SIGKILL, -signal.SIGKILL),
        ("work", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_the_worker_ends_too(mode, sent, status):
    process, worker = start(mode)
    if sent:
        assert psutil.pid_exists(worker)
        process.send_signal(sent)
    process.stdout.close()
    code = process.wait(timeout=30)
    if status is not None:
        assert code == status
    assert gone(worker)


def test_ports_are_found_where_the_kernel_does_without_ipv6(monkeypatch):
    real = socket.socket

    def old(family, *arguments):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *arguments)

    monkeypatch.setattr(socket, "socket", old)
    ports = worker_processes._free([None, None])
    assert len(set(ports)) == 2 and min(ports) > 0


def marked_workers(mark):
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] == "worker_binary" and process.environ().get(MARK) == mark:
                found.append(process.pid)
    return found


def test_a_ctrl_c_in_the_terminal_leaves_no_restarted_worker():
    """It reaches the worker too, and TFF then starts another one while the program ends."""
    process, worker = start("work")
    mark = psutil.Process(worker).environ()[MARK]
    assert marked_workers(mark) == [worker]
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    process.stdout.close()
    process.wait(timeout=60)
    deadline = time.monotonic() + 10
    while marked_workers(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not marked_workers(mark)
