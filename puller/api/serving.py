"""From a point to NBD exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from puller.api.arguments import check_lists, working
from puller.events import Observer, ignore
from puller.repository.repository import Repository

if TYPE_CHECKING:
    from puller.recovery.serving.server import Server


def serve(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    *,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    socket: str | None = None,
    socket_owner: str | None = None,
    port: int | None = None,
    tls_certificates: str | None = None,
    writable: bool = False,
    cache_size: int | None = None,
    cache_dir: str | None = None,
    observer: Observer = ignore,
) -> Server:
    """Serve the disks of a point as read-only NBD exports, straight from the repository.

    The server is a process of nbdkit. It ends with the context that this function returns, or with this
    process. The point is kept from being pruned until then.

    Args:
        repository: The repository. It must not be closed while the server runs.
        point: The point; see :func:`puller.restore`.
        hosts: Use only points that these hosts took; names or patterns.
        disks: Targets of the only disks to serve. Default: all.
        socket: Path of the Unix socket. Default: one in a private directory, unless there is a port.
        socket_owner: The user who may connect to the socket. Default: this user.
        port: Listen at this TCP port instead: on loopback, or with ``tls_certificates`` on all addresses.
        tls_certificates: A directory with ``ca-cert.pem``, ``server-cert.pem`` and ``server-key.pem``.
            Clients must then use TLS, with a certificate of the same CA.
        writable: Let clients write. What they write is in temporary files that only the server can open, and
            gone with it; the point never changes.
        cache_size: Bytes of decrypted data to keep in memory, at least 16 MiB. Default: 48 MiB. With
            ``cache_dir``: bytes of fetched data to keep there. Default: 4 GiB.
        cache_dir: A directory for fetched data, as it is in the repository. Later servers use it, too.
        observer: Receives events: a notice for each damaged range that a client reads, and for outages of
            the store.

    Returns:
        The running server, a context. ``exports`` has the URI and the size of each disk.

    Raises:
        NoSuchPoint: No point matches.
        AmbiguousPoint: Several points match, or several hosts have points of the domain.
        NoSuchDisk: The point has no such disk.
        KeyNotHeld: The key that opened the repository may not read guest data.
        DamagedData: The map of a disk is damaged.
        ServeFailed: nbdkit is missing, or does not start.
        StoreError: The store cannot be reached or refuses.
        UsageError: An argument cannot be used; nothing was touched.

    Example:
        >>> server = puller.serve(repository, "web1@latest")
        >>> server.uri("vda")
        'nbd+unix:///vda?socket=/run/puller/puller-serve-x7f3q1zd/socket'
    """
    from puller.recovery.serving.server import Server, Service

    check_lists(hosts=hosts, disks=disks)
    service = Service(
        tuple(dict.fromkeys(disks)),
        None if socket is None else Path(socket).absolute(),
        socket_owner,
        port,
        None if tls_certificates is None else Path(tls_certificates).absolute(),
        writable=writable,
    ).cached(cache_size, cache_dir)
    service.check()
    bound = working(repository, point, observer)
    return Server(bound, bound.points.select(point, hosts), service, observer)
