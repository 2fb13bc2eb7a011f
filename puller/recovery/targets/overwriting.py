"""Outputs of a restore that exist already: nobody may use them, and no guest may start on them meanwhile.

``--force`` says that what is there may go, not that a guest's disk may be rewritten underneath it. So each is
opened once, before anything is written; what is open is compared with what domains and the host use, and
QEMU's lock on it is held until the restore is over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from puller.cancelling import CancelScope
from puller.errors import HypervisorError, OutputInUse
from puller.events import Notice, Observer
from puller.hypervisor.storage import imagelock
from puller.hypervisor.storage.hostusers import user_of
from puller.hypervisor.storage.storage import Storage, storage_of
from puller.recovery.targets.asking import ask_manager


@contextmanager
def claim(path: Path, domains: Domains) -> Iterator[int]:
    """Hold what is at ``path``, as a descriptor, so that no QEMU starts on it while the context lasts.

    Raises OutputInUse with the name of who uses it, OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        storage = storage_of(descriptor)
        user = domains.user_of(path, storage) or user_of(storage, descriptor)
        if user is None and not imagelock.take(descriptor):
            user = "a program of QEMU has just opened it"
        if user is not None:
            raise OutputInUse(f"cannot restore to {path}: {user}")
        yield descriptor
    finally:
        os.close(descriptor)


class Domains:
    """The active domains of the libvirts at ``uris``, asked when the first output is claimed.

    A libvirt that cannot be asked is a notice about ``subject``: hosts where one restores need none.
    """

    def __init__(self, uris: Sequence[str], subject: str, observer: Observer, scope: CancelScope) -> None:
        self._uris = tuple(dict.fromkeys(uris))
        self._subject = subject
        self._observer = observer
        self._scope = scope
        self._sources: list[tuple[str, str]] | None = None

    def user_of(self, output: Path, storage: Storage) -> str | None:
        """Say which domain uses the storage, as a clause; None if none is known to."""
        if self._sources is None:
            self._sources = [found for uri in self._uris for found in self._ask(uri, output)]
        users = (
            f"domain {name} is running with {path}" for name, path in self._sources if storage.is_at(path)
        )
        return next(users, None)

    def _ask(self, uri: str, output: Path) -> list[tuple[str, str]]:
        try:
            return ask_manager(uri, self._scope, lambda host: list(host.sources_in_use()))
        except HypervisorError as error:
            text = f"cannot ask libvirt which running domains use {output} ({error.message})"
            self._observer(
                Notice(self._subject, f"{text}; only mounts, programs and locks of this host count")
            )
            return []
