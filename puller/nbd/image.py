"""Image files, served by ``qemu-nbd`` on the host that has them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from puller.cancelling import CancelScope
from puller.errors import NbdError
from puller.host.access import LOCAL, HostAccess
from puller.host.passphrases import secret_id
from puller.host.qemu import Failure, qemu_img
from puller.nbd.qemu_nbd import SEE, DistantServer, LocalServer, Task
from puller.units import KIB

_TOOL_SECONDS = 300.0
"""Seconds for ``qemu-img`` to create, change or measure an image. Measuring reads all tables of a chain, some
100 MiB for a TiB."""

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


@dataclass(frozen=True, slots=True)
class Remote:
    """An image that is no file: ``node`` are the options of its block node, ``name`` is for messages.

    ``secret`` is what the node's option ``secret_option`` stands for, if it has one.
    """

    name: str
    node: Mapping[str, object]
    secret_option: str = ""
    secret: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.name

    def options(self, number: int) -> dict[str, object]:
        """Return the node's options, where its secret is that of this ``number``."""
        return {**self.node, **({self.secret_option: secret_id(number)} if self.secret_option else {})}


def _node(path: Path | Remote, image_format: str, keys: Keys, more: Mapping[str, object]) -> str:
    """Return the image as a file name for QEMU's tools, if it needs more options than its format."""
    file = path.options(len(keys)) if isinstance(path, Remote) else {"filename": str(path.absolute())}
    source = {"driver": image_format, "file": file}
    return f"json:{json.dumps({**source, **_opened_by(keys), **more})}"


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


def detach_backing(path: Path, scope: CancelScope | None = None, host: HostAccess = LOCAL) -> None:
    """Remove the backing file from the qcow2 image at ``path``; its content is not read.

    Raises NbdError if ``qemu-img`` is missing or fails.
    """
    doing = f"cannot remove the backing file from {path}"
    words = ["rebase", "-q", "-u", "-f", "qcow2", "-b", "", "--", str(path.absolute())]
    _qemu_img(doing, *words, scope=scope, host=host)


def resize(
    path: Path, image_format: str, size: int, keys: Keys = (), scope: CancelScope | None = None
) -> None:
    """Make the image at ``path`` a disk of ``size`` bytes; dirty bitmaps in it are cut or continued.

    What is behind the new end is lost. Raises NbdError if ``qemu-img`` is missing or fails.
    """
    node = _node(path, image_format, keys, {})
    words = ["resize", "-q", "--shrink", "--", node, str(size)]
    _qemu_img(f"cannot resize {path}", *words, keys=keys, scope=scope)


def remove_bitmap(
    path: Path, name: str, keys: Keys = (), scope: CancelScope | None = None, host: HostAccess = LOCAL
) -> None:
    """Remove the dirty bitmap ``name`` from the qcow2 image at ``path``; images behind it are not opened.

    Raises NbdError if ``qemu-img`` is missing or fails, as it does if another program has the image open.
    """
    node = _node(path, "qcow2", (), {**_opened_by(keys[:1]), "backing": None})
    doing = f"cannot remove bitmap {name} from {path}"
    _qemu_img(doing, "bitmap", "--remove", "--", node, name, keys=keys[:1], scope=scope, host=host)


def copy_bytes(
    path: Path,
    image_format: str,
    keys: Keys = (),
    scope: CancelScope | None = None,
    host: HostAccess = LOCAL,
) -> int:
    """Return the bytes that a full qcow2 copy of the image at ``path`` needs, chain included.

    The image may be in use.

    Raises NbdError if ``qemu-img`` is missing or fails.
    """
    command = ["measure", "-U", "--output=json", "-O", "qcow2", "--", _node(path, image_format, keys, {})]
    measured = _qemu_img(f"cannot measure {path}", *command, keys=keys, scope=scope, host=host)
    return int(json.loads(measured)["required"])


def _qemu_img(
    doing: str,
    *command: str,
    keys: Keys = (),
    scope: CancelScope | None = None,
    host: HostAccess = LOCAL,
) -> bytes:
    failure = Failure(NbdError, doing, SEE)
    return qemu_img(command, _TOOL_SECONDS, failure, _passphrases(keys), scope=scope, host=host)


class ImageServer:
    """Serves the image at ``path`` of ``host`` for writing, at ``uri``, until it is closed.

    ``read_only`` returns a server that refuses writes. The socket is in a directory that only this user can
    enter. ``qemu-nbd`` exits when its last client disconnects, and this object is a client: so no server
    stays behind with a lock on the image when this process is killed.

    The end of ``scope`` ends the wait for its start with Interrupted. Raises NbdError, with the message of
    ``qemu-nbd``, if it is missing, does not start or fails.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the options of a server
        self,
        path: Path | Remote,
        image_format: str,
        options: Sequence[str] = _WRITING,
        node: Mapping[str, object] | None = None,
        keys: Keys = (),
        scope: CancelScope | None = None,
        host: HostAccess = LOCAL,
    ) -> None:
        # A driver in the description of a node and one in --format exclude each other.
        secrets = _passphrases(keys)
        if isinstance(path, Remote) or node is not None or any(keys):
            image = ["--", _node(path, image_format, keys, node or {})]
        else:
            image = [f"--format={image_format}", "--", str(path.absolute())]
        if isinstance(path, Remote):
            secrets.append(path.secret)
        task = Task(path, tuple(options), tuple(image), tuple(secrets))
        waits = scope or CancelScope()
        self._server = LocalServer(task, waits) if host is LOCAL else DistantServer(task, waits, host)
        self.uri = self._server.uri

    @classmethod
    def read_only(  # noqa: PLR0913 - what to serve, from where
        cls,
        path: Path | Remote,
        image_format: str,
        *,
        bitmap: str | None = None,
        cluster: int | None = None,
        keys: Keys = (),
        scope: CancelScope | None = None,
        host: HostAccess = LOCAL,
    ) -> Self:
        """Return a server that refuses writes.

        ``bitmap`` names a bitmap of the qcow2 image to export; ``cluster`` is the size of its clusters, see
        ``_whole_tables``. ``keys`` open encrypted images of the chain: the decrypted content is served.
        """
        offer = [] if bitmap is None else [f"--bitmap={bitmap}"]
        node = _whole_tables(cluster)
        return cls(path, image_format, ["--read-only", *offer], node, keys, scope, host)

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
    def pushed(
        cls,
        path: Path,
        passphrase: bytes | None = None,
        scope: CancelScope | None = None,
        host: HostAccess = LOCAL,
    ) -> Self:
        """Return a server of a pushed qcow2 image at ``path``, without the backing file that libvirt gives
        it.

        That is the running disk, which has changed and is locked. ``qemu:allocation-depth`` is exported and
        shows as allocated the clusters of the image itself.
        """
        keys = [] if passphrase is None else [Key("qcow2", passphrase)]
        options = ["--read-only", "--allocation-depth"]
        return cls(path, "qcow2", options, {"backing": None}, keys, scope, host)

    @classmethod
    def in_use(
        cls,
        path: Path,
        image_format: str,
        keys: Keys = (),
        scope: CancelScope | None = None,
        host: HostAccess = LOCAL,
    ) -> Self:
        """Return a server of an image that QEMU is writing: only old, unchanged data in it can be trusted."""
        node = {"force-share": True, "read-only": True}
        return cls(path, image_format, ["--read-only"], node, keys, scope, host)

    def close(self) -> None:
        """End the server and wait until it has flushed its caches and closed the image."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Report the first error: the failure of the server often only follows from it.
        with contextlib.suppress(NbdError) if error is not None else contextlib.nullcontext():
            self.close()
