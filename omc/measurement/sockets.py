"""Bytes that really pass through sockets: a TCP proxy that counts."""

import contextlib
import socket
import threading


class CountingProxy:
    """Passes connections on to one server and counts what goes through, both ways.

    Counted is TCP's payload: gRPC's and HTTP/2's framing is in it, IP and TCP headers are not.

    Attributes:
        address: "localhost:port" to connect to.
        up: Bytes from clients to the server so far.
        down: Bytes from the server to clients so far.
    """

    def __init__(self, target):
        """Starts to listen on a free port of this machine.

        Args:
            target: "host:port" of the server.
        """
        host, _, port = target.rpartition(":")
        self._target = host.strip("[]"), int(port)
        self._listener = socket.create_server(("localhost", 0))
        self._sockets = []
        self._lock = threading.Lock()
        self.address = f"localhost:{self._listener.getsockname()[1]}"
        self.up = self.down = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Ends it with all its connections."""
        for end in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # Closed.
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for source, sink, way in ((client, server, "up"), (server, client, "down")):
                    thread = threading.Thread(
                        target=self._pass, args=(source, sink, way), daemon=True
                    )
                    thread.start()

    def _pass(self, source, sink, way):
        with contextlib.suppress(OSError):  # Either end is closed.
            while True:
                data = source.recv(1 << 20)
                if not data:
                    break
                with self._lock:
                    setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
