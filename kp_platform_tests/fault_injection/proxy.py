"""A TCP proxy that makes the connection between two programs slow, lossy or unresponsive.

Belongs here: forwarding, delaying and cutting bytes. Does not belong here: protocols
(`elasticsearch_stub.py`).
"""

import socket
import struct
import threading
import time
from contextlib import suppress

CHUNK = 16_384
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST


class Proxy:
    """Listens on 127.0.0.1 and forwards each connection to the target; a context manager.

    `latency_seconds` delays each chunk; `cut_after` resets a connection after that many bytes.
    """

    def __init__(self, host: str, port: int, listen: int = 0) -> None:
        self._target = host, port
        self._listener = socket.create_server(("127.0.0.1", listen))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self.latency_seconds = 0.0
        self.cut_after: int | None = None
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def heal(self) -> None:
        self.latency_seconds, self.cut_after = 0.0, None
        self._flowing.set()

    def freeze(self) -> None:
        """Keep connections open and forward nothing until `heal`."""
        self._flowing.clear()

    def reset(self) -> None:
        """Close every connection with RST."""
        with self._lock:
            ending, self._open = self._open, set()
        for each in ending:
            _reset(each)

    def close(self) -> None:
        self.heal()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        forwarded = 0
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                if self.latency_seconds:
                    time.sleep(self.latency_seconds)
                self._flowing.wait()
                limit = self.cut_after
                if limit is not None and forwarded + len(chunk) > limit:
                    target.sendall(chunk[: max(0, limit - forwarded)])
                    break
                target.sendall(chunk)
                forwarded += len(chunk)
        with self._lock:
            was_reset = source not in self._open
            self._open -= {source, target}
        end = _reset if was_reset or self.cut_after is not None else _end
        for each in (source, target):
            end(each)


def _reset(connection: socket.socket) -> None:
    """SHUT_RD wakes the reading thread and sends nothing before the RST."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RD)
    connection.close()


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
