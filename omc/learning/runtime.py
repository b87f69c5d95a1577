"""Where TFF computations run: in a local worker, or in workers on other machines.

Inside `local_runtime()` or `remote_runtime(workers)` any TFF computation can be called, and the
processes of `omc.learning.controller` find the workers to give clients' work to.

What TFF traces inside uses OMC's native ops if all workers have them, which each shows on
connecting (`omc.learning.worker_ops`); if not, one line says so and why, and TensorFlow's own ops
serve, with the same results to the bit.
"""

import asyncio
import atexit
import collections
import contextlib
import queue
from concurrent import futures

import tensorflow_federated as tff
from absl import logging
from tensorflow_federated.python.core.environments.tensorflow_frontend import (
    tensorflow_computation,
    tensorflow_computation_context,
)
from tensorflow_federated.python.core.impl.context_stack import set_default_context

from omc import kernels
from omc.errors import InputError, WorkerError
from omc.learning import links as links_lib
from omc.learning import worker_ops
from omc.learning.worker_processes import running_workers, sigterm_exits, why_without_ops

CLIENTS_AT_ONCE = 4
"""Clients that one worker trains at the same time in `Runtime.map`."""

_RUNTIMES = []


@contextlib.contextmanager
def local_runtime():
    """Context in which TFF computations run in a local worker that never outlives the program.

    The worker is ended on leaving the context, on an exception, on Ctrl-C, on SIGTERM (which raises
    SystemExit here) and, by a small guard process, also when the program itself is killed.

    Yields:
        `Runtime`.

    Raises:
        WorkerError: From computations inside, when the worker died.
    """
    with sigterm_exits(), running_workers() as addresses:
        with _running(addresses, why_without_ops()) as runtime:
            yield runtime


@contextlib.contextmanager
def remote_runtime(workers, patience=30.0):
    """Context in which TFF computations run in workers that were started elsewhere.

    TFF's protocol has no password and no encryption: trusted networks or an SSH tunnel only.

    Args:
        workers: List of addresses, "host:port".
        patience: Seconds without any answer after which a worker counts as dead. One whose process
            ends is noticed at once.

    Yields:
        `Runtime`.

    Raises:
        InputError, InputTypeError: A malformed address, one twice, or none at all.
        WorkerError: A worker does not answer at the start (within 10 seconds); from computations
            inside: one died or fell silent.
    """
    with sigterm_exits(), _running(workers) as runtime:
        watch = links_lib.Watch(runtime.links, patience)
        try:
            yield runtime
        finally:
            watch.stop()


def current_runtime():
    """The innermost `Runtime` that is running.

    Raises:
        InputError: There is none.
    """
    if not _RUNTIMES:
        raise InputError(
            "runtime", "a surrounding local_runtime() or remote_runtime()", "none",
            "for example: with omc.learning.local_runtime(): ...",
        )  # fmt: skip
    return _RUNTIMES[-1]


def workers_have_ops():
    """Whether what is traced now for the current runtime's workers may use OMC's native ops.

    False outside of a runtime, where one worker lacks them, and inside `omc.kernels.pure()`. What
    has no pure path in a worker, such as the entropy coder, needs this to be True.
    """
    runtime = _RUNTIMES[-1] if _RUNTIMES else None
    return runtime is not None and runtime.native_ops and not kernels.is_pure()


class Runtime:
    """Connected workers.

    Attributes:
        links: `omc.learning.links.Link`s, one a worker.
        native_ops: Whether all of them compute with OMC's native ops.
        context: TFF's context for whole computations. Over several workers TFF sends server state
            along with the clients' data, and merges what comes back.
    """

    def __init__(self, links, native_ops=False):
        """Makes contexts and lanes.

        Args:
            links: Non-empty list of `Link`s that answer.
            native_ops: Whether `omc.learning.worker_ops.missing` finds nothing.
        """
        self.links = links
        self.native_ops = native_ops
        self._first = tff.framework.SyncExecutionContext(**self._context_arguments(links[0]))
        self.context = self._first
        if len(links) > 1:
            arguments = map(self._context_arguments, links)
            self.context = tff.backends.native.create_mergeable_comp_execution_context(
                [tff.framework.AsyncExecutionContext(**named) for named in arguments]
            )
        self._lanes = queue.SimpleQueue()
        self._count = CLIENTS_AT_ONCE * len(links)
        for _ in range(CLIENTS_AT_ONCE):  # Alternating, so that few clients use all workers too.
            for link in links:
                self._lanes.put(_Lane(link, self._check))

    def call(self, computation, *arguments):
        """Calls a TFF computation on the first worker, whatever surrounds the call."""
        with tff.framework.get_context_stack().install(self._first):
            return computation(*arguments)

    def map(self, computation, arguments):
        """Calls a computation for one client after the other, several at a time on every worker.

        A worker gets the computation once and a client's arguments whenever it has room, so faster
        machines do more. What is in memory here does not grow with the number of clients.

        Args:
            computation: TFF computation in native form, of two parameters or more; all of it is
                CLIENTS-placed. Nothing else may be running on these workers meanwhile.
            arguments: Iterable of tuples, one client's arguments each: numpy values and datasets.

        Yields:
            Results, in the order of the arguments, whichever worker computed them.

        Raises:
            WorkerError: A worker died or could not do it; at once, whatever the others do.
        """
        pool = futures.ThreadPoolExecutor(self._count)
        pending = collections.deque()
        try:
            for argument in arguments:
                pending.append(pool.submit(self._run, computation, argument))
                if len(pending) >= 2 * self._count:
                    yield _oldest(pending)
            while pending:
                yield _oldest(pending)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, computation, argument):
        lane = self._lanes.get()
        try:
            return lane.run(computation, argument)
        finally:
            self._lanes.put(lane)

    def _check(self, computation):
        """Returns the computation, unless workers would fail for want of the ops."""
        if self.native_ops or not worker_ops.used_in(computation):
            return computation
        raise WorkerError(
            "workers", "workers with OMC's native ops, for which the computation was traced",
            "one without them", "build the process inside of the runtime that it runs in.",
        )  # fmt: skip

    def _context_arguments(self, link):
        def stack(cardinalities):
            cardinalities.setdefault(tff.CLIENTS, 0)
            executor = tff.framework.RemoteExecutor(link, dispose_batch_size=1)
            executor.set_cardinalities(cardinalities)
            return executor

        def compiled(computation):
            computation = self._check(computation)
            # A secure sum's result without its protocol, which a deployment's runtime has.
            computation = tff.backends.test.replace_secure_intrinsics_with_bodies(computation)
            return tff.backends.native.desugar_and_transform_to_native(computation)

        return dict(
            executor_fn=tff.framework.ResourceManagingExecutorFactory(stack),
            compiler_fn=compiled,
            # Private TFF: its own contexts have it from there.
            transform_args=tensorflow_computation.transform_args,
            transform_result=tensorflow_computation.transform_result,
        )


class _Lane:
    """One client at a time on one worker."""

    def __init__(self, link, check):
        self._link = link
        self._check = check
        self._executor = None
        self._computation = None
        self._program = None

    def run(self, computation, argument):
        result = asyncio.run(self._run(computation, argument))
        self._link.flush()
        return result

    async def _run(self, computation, argument):
        if self._executor is None:
            # Values are freed on the worker as soon as they are not needed here.
            self._executor = tff.framework.RemoteExecutor(self._link, dispose_batch_size=1)
            self._executor.set_cardinalities({tff.CLIENTS: 1})
        executor, signature = self._executor, computation.type_signature
        if self._computation is not computation:
            self._program = await executor.create_value(self._check(computation), signature)
            self._computation = computation
        values = [
            await executor.create_value([value], kind)
            for value, kind in zip(argument, signature.parameter)
        ]
        result = await executor.create_call(self._program, await executor.create_struct(values))
        (value,) = await result.compute()
        return value


def _oldest(pending):
    """Takes the result of the oldest future; raises at once what any of them raised."""
    while True:
        for future in pending:
            if future.done():
                future.result()
        if pending[0].done():
            return pending.popleft().result()
        running = [future for future in pending if not future.done()]
        futures.wait(running, return_when=futures.FIRST_COMPLETED)


@contextlib.contextmanager
def _running(addresses, why=None):
    """Context of a runtime; `why` its workers were started without the ops, if that is known."""
    links = links_lib.open_links(addresses)
    try:
        missing = {"": why} if why else worker_ops.missing(links)
        if missing:
            reasons = "; ".join(sorted({f"{key} {why}".strip() for key, why in missing.items()}))
            logging.warning("no native ops in TFF's workers, which compute slower: %s", reasons)
        runtime = Runtime(links, native_ops=not missing)
        _RUNTIMES.append(runtime)
        try:
            with tff.framework.get_context_stack().install(runtime.context):
                yield runtime
        finally:
            _RUNTIMES.remove(runtime)
    finally:
        links_lib.close_links(links)


def _traced_for_workers_without():
    # Private TFF: nothing public names the context that a computation is traced in.
    current = tff.framework.get_context_stack().current
    if not isinstance(current, tensorflow_computation_context.TensorFlowComputationContext):
        return False
    return not (workers_have_ops() or worker_ops.probing())


kernels.refuse_when(_traced_for_workers_without)
# Or TFF's own context would go, with an error message, after the modules it ends its worker with.
atexit.register(set_default_context.set_no_default_context)
