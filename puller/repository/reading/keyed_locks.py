"""A lock for each pack that is being read, so that threads which need one pack read it once."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary


class KeyedLocks:
    """Locks by key, each for as long as somebody has it. Threads with different keys never wait."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[bytes, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    def of(self, key: bytes) -> threading.Lock:
        """Return the lock of ``key``."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())
