from __future__ import annotations

import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import libvirt
import pytest

from puller.errors import HypervisorError, NoSuchDomain
from puller.host.access import LOCAL
from puller.hypervisor import connection
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disks.image import untracked, with_image_facts
from puller.units import MIB
from tests.lab.fixtures import MachineFactory
from tests.lab.machine import DiskSpec


def test_a_domain_is_found_by_name_and_by_uuid(host: Host, machine_factory: MachineFactory) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    assert machine.name in host.uuids()
    assert host.domain(machine.name).uuid == machine.uuid
    assert host.domain(machine.uuid).name == machine.name


@pytest.mark.parametrize("name", ["no-such", "5f8ed93c-ef2a-4c3c-9a6b-1d3a1a1a1a1a"])
def test_an_unknown_domain(host: Host, name: str) -> None:
    with pytest.raises(NoSuchDomain, match=f"has no domain {name}"):
        host.domain(name)


def test_names_that_libvirt_cannot_be_asked_for() -> None:
    """As the shell passes on bytes that are not UTF-8."""
    with Host.connect("test:///default") as host, pytest.raises(HypervisorError, match="not UTF-8"):
        host.domain("\udcff")
    with pytest.raises(HypervisorError, match="not UTF-8"):
        Host.connect("test:///\udcff")


def test_versions_are_those_of_the_driver(host: Host) -> None:
    assert host.libvirt_version == _triple(libvirt.getVersion())
    printed = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
    assert f"version {'.'.join(map(str, host.qemu_version))} " in printed.stdout


def _triple(number: int) -> tuple[int, int, int]:
    return number // 1000000, number // 1000 % 1000, number % 1000


def test_libvirt_that_does_not_answer_is_one_clear_line() -> None:
    uri = "qemu+tcp://127.0.0.1:1/system"
    with pytest.raises(HypervisorError) as caught:
        Host.connect(uri)
    assert caught.value.message.startswith(f"cannot connect to libvirt at {uri}: unable to connect to server")
    assert caught.value.message.endswith("Connection refused")
    assert "--connect" in caught.value.advice


def test_another_host_is_refused_before_it_is_asked() -> None:
    with pytest.raises(HypervisorError, match="is on another host"):
        Host.connect("qemu+ssh://nobody@backup.invalid/system")


@pytest.mark.parametrize("uri", ["qemu+tls://localhost/system", "qemu+ssh://root@127.0.0.1/system"])
@pytest.mark.parametrize("reach", [Host.connect, Host.reach])
def test_a_tunnel_to_another_host_is_refused(
    uri: str, reach: Callable[[str], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else images of its domains that are shut off would be read from this host, under the same paths."""

    class Daemon:
        name = "kvm7.example"

        def getHostname(self) -> str:  # noqa: N802 - libvirt's
            return self.name

    monkeypatch.setattr(libvirt, "open", lambda _: Daemon())
    with pytest.raises(HypervisorError, match=r"is not on this host: it calls its host kvm7\.example"):
        reach(uri)
    monkeypatch.setattr(Daemon, "name", f"{platform.node().partition('.')[0]}.example")
    assert reach(uri).access is LOCAL


def test_libvirt_prints_nothing_by_itself() -> None:
    """A process of its own: the library's handler is set once, before the first connection."""
    script = """
from puller.errors import NoSuchDomain
from puller.hypervisor import connection
from puller.hypervisor.connection import Host
from puller.hypervisor.domain.disks.image import untracked
with Host.connect("test:///default") as host:
    assert host.domain("test").is_running()
    try:
        host.domain("missing")
    except NoSuchDomain:
        print("caught")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("caught\n", "")


def test_the_state_of_a_domain(host: Host, machine_factory: MachineFactory) -> None:
    machine = machine_factory(DiskSpec("vda", MIB))
    domain = host.domain(machine.name)
    assert (domain.is_active(), domain.is_running()) == (True, False)
    machine.resume()
    assert (domain.is_active(), domain.is_running()) == (True, True)
    machine.stop()
    assert (domain.is_active(), domain.is_running()) == (False, False)


def test_disks_are_read_from_the_live_domain(host: Host, machine_factory: MachineFactory) -> None:
    machine = machine_factory(DiskSpec("vda", 3 * MIB), DiskSpec("vdb", 1_000_448, "raw"))
    domain = host.domain(machine.name)
    vda, vdb = domain.disks()
    assert (vda.target, vda.format, vda.path) == ("vda", "qcow2", machine.image("vda"))
    assert (vdb.target, vdb.format, vdb.path) == ("vdb", "raw", machine.image("vdb"))
    assert (domain.disk_size("vda"), domain.disk_size("vdb")) == (3 * MIB, 1_000_448)
    assert (domain.runtime_directory() / "monitor.sock").is_socket()


def test_an_image_too_old_for_bitmaps_is_told(host: Host, machine_factory: MachineFactory) -> None:
    machine = machine_factory(DiskSpec("vda", MIB), DiskSpec("vdb", MIB, "qcow2-v2"))
    vda, vdb = map(with_image_facts, host.domain(machine.name).select_disks([], []))
    assert untracked(vda) is None
    assert str(untracked(vdb)).startswith("a qcow2 image of version 2 cannot hold a dirty bitmap")


SECRET = """
<domain type='test'><name>secret</name><memory>8192</memory><os><type>hvm</type></os>
<devices><graphics type='vnc' passwd='s3cret'/></devices></domain>"""


def test_what_defines_a_domain_again_has_its_passwords() -> None:
    with Host.connect("test:///default") as host:
        connection = libvirt.open("test:///default")
        connection.defineXML(SECRET).create()
        domain = host.domain("secret")
        assert "s3cret" in domain.secure_xml()
        assert "s3cret" not in domain.inactive_xml() + domain.xml()
        assert "<domain type='test' id=" in domain.xml()
        assert "<domain type='test'>" in domain.inactive_xml()


def test_a_signal_in_the_midst_of_an_error_of_libvirts_is_what_is_raised(host: Host) -> None:
    """Else the run would go on: it came out as a SystemError for every third signal."""

    class Signal(BaseException):
        pass

    def stop(number: int, frame: object) -> None:
        raise Signal

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(200):
            with pytest.raises(Signal):
                _ask_on(host)
    finally:
        signal.signal(signal.SIGALRM, before)


def _ask_on(host: Host) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    while True:
        with suppress(NoSuchDomain):
            host.domain("nobody")


def test_two_threads_open_an_embedded_driver_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Domains of one batch do: libvirt refuses the second, and the backup failed by that."""
    opened: list[str] = []
    second = threading.Thread(target=lambda: connection.open_embedded("secret:///embed?root=/none"))

    def opening(uri: str) -> object:
        opened.append(uri)
        if len(opened) == 1:
            second.start()
            second.join(0.5)  # it waits for this, or would open too
        return object()

    monkeypatch.setattr(libvirt, "open", opening)
    first = connection.open_embedded("secret:///embed?root=/none")
    second.join(60)
    assert len(opened) == 1
    assert connection.open_embedded("secret:///embed?root=/none") is first
