"""TFF's local worker, made to end with the program that started it.

TFF runs computations in a child process, `worker_binary`, which outlives a killed parent and holds
its output pipes open.
"""

import contextlib
import gc
import signal
import subprocess
import sys
import threading

import psutil
import tensorflow_federated as tff

_WORKER = "worker_binary"
# Waits for the end of its input, which comes with the parent's death however that happens.
_GUARD = f'read -r _; [ "$(cat /proc/$1/comm 2>/dev/null)" = {_WORKER} ] && kill -9 "$1"'


@contextlib.contextmanager
def local_runtime():
    """Context in which TFF computations run in a local worker that never outlives the program.

    The worker is ended on leaving the context, on an exception, on Ctrl-C, on SIGTERM (which raises
    SystemExit here) and, by a small guard process, also when the program itself is killed.
    """
    before = {process.pid for process in workers()}
    context = tff.backends.native.create_sync_local_cpp_execution_context()
    guards = []
    with _sigterm_exits():
        try:
            with tff.framework.get_context_stack().install(context):
                _touch()
                for worker in workers():
                    if worker.pid not in before:
                        guards.append(_guard(worker.pid))
                yield
        finally:
            del context
            gc.collect()  # TFF ends its worker with the context, if nothing else holds that.
            _end([worker for worker in workers() if worker.pid not in before], guards)


def workers():
    """TFF workers among this process's children, as a list of `psutil.Process`."""
    children = psutil.Process().children(recursive=True)
    found = []
    for child in children:
        with contextlib.suppress(psutil.Error):
            if child.name() == _WORKER and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def _touch():
    """Runs a computation, so that the worker starts."""

    @tff.tensorflow.computation
    def nothing():
        return 0

    nothing()


def _guard(pid):
    return subprocess.Popen(
        ["sh", "-c", _GUARD, "guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # A Ctrl-C in the terminal must not end it first.
    )


def _end(processes, guards):
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
    for guard in guards:
        guard.stdin.close()
        guard.wait()


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
