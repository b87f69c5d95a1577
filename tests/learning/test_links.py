"""Workers that are not there, die or fall silent: a typed error that names them, never a hang."""

import socket
import threading
import time

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from omc.errors import InputError, InputTypeError, WorkerError
from omc.learning import remote_runtime
from omc.learning.links import Link, parse_addresses
from omc.learning.worker_processes import running_workers, workers

DATA = tff.SequenceType(tff.TensorType(np.int64))


INPUTS = tff.FederatedType(DATA, tff.CLIENTS), tff.FederatedType(np.int64, tff.CLIENTS)


@tff.tensorflow.computation(DATA, np.int64)
def total(dataset, modulus):
    return dataset.reduce(tf.constant(0, tf.int64), lambda a, b: a + b % modulus)


@tff.federated_computation(*INPUTS)
def totals(datasets, moduli):
    return tff.federated_map(total, (datasets, moduli))


def numbers(count):
    return tf.data.Dataset.range(count), np.int64(7)


FOR_EVER = numbers(2**60)


@pytest.mark.parametrize(
    "addresses",
    [
        ["localhost:8000", "10.0.0.2:1", "worker-7.lan:65535", "[::1]:8000"],
        [" localhost:8000 "],
        ("a:1",),
    ],
)
def test_addresses(addresses):
    assert parse_addresses(addresses) == [address.strip() for address in addresses]


@pytest.mark.parametrize(
    "address",
    ["localhost", "localhost:", ":8000", "localhost:0", "localhost:65536", "localhost:http", "",
     "http://localhost:8000", "localhost:-1", "::1:8000", "[]:8000", "two words:8000",
     "localhost:²"],
)  # fmt: skip
def test_malformed_addresses(address):
    with pytest.raises(InputError) as caught:
        parse_addresses(["localhost:8000", address])
    assert caught.value.argument == "workers" and repr(address) in str(caught.value)


@pytest.mark.parametrize("workers", ["localhost:8000", 8000, [8000], None])
def test_addresses_of_another_type(workers):
    with pytest.raises(InputTypeError):
        parse_addresses(workers)


@pytest.mark.parametrize("workers", [[], ["localhost:8000", "localhost:8000"]])
def test_no_worker_and_one_worker_twice(workers):
    with pytest.raises(InputError):
        parse_addresses(workers)


def refused(address):
    """Seconds until nobody is found there."""
    start = time.monotonic()
    link = Link(address)
    with pytest.raises(WorkerError) as caught:
        link.check(1.0)
    link.close()
    assert address in str(caught.value) and caught.value.argument == "workers"
    return time.monotonic() - start


def test_nobody_there_and_somebody_who_says_nothing_or_speaks_another_language():
    with socket.create_server(("localhost", 0)) as listener:
        address = f"localhost:{listener.getsockname()[1]}"
        assert refused(address) < 10

        def answer():
            while True:
                try:
                    connection, _ = listener.accept()
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.close()
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        assert refused(address) < 10
        listener.shutdown(socket.SHUT_RDWR)
    assert refused(address) < 10


def test_every_worker_has_to_answer():
    with running_workers() as addresses, socket.create_server(("localhost", 0)) as listener:
        silent = f"localhost:{listener.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(WorkerError) as caught, remote_runtime([*addresses, silent]):
            pass
    assert silent in str(caught.value) and "no answer within 10 seconds" in str(caught.value)
    assert time.monotonic() - start < 30


def test_computations_run_there_and_in_order():
    native = tff.backends.native.desugar_and_transform_to_native(totals)
    with running_workers((None, None)) as addresses, remote_runtime(addresses) as runtime:
        assert total(*numbers(10)) == sum(number % 7 for number in range(10))
        sizes = [30_000, 5, 1000, 1, 0, 20_000, 3] * 4
        expected = [sum(number % 7 for number in range(size)) for size in sizes]
        assert list(runtime.map(native, map(numbers, sizes))) == expected
        assert all(link.traffic["result_bytes"] for link in runtime.links)


def test_a_worker_that_dies_while_it_works():
    native = tff.backends.native.desugar_and_transform_to_native(totals)
    with running_workers((None, None)) as addresses:
        (second,) = [w for w in workers() if w.cmdline()[1].endswith(addresses[1].split(":")[1])]
        with remote_runtime(addresses) as runtime:
            start = time.monotonic()
            threading.Timer(1.5, second.kill).start()
            with pytest.raises(WorkerError) as caught:
                # The first client's result never comes; nobody waits for it.
                list(runtime.map(native, [FOR_EVER] * 2))
            assert addresses[1] in str(caught.value) and addresses[0] not in str(caught.value)
            with pytest.raises(WorkerError):
                list(runtime.map(native, map(numbers, range(4))))
        assert time.monotonic() - start < 30


def test_a_worker_that_falls_silent():
    native = tff.backends.native.desugar_and_transform_to_native(totals)
    with running_workers() as addresses:
        (worker,) = workers()
        with remote_runtime(addresses, patience=2.0) as runtime:
            # One that works and is asked all the time is not given up.
            assert len(list(runtime.map(native, [numbers(60_000)]))) == 1
            worker.suspend()
            with pytest.raises(WorkerError) as caught:
                list(runtime.map(native, [numbers(5)]))
        worker.resume()
    assert "no answer within 2 seconds" in str(caught.value)


def test_what_a_client_cannot_do_is_told():
    @tff.tensorflow.computation(DATA, np.int64)
    def fail(dataset, modulus):
        last = dataset.reduce(modulus, lambda a, b: b)
        with tf.control_dependencies([tf.debugging.assert_equal(last, tf.constant(1, tf.int64))]):
            return tf.identity(last)

    @tff.federated_computation(*INPUTS)
    def fails(datasets, moduli):
        return tff.federated_map(fail, (datasets, moduli))

    native = tff.backends.native.desugar_and_transform_to_native(fails)
    with running_workers() as addresses, remote_runtime(addresses) as runtime:
        with pytest.raises(WorkerError) as caught:
            list(runtime.map(native, [numbers(7)]))
        assert "to do a client's work" in str(caught.value)
        # The worker is as before.
        assert list(runtime.map(native, [numbers(2)])) == [1]


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError) as caught, running_workers([port]):
            pass
    assert caught.value.argument == "port" and str(port) in str(caught.value)


def test_workers_end_with_their_context():
    with running_workers((None, None)):
        pids = [worker.pid for worker in workers()]
        assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(ValueError), running_workers():
        (worker,) = workers()
        raise ValueError
    assert not psutil.pid_exists(worker.pid)
