"""TFF's local worker, made to end with the program that started it.

TFF runs computations in a child process, `worker_binary`, which outlives a killed parent and holds
its output pipes open.
"""

import atexit
import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import uuid

import psutil
import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_frontend import (
    tensorflow_computation_context,
)
from tensorflow_federated.python.core.impl.context_stack import runtime_error_context

from omc import kernels

_WORKER = "worker_binary"
_MARK = "OMC_RUNTIME"  # Environment variable that workers inherit: whose they are.
# Else each of the worker's many threads keeps a heap of its own, and these grow over the rounds.
_MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}
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
def local_runtime():
    """Context in which TFF computations run in a local worker that never outlives the program.

    The worker is ended on leaving the context, on an exception, on Ctrl-C, on SIGTERM (which raises
    SystemExit here) and, by a small guard process, also when the program itself is killed.
    """
    _start_guard()
    for name, value in _MALLOC.items():
        os.environ.setdefault(name, value)  # The worker reads it when it starts.
    before = {process.pid for process in workers()}
    context = tff.backends.native.create_sync_local_cpp_execution_context()
    with _sigterm_exits():
        try:
            with tff.framework.get_context_stack().install(context):
                yield
        finally:
            del context
            gc.collect()  # TFF ends its worker with the context, if nothing else holds that.
            _end([worker for worker in workers() if worker.pid not in before])


def workers():
    """TFF workers among this process's children, as a list of `psutil.Process`."""
    children = psutil.Process().children(recursive=True)
    found = []
    for child in children:
        with contextlib.suppress(psutil.Error):
            if child.name() == _WORKER and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


@functools.cache
def _start_guard():
    """Starts the process that outlives this one just long enough to end its workers.

    It stays until the program ends: a worker that dies of the Ctrl-C which also reached the program
    is started again by TFF's threads, at a time when nobody here looks any more.
    """
    mark = os.environ[_MARK] = uuid.uuid4().hex
    return subprocess.Popen(
        ["sh", "-c", _GUARD, "guard", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != _MARK},
        start_new_session=True,  # A Ctrl-C in the terminal must not end it first.
    )


def _end(processes):
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


@contextlib.contextmanager
def _sigterm_exits():
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _traced_for_a_worker():
    # Private TFF: nothing public names the context that a computation is traced in.
    current = tff.framework.get_context_stack().current
    return isinstance(current, tensorflow_computation_context.TensorFlowComputationContext)


@atexit.register
def _release_default_context():
    # Its finalizer complains when the interpreter is half gone.
    none = runtime_error_context.RuntimeErrorContext()
    tff.framework.get_context_stack().set_default_context(none)
    gc.collect()


# TFF's worker loads no ops of ours.
kernels.refuse_when(_traced_for_a_worker)
