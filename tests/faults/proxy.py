"""A TCP proxy that misbehaves on command, to be put before a real server: refuses, hangs, dawdles, cuts."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

_CHUNK = 16 * 1024


class Proxy:
    """Listens on a loopback port that stays the same, and forwards to a server."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.bytes_per_second = float("inf")
        """To the server."""
        self.cut_after: int | None = None
        """Bytes to the server until every connection is cut, once."""
        self._is_hanging, self._is_refusing = threading.Event(), False
        self._connections: set[socket.socket] = set()
        self._serve()

    def refuse(self) -> None:
        """Refuses connections, and cuts those that there are."""
        self._is_refusing = True
        # Closing alone would leave the port open until the thread that accepts comes back.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def accept(self) -> None:
        """Ends `refuse`."""
        if not self._is_refusing:
            return
        self._is_refusing = False
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._serve()

    def hang(self) -> None:
        """Forwards nothing any more, and says nothing."""
        self._is_hanging.set()

    def go_on(self) -> None:
        """Ends `hang`."""
        self._is_hanging.clear()

    def cut(self) -> None:
        """Cuts every connection."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_hanging.clear()
        self.refuse()

    def _serve(self) -> None:
        threading.Thread(target=self._accept_all, args=[self._listener], daemon=True).start()

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._pump, args=[server, client], daemon=True)
        with self._kept(client, server):
            back.start()
            self._pump(client, server, is_upstream=True)
            back.join()

    @contextmanager
    def _kept(self, *connections: socket.socket) -> Iterator[None]:
        self._connections.update(connections)
        try:
            yield
        finally:
            self._connections.difference_update(connections)
            for connection in connections:
                connection.close()

    def _pump(self, source: socket.socket, sink: socket.socket, *, is_upstream: bool = False) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                while self._is_hanging.is_set():
                    time.sleep(0.02)
                if is_upstream:
                    self._count(len(chunk))
                sink.sendall(chunk)
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _count(self, size: int) -> None:
        time.sleep(size / self.bytes_per_second)
        if self.cut_after is None:
            return
        self.cut_after -= size
        if self.cut_after < 0:
            self.cut_after = None
            self.cut()
