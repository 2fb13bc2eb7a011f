"""Image files of this host, served by ``qemu-nbd``."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from puller.cancelling import CancelScope
from puller.errors import NbdError
from puller.host.passphrases import handed_over, secret_id
from puller.host.qemu import INSTALL, Failure, complaint, qemu_img
from puller.host.runtime import SocketFolder
from puller.nbd.connection import Connection
from puller.units import KIB

SOCKET_FOLDER = "puller-nbd-"
"""What the names of the servers' directories begin with."""

_TOOL_SECONDS = 300.0
"""Seconds for ``qemu-img`` to create, change or measure an image. Measuring reads all tables of a chain, some
100 MiB for a TiB."""

_START_SECONDS = 30.0
"""Seconds for ``qemu-nbd`` to open an image. A large dirty qcow2 is checked first."""

_CLOSE_SECONDS = 120.0
"""How long it may take to close one. What was written to it is flushed by then, so that takes milliseconds,
unless the storage hangs."""

_SEE = "Correct the cause that QEMU's message names, then run the command again."

_WRITING = ("--cache=writeback", "--discard=unmap", "--detect-zeroes=off")


_PIECE = 64 * KIB
"""Bytes of an L2 table that QEMU is to read at once: all of it in most images.

Its default is 4 KiB: 16 requests a table, and 4 times the CPU where much of a large disk is looked at."""


def _whole_tables(cluster: int | None) -> dict[str, object] | None:
    """Return the option of QEMU's node that lets it read whole L2 tables; of a qcow2 with such clusters."""
    return None if cluster is None else {"l2-cache-entry-size": min(cluster, _PIECE)}


@dataclass(frozen=True, slots=True)
class Key:
    """The passphrase of one encrypted image, whose format is ``image`` (``raw`` is LUKS itself)."""

    image: str
    passphrase: bytes = field(repr=False)


Keys = Sequence[Key | None]
"""Keys of an image and of those behind it, nearest first; None for an image without encryption."""


def _opened_by(keys: Keys, number: int = 0) -> dict[str, object]:
    """Return the options of QEMU's block node that unlock the image of this number and those behind it."""
    if number >= len(keys) or not any(keys[number:]):
        return {}
    key = keys[number]
    own: dict[str, object] = {}
    if key is not None:
        own = {"key-secret": secret_id(number)}
        own = {"driver": "luks", **own} if key.image == "raw" else {"encrypt": own}
    behind = _opened_by(keys, number + 1)
    return {**own, "backing": behind} if behind else own


def _passphrases(keys: Keys) -> list[bytes | None]:
    return [None if key is None else key.passphrase for key in keys]


def _node(path: Path, image_format: str, keys: Keys, more: Mapping[str, object]) -> str:
    """Return the image as a file name for QEMU's tools, if it needs more options than its format."""
    source = {"driver": image_format, "file": {"filename": str(path.absolute())}}
    return f"json:{json.dumps({**source, **_opened_by(keys), **more})}"


def socket_uri(socket: Path) -> str:
    """The URI of the server that listens at ``socket``."""
    return f"nbd+unix:///?socket={quote(str(socket), safe='/')}"


def create_qcow2(
    path: Path, size: int, options: Mapping[str, str] | None = None, scope: CancelScope | None = None
) -> None:
    """Make an empty qcow2 image that holds ``size`` bytes, rounded up to the 512 that qcow2 counts in.

    ``options`` are those of ``qemu-img create``, such as ``cluster_size``. Replaces a file at ``path``.
    Raises NbdError if ``qemu-img`` is missing or fails.
    """
    more = [f"-o{name}={value}" for name, value in (options or {}).items()]
    words = ["create", "-q", "-f", "qcow2", *more, "--", str(path.absolute()), str(size)]
    _qemu_img(f"cannot create {path}", *words, scope=scope)


def places_of(path: Path, scope: CancelScope | None = None) -> list[tuple[int, int, int]]:
    """Where the clusters of the qcow2 image at ``path`` are: (start on the disk, length, offset in the file).

    All of the disk is named if it was made with ``preallocation=metadata``. Raises NbdError.
    """
    words = ["map", "--output=json", "-f", "qcow2", "--", str(path.absolute())]
    found = json.loads(_qemu_img(f"cannot read the layout of {path}", *words, scope=scope))
    return [(each["start"], each["length"], each["offset"]) for each in found if "offset" in each]


def detach_backing(path: Path, scope: CancelScope | None = None) -> None:
    """Remove the backing file from the qcow2 image at ``path``; its content is not read.

    Raises NbdError if ``qemu-img`` is missing or fails.
    """
    doing = f"cannot remove the backing file from {path}"
    words = ["rebase", "-q", "-u", "-f", "qcow2", "-b", "", "--", str(path.absolute())]
    _qemu_img(doing, *words, scope=scope)


def resize(
    path: Path, image_format: str, size: int, keys: Keys = (), scope: CancelScope | None = None
) -> None:
    """Make the image at ``path`` a disk of ``size`` bytes; dirty bitmaps in it are cut or continued.

    What is behind the new end is lost. Raises NbdError if ``qemu-img`` is missing or fails.
    """
    node = _node(path, image_format, keys, {})
    words = ["resize", "-q", "--shrink", "--", node, str(size)]
    _qemu_img(f"cannot resize {path}", *words, keys=keys, scope=scope)


def remove_bitmap(path: Path, name: str, keys: Keys = (), scope: CancelScope | None = None) -> None:
    """Remove the dirty bitmap ``name`` from the qcow2 image at ``path``; images behind it are not opened.

    Raises NbdError if ``qemu-img`` is missing or fails, as it does if another program has the image open.
    """
    node = _node(path, "qcow2", (), {**_opened_by(keys[:1]), "backing": None})
    doing = f"cannot remove bitmap {name} from {path}"
    _qemu_img(doing, "bitmap", "--remove", "--", node, name, keys=keys[:1], scope=scope)


def copy_bytes(path: Path, image_format: str, keys: Keys = (), scope: CancelScope | None = None) -> int:
    """Return the bytes that a full qcow2 copy of the image at ``path`` needs, chain included.

    The image may be in use.

    Raises NbdError if ``qemu-img`` is missing or fails.
    """
    command = ["measure", "-U", "--output=json", "-O", "qcow2", "--", _node(path, image_format, keys, {})]
    measured = _qemu_img(f"cannot measure {path}", *command, keys=keys, scope=scope)
    return int(json.loads(measured)["required"])


def _qemu_img(doing: str, *command: str, keys: Keys = (), scope: CancelScope | None = None) -> bytes:
    failure = Failure(NbdError, doing, _SEE)
    return qemu_img(command, _TOOL_SECONDS, failure, _passphrases(keys), scope=scope)


class ImageServer:
    """Serves the image at ``path`` for writing, at ``uri``, until it is closed.

    ``read_only`` returns a server that refuses writes. The socket is in a directory that only this user can
    enter. ``qemu-nbd`` exits when its last client disconnects, and this object is a client: so no server
    stays behind with a lock on the image when this process is killed.

    The end of ``scope`` ends the wait for its start with Interrupted. Raises NbdError, with the message of
    ``qemu-nbd``, if it is missing, does not start or fails.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the options of a server
        self,
        path: Path,
        image_format: str,
        options: Sequence[str] = _WRITING,
        node: Mapping[str, object] | None = None,
        keys: Keys = (),
        scope: CancelScope | None = None,
    ) -> None:
        self._scope = scope or CancelScope()
        self._path = path
        self._keys = keys
        # A driver in the description of a node and one in --format exclude each other.
        self._image = [f"--format={image_format}", "--", str(path.absolute())]
        if node is not None or any(keys):
            self._image = ["--", _node(path, image_format, keys, node or {})]
        self._folder = SocketFolder(SOCKET_FOLDER, "socket")
        home = self._folder.path
        self.uri = socket_uri(home / "socket")
        self._ready, self._log = home / "pid", home / "log"
        try:
            self._process = self._run(home / "socket", options)
            self._await()
        except BaseException:
            self._folder.cleanup()
            raise

    @classmethod
    def read_only(  # noqa: PLR0913 - the options of a server
        cls,
        path: Path,
        image_format: str,
        *,
        bitmap: str | None = None,
        cluster: int | None = None,
        keys: Keys = (),
        scope: CancelScope | None = None,
    ) -> Self:
        """Return a server that refuses writes.

        ``bitmap`` names a bitmap of the qcow2 image to export; ``cluster`` is the size of its clusters, see
        ``_whole_tables``. ``keys`` open encrypted images of the chain: the decrypted content is served.
        """
        offer = [] if bitmap is None else [f"--bitmap={bitmap}"]
        return cls(path, image_format, ["--read-only", *offer], _whole_tables(cluster), keys, scope)

    @classmethod
    def recorded(  # noqa: PLR0913 - the options of a server
        cls,
        path: Path,
        image_format: str,
        *,
        bitmap: str | None = None,
        cluster: int | None = None,
        keys: Keys = (),
        scope: CancelScope | None = None,
    ) -> Self:
        """A server for writing. The image's bitmaps go on recording; the rest is as with ``read_only``."""
        offer = [] if bitmap is None else [f"--bitmap={bitmap}"]
        return cls(path, image_format, [*_WRITING, *offer], _whole_tables(cluster), keys, scope)

    @classmethod
    def pushed(cls, path: Path, passphrase: bytes | None = None, scope: CancelScope | None = None) -> Self:
        """Return a server of a pushed qcow2 image at ``path``, without the backing file that libvirt gives
        it.

        That is the running disk, which has changed and is locked. ``qemu:allocation-depth`` is exported and
        shows as allocated the clusters of the image itself.
        """
        keys = [] if passphrase is None else [Key("qcow2", passphrase)]
        return cls(path, "qcow2", ["--read-only", "--allocation-depth"], {"backing": None}, keys, scope)

    @classmethod
    def in_use(cls, path: Path, image_format: str, keys: Keys = (), scope: CancelScope | None = None) -> Self:
        """Return a server of an image that QEMU is writing: only old, unchanged data in it can be trusted."""
        return cls(path, image_format, ["--read-only"], {"force-share": True, "read-only": True}, keys, scope)

    def _run(self, socket: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
        # --shared=0 allows any number of clients; QEMU then lets several connections write (multi-conn).
        fixed = ["--shared=0", f"--socket={socket}", f"--pid-file={self._ready}"]
        try:
            with self._log.open("wb") as log, handed_over(_passphrases(self._keys)) as handed:
                # Its own session, so that Ctrl-C at a terminal ends puller, and puller ends the server.
                return subprocess.Popen(
                    ["qemu-nbd", *fixed, *options, *handed.options, *self._image],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=handed.descriptors,
                )
        except FileNotFoundError as error:
            raise NbdError("qemu-nbd is not installed", advice=INSTALL) from error

    def _await(self) -> None:
        """Connect as the first client as soon as the server has written its pid file."""
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not self._ready.exists():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise NbdError(f"qemu-nbd cannot serve {self._path}: {self._said()}", advice=_SEE)
                self._scope.check()
                self._scope.pause(0.002)
            self._lifeline = Connection(self.uri, scope=self._scope)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _said(self) -> str:
        return complaint(self._log.read_bytes())

    def close(self) -> None:
        """End the server and wait until it has flushed its caches and closed the image."""
        if self._process.returncode is not None:
            return
        self._lifeline.drop()  # a server that hangs would not answer a disconnect
        self._process.terminate()
        try:
            code = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired as error:
            self._process.kill()  # no wait: a process that hangs in its storage does not die either
            self._folder.cleanup()
            raise NbdError(f"qemu-nbd of {self._path} did not end within {_CLOSE_SECONDS:.0f} s") from error
        said = self._said()
        self._folder.cleanup()
        if code:
            raise NbdError(f"qemu-nbd of {self._path} ended with code {code}: {said}", advice=_SEE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Report the first error: the failure of the server often only follows from it.
        with contextlib.suppress(NbdError) if error is not None else contextlib.nullcontext():
            self.close()
