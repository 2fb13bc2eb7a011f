"""Doctor on hosts that lack what files of points need."""

from __future__ import annotations

from pathlib import Path

import pytest

from puller.diagnosis import files
from puller.diagnosis.finding import Status


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIBGUESTFS_PATH", "SUPERMIN_KERNEL"):
        monkeypatch.delenv(name, raising=False)


def test_libguestfs_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.recovery.files.appliance.importlib.util.find_spec", lambda _: None)
    found = {check.name: check for check in files.examine()}["libguestfs"]
    assert found.status is Status.WARN
    assert "python3-guestfs" in found.advice


def test_the_appliance_needs_a_kernel_that_this_user_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = files.kernel(tmp_path)
    assert (found.status, "linux-image" in found.advice) == (Status.WARN, True)
    image = tmp_path / "boot" / "vmlinuz-6.1.0"
    image.parent.mkdir()
    image.touch()
    assert files.kernel(tmp_path).status is Status.OK
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read all
    found = files.kernel(tmp_path)
    assert found.status is Status.WARN
    assert f"chmod +r {image}" in found.advice
    monkeypatch.setenv("SUPERMIN_KERNEL", "/elsewhere")
    assert files.kernel(tmp_path).text == "SUPERMIN_KERNEL names /elsewhere"
