"""Runs the command line in this process, and as a process where that makes a difference."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from codecs import getincrementaldecoder
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.backups import aftermath
from puller.cli.program import run
from puller.errors import HypervisorError
from puller.hypervisor.domain.domain import Domain
from puller.hypervisor.job import openjob

_OURS = ("PULLER_", "LIBVIRT_DEFAULT_URI", "CREDENTIALS_DIRECTORY", "_PULLER_COMPLETE")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one document on stdout. Fails if there is anything else, or if it and the code disagree."""
        document = json.loads(self.out)
        assert self.out.endswith("}\n")
        assert self.out.count("\n") == 1
        assert (self.code != 0) == ("error" in document)
        if self.code:
            assert document["error"]["code"] == self.code
        return dict(document)

    @property
    def error(self) -> dict[str, Any]:
        """What the document says of the error; stderr says the same in two lines."""
        error: dict[str, Any] = self.document["error"]
        assert error.keys() == {"code", "name", "message", "advice", "retryable"}
        assert not error["message"].endswith(".")
        assert "Traceback" not in self.err
        assert f"puller: {error['message']}\n  {error['advice']}\n" in self.err
        return error


class CommandLine:
    """``cli("points", "-r", url)`` runs a command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        self._capsys.readouterr()
        code = run(arguments)
        out, err = self._capsys.readouterr()
        return Answer(code, out, err)


def command(*arguments: str) -> list[str]:
    """The command as a process."""
    return [sys.executable, "-m", "puller.cli", *arguments]


def process(*arguments: str, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a command as a process of its own, without a terminal, to its end."""
    done = subprocess.run(
        command(*arguments),
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


class Terminal:
    """A command on a terminal of the test's: stdin, stderr and the controlling terminal."""

    def __init__(self, *arguments: str) -> None:
        self._main, side = pty.openpty()
        script = (
            "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            f"from puller.cli.program import run; raise SystemExit(run({list(arguments)}))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=side,
            stdout=subprocess.PIPE,
            stderr=side,
            text=True,
            start_new_session=True,
        )
        os.close(side)
        self._decode = getincrementaldecoder("utf-8")().decode

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *unused: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._main)

    def type(self, *words: str) -> Answer:
        """Answer each question with a word, and wait for the end."""
        shown = ""
        for word in words:
            asked = len(shown)
            while not shown[asked:].endswith(": "):
                more = self._read()
                assert more, shown  # it ended and asked nothing
                shown += more
            os.write(self._main, word.encode())
        out, _ = self._process.communicate()
        while more := self._read():
            shown += more
        return Answer(self._process.returncode, out, shown)

    def _read(self) -> str:
        """Return what is shown next; empty at the end. A read can end within a character."""
        with suppress(OSError):  # EIO: nobody has the other side open any more
            while more := os.read(self._main, 1000):
                if text := self._decode(more):
                    return text
        return ""


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user who runs the tests has set for puller is not the tests' business."""
    for name in list(os.environ):
        if name.startswith(_OURS):
            monkeypatch.delenv(name)
    monkeypatch.setattr("puller.configuration.file.DEFAULT_PATH", Path("/nonexistent/puller.toml"))


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs are locked: tests that run beside this one have jobs of the same name."""
    monkeypatch.setattr("puller.jobs.job.lock_directory", lambda: tmp_path / "locks")
    return tmp_path / "locks"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the tests' repository is, or can be made."""
    return tmp_path / "repository"


@pytest.fixture
def repository(folder: Path) -> puller.Repository:
    """A repository that is not encrypted, in ``folder``."""
    return puller.create_repository(str(folder), password=None)


@pytest.fixture
def repository_in_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands use the repository in ``folder`` without an option."""
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))


@pytest.fixture
def job_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt refuses to end any job, and nobody waits 10 minutes for it to change its mind."""

    def refuse(domain: Domain) -> None:
        raise HypervisorError("cannot acquire state change lock")

    monkeypatch.setattr(openjob, "_cancel", refuse)
    monkeypatch.setattr(aftermath, "PERSISTENCE", 0.0)
