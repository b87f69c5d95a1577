"""One client's round for real: its bytes through a throttled socket, its training, its answer.

What the simulated seconds of a class are held against. Links are shaped in this process: bytes
leave no faster than the rate, arrive a latency later, and the sender's window opens with every
acknowledgement, as in TCP's slow start; the bytes then really pass a socket of this machine.
"""

import collections
import contextlib
import select
import socket
import struct
import threading
import time

import numpy as np
import tensorflow as tf

from omc.errors import InputError
from tff_sims.fleet import client_seconds, transfer

_SEGMENT = 1460
_COUNT = struct.Struct("<I")


def check_class(devices, name):
    """Refuses to rehearse a class that the fleet has no device of.

    Args:
        devices: `Devices`.
        name: Class.

    Raises:
        InputError: It does not.
    """
    there = [devices.classes[place] for place in np.unique(devices.of)]
    if name not in there:
        raise InputError("rehearse", f"one of the classes {', '.join(there)}", name)


def send(data, connection, mbps, latency):
    """Sends bytes through a socket as a link would let them pass, and returns when all arrived.

    Args:
        data: bytes-like.
        connection: Connected socket whose other end `receive`s.
        mbps: Megabits (10^6) a second.
        latency: Seconds there and back; all of it on the way there.
    """
    rate, data = mbps * 1e6 / 8, memoryview(data).cast("B")
    window, under_way, sent, acknowledged = transfer.WINDOW, 0, 0, 0
    leaves = time.perf_counter()
    link, rest = collections.deque(), b""
    while acknowledged < len(data):
        now = time.perf_counter()
        while sent < len(data) and under_way + _SEGMENT <= window:
            segment = data[sent : sent + _SEGMENT]
            leaves = max(now, leaves) + len(segment) / rate
            link.append((leaves + latency, segment))
            sent, under_way = sent + len(segment), under_way + len(segment)
        while link and link[0][0] <= time.perf_counter():
            connection.sendall(link.popleft()[1])
        wait = max(0.0, link[0][0] - time.perf_counter()) if link else 1.0
        if select.select([connection], [], [], wait)[0]:
            rest += _some(connection)
            while len(rest) >= _COUNT.size:
                (count,), rest = _COUNT.unpack_from(rest), rest[_COUNT.size :]
                acknowledged, under_way = acknowledged + count, under_way - count
                window += count


def receive(connection, nbytes):
    """Receives bytes that the other end `send`s, acknowledging what comes.

    Args:
        connection: Connected socket.
        nbytes: How many.

    Returns:
        bytearray.
    """
    data = bytearray()
    while len(data) < nbytes:
        chunk = _some(connection)
        data += chunk
        connection.sendall(_COUNT.pack(len(chunk)))
    return data


def _some(connection):
    chunk = connection.recv(1 << 16)
    if not chunk:
        raise ConnectionError("the other end has closed")
    return chunk


@contextlib.contextmanager
def pair():
    """Two connected sockets over this machine's network; both are closed at the end."""
    with socket.create_server(("localhost", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        for end in (ours, theirs):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(60)
        yield ours, theirs


def transfer_seconds(data, mbps, latency):
    """Time in which bytes pass a link that is shaped so, connection and request included.

    Args:
        data: bytes-like.
        mbps: Megabits (10^6) a second.
        latency: Seconds there and back.

    Returns:
        (seconds, what arrived, a bytearray).
    """
    start = time.perf_counter()
    with pair() as (ours, theirs):
        for _ in range(transfer.TRIPS - 1):  # The last is the request and the first byte.
            ours.sendall(b"?")
            theirs.recv(1)
            time.sleep(latency)
        sender = threading.Thread(target=send, args=(data, theirs, mbps, latency), daemon=True)
        sender.start()
        arrived = receive(ours, len(data))
        seconds = time.perf_counter() - start
        sender.join()
    return seconds, arrived


def client_round(work, down_mbps, up_mbps, latency, number=0):
    """One client's round: downloads its packed payload, trains on it, sends its answer.

    Args:
        work: `Work`; of several widths the first.
        down_mbps, up_mbps: Megabits (10^6) a second.
        latency: Seconds there and back.
        number: Client.

    Returns:
        Dict of down_bytes, up_bytes, train_seconds (the least of a few, as is assumed in
        simulations) and seconds, all measured.
    """
    _, client = next(client_seconds.at_widths(work))
    payload, dataset = client.payload(number), client.task.client_dataset(number)
    train_seconds = client_seconds.seconds(client, number)
    types = [tensor.dtype for tensor in payload]
    data = [tf.io.serialize_tensor(tensor).numpy() for tensor in payload]
    start = time.perf_counter()
    _, arrived = transfer_seconds(b"".join(data), down_mbps, latency)
    received, place = [], 0
    for dtype, one in zip(types, data):
        own = bytes(arrived[place : place + len(one)])
        received.append(tf.io.parse_tensor(own, dtype))
        place += len(one)
    answer = client.train(received, number, dataset)
    answer = b"".join(tf.io.serialize_tensor(tensor).numpy() for tensor in answer)
    transfer_seconds(answer, up_mbps, latency)
    return {
        "down_bytes": len(arrived),
        "up_bytes": len(answer),
        "train_seconds": train_seconds,
        "seconds": time.perf_counter() - start,
    }
