"""The serial consoles of a drill's machine, read from the files that QEMU appends to."""

from __future__ import annotations

import re
from pathlib import Path

from puller.units import KIB, MIB

KEPT = 64 * KIB
"""Characters that are kept of each console."""

_STEP = MIB
_LARGEST = 8 * MIB
"""Bytes at which a file is emptied: a guest may print without end, and must not fill the host's disk."""

_PANIC = "Kernel panic - not syncing"
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")


class Consoles:
    """All serial consoles whose files are in ``folder``. ``read`` reads what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._texts: dict[Path, str] = {}
        self._wanted: list[str] = [_PANIC]
        self._seen: set[str] = set()

    def watch_for(self, text: str) -> None:
        """Look out for ``text`` from now on."""
        self._wanted.append(text)

    def has_shown(self, text: str) -> bool:
        """Return whether ``text``, which is watched for, was on a console."""
        return text in self._seen

    @property
    def panicked(self) -> bool:
        """Whether Linux has told that it gives up."""
        return self.has_shown(_PANIC)

    def read(self) -> None:
        """Read what the guest has printed since the last call."""
        for path in sorted(self._folder.glob("console*.log")):
            while new := self._read_some(path):
                before = self._texts.get(path, "")
                whole = _ESCAPES.sub("", before + new.decode(errors="replace"))
                self._seen.update(text for text in self._wanted if text in whole)
                self._texts[path] = whole[-KEPT:]

    def _read_some(self, path: Path) -> bytes:
        with path.open("r+b") as file:
            file.seek(self._read.get(path, 0))
            new = file.read(_STEP)
            self._read[path] = file.tell()
            if not new and self._read[path] > _LARGEST:
                file.truncate(0)  # QEMU appends, so it goes on at the new end
                self._read[path] = 0
        return new

    def log(self, most: int) -> str:
        """Return the end of what was printed, at most so many characters; of several consoles one by one."""
        texts = [text for _, text in sorted(self._texts.items()) if text.strip()]
        share = most // max(1, len(texts)) - 1
        return "\n".join(text[-share:] for text in texts)
