"""Firmware variables and TPM states in all the places where libvirt lets them be."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from puller.errors import HypervisorError
from puller.host.access import LOCAL
from puller.hypervisor.domain import firmware
from puller.hypervisor.domain.domain import Domain
from puller.units import MIB


class _Domain:
    """What firmware asks a domain: libvirt 9.0 itself takes not all of these kinds."""

    name = "web1"
    uuid = "b3f4c1de-0000-4000-8000-000000000001"
    host = LOCAL

    def __init__(self, system: str = "", devices: str = "", active: bool = False) -> None:
        self.state_directory = Path("/nonexistent/qemu")
        self._xml = f"<domain><os>{system}</os><devices>{devices}</devices></domain>"
        self._active = active

    def xml(self) -> str:
        return self._xml

    def is_active(self) -> bool:
        return self._active


def _domain(system: str = "", devices: str = "", active: bool = False) -> Domain:
    return cast(Domain, _Domain(system, devices, active))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A block device of 65 MiB."""
    image = tmp_path / "device.img"
    with image.open("wb") as file:
        file.truncate(65 * MIB)
    made = subprocess.run(
        ["losetup", "-f", "--show", str(image)], check=False, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip("cannot make a block device here")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


@pytest.mark.parametrize(
    "element",
    [
        "<nvram>{}</nvram>",
        "<nvram type='file'><source file='{}'/></nvram>",
        "<nvram type='block'><source dev='{}'/></nvram>",
    ],
)
def test_variables_are_read_wherever_they_are_on_the_host(element: str, tmp_path: Path) -> None:
    path = tmp_path / "variables"
    path.write_bytes(b"boot order")
    assert firmware.nvram(_domain(element.format(path))) == b"boot order"


def test_a_store_of_variables_is_read(tmp_path: Path) -> None:
    path = tmp_path / "variables.json"
    path.write_bytes(b"{}")
    assert firmware.varstore(_domain(f"<varstore path='{path}'/>")) == b"{}"
    assert firmware.varstore(_domain()) is None


def test_variables_on_the_network_are_told() -> None:
    element = "<nvram type='network'><source protocol='iscsi' name='iqn.2026:vars/0'/></nvram>"
    with pytest.raises(HypervisorError, match=r"on the network, iscsi iqn\.2026:vars/0"):
        firmware.nvram(_domain(element))


def test_a_block_device_is_read_to_the_limit_and_no_further(device: Path) -> None:
    """For ``stat`` its size is 0."""
    assert device.stat().st_size == 0
    with pytest.raises(HypervisorError, match="larger than 64 MiB"):
        firmware.nvram(_domain(f"<nvram type='block'><source dev='{device}'/></nvram>"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HypervisorError, match="neither a file nor a block device"):
        firmware.nvram(_domain(f"<nvram>{tmp_path / 'pipe'}</nvram>"))


def test_what_is_not_there_is_missed_only_of_a_domain_that_runs(tmp_path: Path) -> None:
    element = f"<nvram>{tmp_path / 'none'}</nvram>"
    assert firmware.nvram(_domain(element)) is None
    with pytest.raises(HypervisorError, match="no such file"):
        firmware.nvram(_domain(element, active=True))


@pytest.mark.parametrize("kind", ["dir", "file"])
def test_a_tpm_with_a_source_of_its_own_is_read(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "tpm2-00.permall").write_bytes(b"sealed keys")
    (folder / ".lock").touch()
    path = folder if kind == "dir" else folder / "tpm2-00.permall"
    backend = f"<backend type='emulator'><source type='{kind}' path='{path}'/></backend>"
    content = firmware.tpm(_domain(devices=f"<tpm>{backend}</tpm>"))
    assert content is not None
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == ["tpm2-00.permall"]


def test_a_tpm_of_the_host_is_told() -> None:
    backend = "<backend type='passthrough'><device path='/dev/tpm0'/></backend>"
    with pytest.raises(HypervisorError, match="is kept in the host's TPM"):
        firmware.tpm(_domain(devices=f"<tpm>{backend}</tpm>"))


def test_a_state_that_is_renamed_between_listing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As swtpm does with each of its writes."""
    (tmp_path / "TMP2-00.permall").write_bytes(b"sealed keys")
    listed = Path.rglob

    def rglob(path: Path, pattern: str) -> list[Path]:
        found = list(listed(path, pattern))
        if (tmp_path / "TMP2-00.permall").exists():
            (tmp_path / "TMP2-00.permall").rename(tmp_path / "tpm2-00.permall")
        return found

    monkeypatch.setattr(Path, "rglob", rglob)
    backend = f"<backend type='emulator'><source type='dir' path='{tmp_path}'/></backend>"
    content = firmware.tpm(_domain(devices=f"<tpm>{backend}</tpm>"))
    assert content is not None
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == ["tpm2-00.permall"]


@pytest.mark.parametrize("read", [firmware.nvram, firmware.varstore, firmware.tpm])
def test_what_cannot_even_be_looked_for_is_told(
    read: Callable[[Domain], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    system = "<nvram>/closed/vars</nvram><varstore path='/closed/vars'/>"
    backend = "<backend type='emulator'><source type='dir' path='/closed/tpm'/></backend>"
    with pytest.raises(HypervisorError, match=r"cannot read the .*: /closed/\w+: Permission denied"):
        read(_domain(system, f"<tpm>{backend}</tpm>"))
