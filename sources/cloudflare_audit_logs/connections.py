"""The HTTP connections of a process: a session for each thread that asks, whatever tokens it asks with."""

import threading

import requests


class Connections:
    """Shared by threads, and by the clients of several tokens: what a thread has opened, it uses again."""

    def __init__(self) -> None:
        self._local, self._lock, self._all = threading.local(), threading.Lock(), list[requests.Session]()

    @property
    def session(self) -> requests.Session:
        """The one of the thread that asks for it."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.headers["Accept"] = "application/json"
            session.headers["User-Agent"] = "cloudflare-audit-pipeline"
            with self._lock:
                self._all.append(session)
        return session

    def close(self) -> None:
        """Closes those of all threads."""
        with self._lock:
            for session in self._all:
                session.close()
