"""One connection to one TFF worker: typed errors instead of hangs, and every message counted.

TFF's own stub retries a dead worker for ever and waits for a silent one without end.
"""

import collections
import contextlib
import queue
import threading
import time
from concurrent import futures

import grpc
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2, executor_pb2_grpc

from omc.errors import InputError, InputTypeError, WorkerError

START_SECONDS = 10.0
"""How long a worker may take for its first answer."""

_MAX_MESSAGE = 2**31 - 1  # Protocol buffers end there.
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.enable_http_proxy", 0),  # Workers are on the own network.
    ("grpc.use_local_subchannel_pool", 1),  # A link of its own, though the address was used before.
]
# Disposing of something that never was: the cheapest question that a worker answers.
_PING = executor_pb2.DisposeRequest(executor=executor_pb2.ExecutorId(id="ping"))
_GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.FAILED_PRECONDITION,  # It was started anew and knows nothing of us.
)


def parse_addresses(workers):
    """Checks addresses of workers.

    Args:
        workers: Iterable of "host:port"; an IPv6 host in brackets.

    Returns:
        List of them, stripped of spaces.

    Raises:
        InputTypeError: A string, or an entry that is none.
        InputError: None at all, one twice, or one without a host or a port of 1 to 65535.
    """
    if isinstance(workers, (str, bytes)) or not isinstance(workers, collections.abc.Iterable):
        raise InputTypeError("workers", "a list of host:port", type(workers).__name__)
    result = []
    for address in workers:
        if not isinstance(address, str):
            raise InputTypeError("workers", "a list of host:port", repr(address))
        address = address.strip()
        host, _, port = address.rpartition(":")
        plain = host.strip("[]") if host.startswith("[") and host.endswith("]") else host
        known = plain and "/" not in host and " " not in host and (plain != host or ":" not in host)
        if not (known and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise InputError(
                "workers", "host:port with a port of 1 to 65535", repr(address),
                "for example 192.168.0.7:8000.",
            )  # fmt: skip
        if address in result:
            raise InputError("workers", "every worker once", f"{address} twice")
        result.append(address)
    if not result:
        raise InputError("workers", "at least one host:port", "none")
    return result


def open_links(workers):
    """Connects to workers, all of which answer.

    Args:
        workers: As in `parse_addresses`.

    Returns:
        List of `Link`.

    Raises:
        InputError, InputTypeError: As `parse_addresses`.
        WorkerError: One does not answer within 10 seconds.
    """
    links = [Link(address) for address in parse_addresses(workers)]
    try:
        with futures.ThreadPoolExecutor(len(links)) as pool:
            for check in [pool.submit(link.check) for link in links]:
                check.result()
    except BaseException:
        close_links(links)
        raise
    return links


def close_links(links):
    """Closes all of them."""
    for link in links:
        link.close()


class Link(tff.framework.RemoteExecutorStub):
    """The connection to one worker; what TFF's `RemoteExecutor` sends through.

    Attributes:
        address: "host:port".
        traffic: `collections.Counter` of bytes of serialized messages so far: program_bytes (the
            computation itself), data_bytes (clients' datasets), payload_bytes (other arguments),
            result_bytes (what was computed) and control_bytes (everything else, both ways).
    """

    def __init__(self, address):
        """Opens the connection; `check` tells whether anybody answers."""
        self.address = address
        self.traffic = collections.Counter()
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._calls = executor_pb2_grpc.ExecutorGroupStub(self._channel)
        self._lock = threading.Lock()
        self._executors = collections.Counter()
        self._disposals = queue.SimpleQueue()
        self._verdict = None

    def check(self, seconds=START_SECONDS):
        """Asks the worker for an answer.

        Raises:
            WorkerError: There is none in time, or it is not a TFF worker's.
        """
        expected = f"a TFF worker at {self.address}"
        deadline = time.monotonic() + seconds
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
            self._calls.Dispose(_PING, timeout=max(0.5, deadline - time.monotonic()))
        except grpc.FutureTimeoutError:
            got = f"no answer within {seconds:g} seconds"
        except grpc.RpcError as error:
            got = _told(error)
        else:
            return
        raise WorkerError(
            "workers", expected, got, "start one there with python -m tff_sims.workers."
        )

    def alive(self, seconds):
        """Whether the worker answers within `seconds`."""
        try:
            self._calls.Dispose(_PING, timeout=seconds)
        except (grpc.RpcError, ValueError):  # ValueError: the channel was closed meanwhile.
            return False
        return True

    def close(self):
        """Frees what the worker holds for us and ends the connection."""
        with contextlib.suppress(grpc.RpcError, ValueError):  # It may be gone, or given up.
            for name in list(self._executors.elements()):
                executor = executor_pb2.ExecutorId(id=name)
                request = executor_pb2.DisposeExecutorRequest(executor=executor)
                self._calls.DisposeExecutor(request, timeout=1.0)
        self.give_up("the connection was closed")

    def give_up(self, verdict):
        """Ends the connection; calls under way end in a `WorkerError` that says why."""
        self._verdict = self._verdict or verdict
        self._channel.close()

    def get_executor(self, request):
        """Asks for an executor of given cardinalities."""
        response = self._call("GetExecutor", request)
        self._executors[response.executor.id] += 1
        return response

    def create_value(self, request):
        """Sends a value: the computation, a dataset or a payload."""
        return self._call("CreateValue", request, sent=_kind(request.value))

    def create_call(self, request):
        """Starts a computation."""
        self.flush()
        return self._call("CreateCall", request)

    def create_struct(self, request):
        """Puts values into a struct."""
        return self._call("CreateStruct", request)

    def create_selection(self, request):
        """Takes a value out of a struct."""
        return self._call("CreateSelection", request)

    def compute(self, request):
        """Waits for a value and fetches it."""
        return self._call("Compute", request, received="result_bytes")

    def dispose(self, request):
        """Frees values, with the next `flush`.

        TFF calls this from finalizers, and so at any place, where no lock may be waited for.
        """
        self._disposals.put(request)

    def flush(self):
        """Frees the values that nobody needs any more. A worker that is gone has freed them."""
        while not self._disposals.empty():
            with contextlib.suppress(WorkerError, queue.Empty):
                self._call("Dispose", self._disposals.get_nowait())

    def dispose_executor(self, request):
        """Frees an executor; never waits for a worker that is gone."""
        self._executors -= collections.Counter([request.executor.id])
        with contextlib.suppress(WorkerError):
            self._call("DisposeExecutor", request, timeout=START_SECONDS)

    def _call(self, name, request, sent="control_bytes", received="control_bytes", timeout=None):
        try:
            response = getattr(self._calls, name)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._error(error) from None
        except ValueError:  # What gRPC raises on a channel that is closed already.
            raise self._gone(self._verdict or "the connection was closed") from None
        with self._lock:
            self.traffic[sent] += request.ByteSize()
            self.traffic[received] += response.ByteSize()
        return response

    def _error(self, error):
        if error.code() in _GONE:
            return self._gone(self._verdict or _told(error))
        return WorkerError(
            "workers", f"worker {self.address} to do a client's work", _told(error),
            "the same happens with the same client; the worker's own output may tell more.",
        )  # fmt: skip

    def _gone(self, why):
        return WorkerError(
            "workers", f"worker {self.address} to stay until the end", why,
            "start it again (did it run out of memory?); a simulation's same command goes on.",
        )  # fmt: skip


def _kind(value):
    while value.WhichOneof("value") == "federated" and value.federated.value:
        value = value.federated.value[0]
    kinds = {"computation": "program_bytes", "sequence": "data_bytes"}
    return kinds.get(value.WhichOneof("value"), "payload_bytes")


def _told(error):
    """What gRPC knows of a failure, in one short line."""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return "the answer of another program"
    details = " ".join((error.details() or "").split())
    return f"{error.code().name}: {details[:300]}"


class Watch:
    """Gives up links whose workers fall silent: a machine without power closes no connection."""

    def __init__(self, links, patience):
        """Starts to watch; `stop` ends it.

        Args:
            links: `Link`s.
            patience: Seconds without an answer after which a worker counts as dead.
        """
        self._links = links
        self._patience = patience
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=[link], daemon=True) for link in links
        ]
        for thread in self._threads:
            thread.start()

    def stop(self):
        """Ends the watch."""
        self._stopped.set()

    def _watch(self, link):
        # Twice, for the controller itself may have been asleep the first time.
        once = self._patience / 2
        while not self._stopped.wait(once / 2):
            if not link.alive(once) and not link.alive(once) and not self._stopped.is_set():
                link.give_up(f"no answer within {self._patience:g} seconds")
                return
