"""Folders in which others could exchange what is ours, for locks, caches and sockets alike."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from puller.errors import PullerError
from puller.host import runtime
from puller.host.privatefolder import make_private

NOBODY = 65534

UNSAFE = [(0, 0o777), (NOBODY, 0o700), (NOBODY, 0o1777)]
SAFE = [(0, 0o700), (0, 0o755), (0, 0o775), (0, 0o1777)]


@pytest.fixture
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder for locks and sockets."""
    made = tmp_path / "above"
    made.mkdir()
    monkeypatch.setattr(runtime, "runtime_directory", lambda: made)
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    monkeypatch.setattr(runtime, "Path", lambda text: made if text == "/tmp" else Path(text))
    return made


@pytest.mark.parametrize(("owner", "mode"), UNSAFE)
def test_nothing_is_made_where_others_could_exchange_it(above: Path, owner: int, mode: int) -> None:
    os.chown(above, owner, owner)
    above.chmod(mode)
    with pytest.raises(PermissionError, match="other users may change"):
        make_private(above / "locks")
    with pytest.raises(PullerError, match="cannot create a socket in any of"):
        runtime.SocketFolder("puller-", "socket")


@pytest.mark.parametrize(("owner", "mode"), SAFE)
def test_what_others_cannot_exchange_is_made(above: Path, owner: int, mode: int) -> None:
    os.chown(above, owner, owner)
    above.chmod(mode)
    make_private(above / "locks")
    folder = runtime.SocketFolder("puller-", "socket")
    assert folder.path.parent == above
    assert list(runtime.abandoned("puller-")) == []
    folder.cleanup()
    assert not folder.path.exists()
