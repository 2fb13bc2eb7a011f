"""Outputs of a restore that exist already: nobody may use them, and no guest may start on them meanwhile.

``--force`` says that what is there may go, not that a guest's disk may be rewritten underneath it. So each is
opened once, before anything is written; what is open is compared with what domains and the host use, and
QEMU's lock on it is held until the restore is over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from puller.errors import HypervisorError, OutputInUse
from puller.events import Notice, Observer
from puller.hypervisor import imagelock
from puller.hypervisor.hostusers import user_of
from puller.hypervisor.storage import Storage, storage_of

_ANSWER_SECONDS = 20.0
"""How long libvirt may take to say what its domains use: a daemon that hangs must not stop a restore."""


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

    def __init__(self, uris: Sequence[str], subject: str, observer: Observer) -> None:
        self._uris = tuple(dict.fromkeys(uris))
        self._subject = subject
        self._observer = observer
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
            return _within(_ANSWER_SECONDS, uri)
        except HypervisorError as error:
            text = f"cannot ask libvirt which running domains use {output} ({error.message})"
            self._observer(
                Notice(self._subject, f"{text}; only mounts, programs and locks of this host count")
            )
            return []


def _within(seconds: float, uri: str) -> list[tuple[str, str]]:
    """What the domains of ``uri`` use. Raises HypervisorError, also if there is no answer in time."""
    answer: Future[list[tuple[str, str]]] = Future()

    def ask() -> None:
        try:
            answer.set_result(_sources(uri))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)

    Thread(target=ask, name="ask-libvirt", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        raise HypervisorError(f"libvirt at {uri} gives no answer in {seconds:.0f} s") from error


def _sources(uri: str) -> list[tuple[str, str]]:
    try:
        from puller.hypervisor.connection import Host
    except ModuleNotFoundError as error:
        raise HypervisorError("Python's module libvirt is not installed") from error
    with Host.connect(uri) as host:
        return list(host.sources_in_use())
