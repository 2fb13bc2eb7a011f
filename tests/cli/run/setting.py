"""A configuration with one job."""

from __future__ import annotations

from pathlib import Path


class Setting:
    """A configuration with one job, ``nightly``, to which a test adds lines."""

    def __init__(self, path: Path, folder: Path, uri: str) -> None:
        self.path = path
        self._head = f'[repositories.main]\nurl = "{folder}"\n[defaults]\nconnect = "{uri}"\n'

    def job(self, lines: str, defaults: str = "") -> None:
        self.path.write_text(f"{self._head}{defaults}\n[jobs.nightly]\n{lines}\n")
