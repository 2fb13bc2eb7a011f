"""Files out of a point, without restoring its disks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from puller.api.arguments import check_lists, working
from puller.errors import NoSuchFile, UsageError
from puller.events import Observer, Step, ignore
from puller.repository.repository import Repository

if TYPE_CHECKING:
    from puller.recovery.files.copying import CopiedPath
    from puller.recovery.files.entry import FileEntry
    from puller.recovery.files.opening import FilesRequest, OpenedPoint
    from puller.recovery.files.versions import FileVersion


@dataclass(frozen=True, slots=True)
class FileListing:
    """Entries of directories of ``point``. ``filesystems`` are the mounted devices, by place."""

    point: str
    filesystems: Mapping[str, str]
    entries: tuple[FileEntry, ...]


@dataclass(frozen=True, slots=True)
class CopiedFiles:
    """What was copied out of ``point``."""

    point: str
    copied: tuple[CopiedPath, ...]


@dataclass(frozen=True, slots=True)
class MountedPoint:
    """The files of ``point`` are in ``directory``. ``filesystems`` are the mounted devices, by place."""

    point: str
    directory: str
    filesystems: Mapping[str, str]


def list_files(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    path: str = "/",
    *,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    filesystem: str | None = None,
    passphrases: Sequence[str] = (),
    observer: Observer = ignore,
) -> FileListing:
    """List a directory of a guest, or one file, through libguestfs.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        path: The absolute path in the guest.
        hosts: Use only points that these hosts took; names or patterns.
        disks: Targets of the only disks to attach. Default: all disks of the point.
        filesystem: The device of the only file system to show, as ``/dev/vda2`` or ``/dev/vg/root``. Default:
            what the guest's operating system mounts, or the only file system that there is.
        passphrases: Passphrases to try on LUKS volumes.
        observer: Receives events: steps and notices.

    Returns:
        The entries, by name.

    Raises:
        NoSuchPoint: No point matches.
        NoSuchDisk: The point has no such disk.
        NoSuchFile: There is nothing at ``path``.
        NoFilesystem: No file system was found, or several are there to choose from.
        FileUnreadable: The directory cannot be read.
        ApplianceFailed: libguestfs is missing or does not work here.
        ServeFailed: nbdkit is missing or does not work here.
        KeyNotHeld: The key that opened the repository may not read guest data.
        StoreError: The store cannot be reached or refuses.

    Example:
        >>> [entry.path for entry in puller.list_files(repository, "web1@latest", "/home").entries]
        ['/home/ada', '/home/grace']
    """
    _check_path(path)
    with _opened(repository, point, hosts, disks, filesystem, passphrases, observer) as files:
        return FileListing(files.point.point, files.filesystems, tuple(files.tree.listing(path)))


def find_files(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    pattern: str,
    *,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    filesystem: str | None = None,
    passphrases: Sequence[str] = (),
    observer: Observer = ignore,
) -> FileListing:
    """Find files and directories of a guest by a shell pattern.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        pattern: Such as ``*.conf``: for names, or if it has a slash, for whole paths.
        hosts: As for :func:`puller.list_files`, like all that follow.
        disks: The only disks.
        filesystem: The only file system.
        passphrases: Of LUKS volumes.
        observer: Receives events: steps and notices.

    Returns:
        What matches, by path.

    Raises:
        PullerError: As for :func:`puller.list_files`.

    Example:
        >>> puller.find_files(repository, "web1@latest", "*.conf").entries[0].path
        '/etc/adduser.conf'
    """
    with _opened(repository, point, hosts, disks, filesystem, passphrases, observer) as files:
        return FileListing(files.point.point, files.filesystems, tuple(files.tree.find(pattern)))


def read_file(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    path: str,
    *,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    filesystem: str | None = None,
    passphrases: Sequence[str] = (),
    observer: Observer = ignore,
) -> Iterator[bytes]:
    """Yield the content of a guest's file, in pieces of at most 2 MiB.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        path: The absolute path in the guest. A symbolic link is followed, in the guest.
        hosts: As for :func:`puller.list_files`, like all that follow.
        disks: The only disks.
        filesystem: The only file system.
        passphrases: Of LUKS volumes.
        observer: Receives events: steps and notices.

    Returns:
        The pieces. The point is open until the last one is taken, or the iterator closed.

    Raises:
        PullerError: As for :func:`puller.list_files`.
        UsageError: It is not a regular file.

    Example:
        >>> b"".join(puller.read_file(repository, "web1@latest", "/etc/hostname"))
        b'web1\\n'
    """
    _check_path(path)
    with _opened(repository, point, hosts, disks, filesystem, passphrases, observer) as files:
        yield from files.tree.read(path)


def copy_files(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    paths: Sequence[str],
    destination: str,
    *,
    force: bool = False,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    filesystem: str | None = None,
    passphrases: Sequence[str] = (),
    observer: Observer = ignore,
) -> CopiedFiles:
    """Copy files and directories out of a guest. Nothing is written outside ``destination``.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        paths: The absolute paths in the guest.
        destination: A directory, if it is one or ends with a slash; else the name of the only copy.
        force: Replace files that exist. Directories are never replaced.
        hosts: As for :func:`puller.list_files`, like all that follow.
        disks: The only disks.
        filesystem: The only file system.
        passphrases: Of LUKS volumes.
        observer: Receives events: steps and notices.

    Returns:
        By path, what was copied, and what was not.

    Raises:
        PullerError: As for :func:`puller.list_files`.
        OutputRefused: A copy would replace something; nothing was touched.
        OutputFailed: The copy cannot be written. It was removed; those before it stay.

    Example:
        >>> copied = puller.copy_files(repository, "web1@latest", ["/etc", "/root/.ssh"], "/restore/")
        >>> copied.copied[0].output
        '/restore/etc'
    """
    from puller.recovery.files import copying

    check_lists(paths=paths)
    for path in paths:
        _check_path(path)
    if not paths:
        raise UsageError("no path is given", advice="Give at least one path in the guest.")
    with _opened(repository, point, hosts, disks, filesystem, passphrases, observer) as files:
        plans = copying.make_plan(files.tree, paths, destination, force)
        done = []
        for plan in plans:
            observer(Step(files.point.point, f"copy {plan.entry.path}"))
            done.append(copying.copy(files.tree, plan))
        return CopiedFiles(files.point.point, tuple(done))


def mount_files(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    point: str,
    directory: str,
    *,
    ready: Callable[[MountedPoint], None],
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    filesystem: str | None = None,
    passphrases: Sequence[str] = (),
    observer: Observer = ignore,
) -> None:
    """Mount the files of a guest at ``directory``, read-only, until somebody unmounts them.

    They are also unmounted if the call ends otherwise: its scope is cancelled, or ``ready`` raises.

    Args:
        repository: The repository.
        point: The point; see :func:`puller.restore`.
        directory: An empty directory.
        ready: Called once the files are there.
        hosts: As for :func:`puller.list_files`, like all that follow.
        disks: The only disks.
        filesystem: The only file system.
        passphrases: Of LUKS volumes.
        observer: Receives events: steps and notices.

    Raises:
        PullerError: As for :func:`puller.list_files`.
        UsageError: Nothing can be mounted at ``directory``.

    Example:
        >>> puller.mount_files(repository, "web1@latest", "/mnt", ready=lambda mounted: print(mounted.point))
    """
    from puller.recovery.files import local_mount

    place = Path(directory)
    local_mount.refuse_directory(place)
    with _opened(repository, point, hosts, disks, filesystem, passphrases, observer) as files:
        mounted = MountedPoint(files.point.point, directory, files.filesystems)
        local_mount.mount(files, place, lambda: ready(mounted))


def file_versions(  # noqa: PLR0913 - one keyword for each choice that a user has
    repository: Repository,
    domain: str,
    path: str,
    *,
    hosts: Sequence[str] = (),
    disks: Sequence[str] = (),
    filesystem: str | None = None,
    passphrases: Sequence[str] = (),
    observer: Observer = ignore,
) -> list[FileVersion]:
    """List the points of a domain in which a file differs from the next newer point.

    Points in which no disk has changed are not opened, all others once.

    Args:
        repository: The repository.
        domain: The domain's name or UUID.
        path: The absolute path in the guest.
        hosts: Use only points that these hosts took; names or patterns.
        disks: As for :func:`puller.list_files`, like all that follow.
        filesystem: The only file system.
        passphrases: Of LUKS volumes.
        observer: Receives events: steps and notices.

    Returns:
        The versions, newest first.

    Raises:
        NoSuchPoint: The domain has no points.
        AmbiguousPoint: Several domains have had the name, or several hosts have points of the domain.
        NoSuchFile: No point has the file.
        PullerError: As for :func:`puller.list_files`.

    Example:
        >>> [version.size for version in puller.file_versions(repository, "web1", "/etc/fstab")]
        [664, 581]
    """
    from puller.recovery.files.versions import versions

    _check_path(path)
    check_lists(hosts=hosts, disks=disks, passphrases=passphrases)
    bound = working(repository, domain, observer)
    points = bound.points.history(domain, hosts)
    request = _request(disks, filesystem, passphrases)
    found = list(versions(bound, points, path, request, observer))
    if not found:
        raise NoSuchFile(f"no file {path} in any point of domain {domain}")
    return found


@contextmanager
def _opened(  # noqa: PLR0913, PLR0917 - what the functions have in common
    repository: Repository,
    point: str,
    hosts: Sequence[str],
    disks: Sequence[str],
    filesystem: str | None,
    passphrases: Sequence[str],
    observer: Observer,
) -> Iterator[OpenedPoint]:
    from puller.recovery.files.opening import opened

    check_lists(hosts=hosts, disks=disks, passphrases=passphrases)
    bound = working(repository, point, observer)
    request = _request(disks, filesystem, passphrases)
    with opened(bound, bound.points.select(point, hosts), request, observer) as files:
        yield files


def _request(disks: Sequence[str], filesystem: str | None, passphrases: Sequence[str]) -> FilesRequest:
    from puller.recovery.files.opening import FilesRequest

    return FilesRequest(tuple(dict.fromkeys(disks)), filesystem, tuple(passphrases))


def _check_path(path: str) -> None:
    """Refuse a path before anything is started."""
    from puller.recovery.files.tree import normal

    normal(path)
