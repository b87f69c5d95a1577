"""TFF's worker as a child process that ends with the program that started it.

`worker_binary` outlives a killed parent and holds its output pipes open.
"""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid

import psutil
import tensorflow_federated as tff

from omc.errors import InputError
from omc.kernels import worker
from omc.learning.links import Link

MARK = "OMC_RUNTIME"
"""Environment variable that workers inherit: whose they are."""

_NAME = "worker_binary"
_BINARY = os.path.join(os.path.dirname(tff.__file__), "data", _NAME)
# Else each of the worker's many threads keeps a heap of its own, and these grow over the rounds.
# Thresholds that are set stay as they are; with smaller ones every tensor is paged in anew.
_MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 20),
}
_START_SECONDS = 60.0  # A busy machine may need a while to load its 300 MB.
# Waits for the end of its input, which comes with the program's death however that happens, then
# ends every worker that bears the mark. Twice, for one may be starting just then.
_GUARD = """
read -r _
for again in 1 2; do
    for process in /proc/[0-9]*; do
        [ "$(cat $process/comm 2>/dev/null)" = worker_binary ] || continue
        grep -qz "^OMC_RUNTIME=$1$" $process/environ 2>/dev/null && kill -9 "${process#/proc/}"
    done
    sleep 0.3
done
"""


@contextlib.contextmanager
def running_workers(ports=(None,)):
    """Context with running workers, one a port; they are ended with it or with the program.

    Args:
        ports: Port of each; None for one that is free.

    Yields:
        List of their addresses, "localhost:port"; all of them answer.

    Raises:
        InputError: A port that is taken.
        WorkerError: A worker did not come up.
    """
    _start_guard()
    processes = []
    try:
        ports = _free(ports)
        processes += map(_start, ports)
        addresses = [f"localhost:{port}" for port in ports]
        for address in addresses:
            link = Link(address)
            try:
                link.check(_START_SECONDS)
            finally:
                link.close()
        yield addresses
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def sigterm_exits():
    """Context in which SIGTERM raises SystemExit (status 143), so that everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def workers():
    """TFF workers among this process's children, as a list of `psutil.Process`."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.name() == _NAME and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def why_without_ops():
    """Why workers started here go without OMC's native ops, a str; None where they have them."""
    try:
        worker.environment()
    except worker.Unavailable as reason:
        return str(reason)
    return None


def _free(ports):
    """Ports that are free and differ: those given, and any for each None."""
    # Tried here, for the worker would share a port with another one instead of failing.
    with contextlib.ExitStack() as held:
        found = []
        for port in ports:
            listener = held.enter_context(_socket())
            if port:  # Past connections of a worker would hold it for a minute.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", port or 0))
            except (OSError, OverflowError) as error:
                raise InputError("port", "a free port", f"{port} ({error})") from None
            found.append(listener.getsockname()[1])
    return found


def _socket():
    try:
        return socket.socket(socket.AF_INET6)
    except OSError:  # The kernel may have been told to do without, whatever Python knows of.
        return socket.socket(socket.AF_INET)


def _start(port):
    try:
        ops = worker.environment()
    except worker.Unavailable:  # A runtime on it finds that out, and says so.
        ops = {}
    return subprocess.Popen(
        [_BINARY, f"--port={port}"],
        stdin=subprocess.DEVNULL,
        env={**_MALLOC, **os.environ, **ops},  # Its own alone: nothing here or beside it has them.
        start_new_session=True,  # A Ctrl-C in the terminal is the program's to handle.
    )


@functools.cache
def _start_guard():
    """Starts the process that outlives this one just long enough to end its workers."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    return subprocess.Popen(
        ["sh", "-c", _GUARD, "guard", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != MARK},
        start_new_session=True,  # A Ctrl-C in the terminal must not end it first.
    )
