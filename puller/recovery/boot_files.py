"""Files that a restored domain starts with, put where its definition names them: kernel, media and so on.

::

    the host has no such file          written there
    the same content is there          kept
    another content is there           kept and told; replaced with ``--force``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from puller.hypervisor.domain.hostfiles import HostFile, attached_files
from puller.recovery.attachments import write_file
from puller.recovery.firmware_files import ENTERED
from puller.recovery.targets import outputs
from puller.recovery.targets.overwriting import Domains, claim

_READ_BY_ALL = 0o644
"""Mode of a firmware file, whose owner libvirt does not change for QEMU."""


class BootFiles:
    """The files that the definition ``xml`` names, and their contents, which the point ``held``, by name."""

    def __init__(self, xml: str, held: Mapping[str, bytes]) -> None:
        self._files = [(file, held[file.name]) for file in attached_files(xml) if file.name in held]

    def refuse_used(self, domains: Domains, *, force: bool) -> None:
        """Raise OutputInUse if a running domain uses a file that ``force`` would replace."""
        for file, _ in self._different() if force else ():
            with outputs.translated(str(file.path)), claim(file.path, domains):
                pass

    def write(self, tell: Callable[[str], None], *, force: bool) -> None:
        """Put each file in its place. Raises OutputFailed."""
        different = {file.path for file, _ in self._different()}
        for file, content in self._files:
            if file.path in different and not force:
                tell(
                    f"{file.label} exists and differs from that of the point, which is kept: "
                    f"'--force' puts {file.name} of the point there"
                )
            elif file.path in different or not file.path.exists():
                _write(file, content)
                tell(f"{file.label} was restored")

    def _different(self) -> Iterator[tuple[HostFile, bytes]]:
        for file, content in self._files:
            with outputs.translated(str(file.path)):
                if file.path.exists() and not _has(file.path, content):
                    yield file, content


def names_in(xml: str) -> Sequence[str]:
    """Return the names of the attachments that the definition ``xml`` may need."""
    return [file.name for file in attached_files(xml)]


def _has(path: Path, content: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(content) + 1) == content


def _write(file: HostFile, content: bytes) -> None:
    with outputs.translated(str(file.path)):
        outputs.make_folder(file.path.parent, ENTERED)
    write_file(file.path, content, force=True)
    if file.name.startswith("loader"):
        with outputs.translated(str(file.path)):
            file.path.chmod(_READ_BY_ALL)
