"""TFF's worker ends with its program, however that ends."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

PROGRAM = """
import sys, time
import tensorflow_federated as tff
from omc.learning import local_runtime
from omc.learning.runtime import workers

with local_runtime():
    print("worker", workers()[0].pid, flush=True)
    if sys.argv[1] == "raise":
        raise ValueError("a mistake")
    if sys.argv[1] == "wait":
        time.sleep(60)
"""


def start(mode):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        start_new_session=True,
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
