"""Booted machines: records, and what is handed to their servers."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import puller
from puller.errors import NoSuchDomain, NotBooted, OutputInUse, OutputRefused, PullerError, UsageError
from puller.hypervisor.connection import Host
from puller.hypervisor.domain import lifecycle
from puller.recovery.booting import discard, image_server, record
from puller.recovery.booting.image_server import wanted_variables
from tests.lab.booted_record import booted


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PULLER_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "booted"


def test_a_record_is_private_and_found_by_its_name(home: Path) -> None:
    folder = record.make_folder(None, "web1-boot")
    record.write(booted(folder))
    assert folder == home / "web1-boot"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    assert stat.S_IMODE((folder / "boot.json").stat().st_mode) == 0o600
    assert record.read("web1-boot") == booted(folder)
    assert list(record.records()) == [booted(folder)]


def test_a_machine_with_a_storage_of_its_own_is_found_and_forgotten(home: Path, tmp_path: Path) -> None:
    folder = record.make_folder(tmp_path / "large", "web1-boot")
    record.write(booted(folder))
    (folder / "vda.qcow2").touch()
    assert record.read("web1-boot").storage == str(tmp_path / "large" / "web1-boot")
    record.forget(booted(folder))
    assert (list(home.iterdir()), list((tmp_path / "large").iterdir())) == ([], [])


def test_a_machine_whose_directory_is_not_mounted_yet_is_not_forgotten(home: Path, tmp_path: Path) -> None:
    """A list after a restart of the host must not take away what finds the guest's writes."""
    folder = record.make_folder(tmp_path / "large", "web1-boot")
    record.write(booted(folder))
    folder.rename(tmp_path / "unmounted")
    assert list(record.records()) == []
    for attempt in (record.read, lambda name: record.make_folder(None, name)):
        with pytest.raises(NotBooted, match="large/web1-boot is not there") as caught:
            attempt("web1-boot")
        assert caught.value.advice.startswith("Mount")
    (tmp_path / "unmounted").rename(folder)
    assert list(record.records()) == [booted(folder)]
    assert record.read("web1-boot") == booted(folder)


def test_a_directory_that_exists_is_refused(home: Path, tmp_path: Path) -> None:
    folder = record.make_folder(tmp_path / "large", "web1-boot")
    for storage in (None, tmp_path / "large"):
        with pytest.raises(OutputRefused, match="exists") as caught:
            record.make_folder(storage, "web1-boot")
        assert f"delete {home / 'web1-boot'} if it is empty" in caught.value.advice, (
            "nothing can be discarded"
        )
    record.write(booted(folder))
    with pytest.raises(OutputRefused) as caught:
        record.make_folder(None, "web1-boot")
    assert "run 'puller boot --discard web1-boot'" in caught.value.advice


@pytest.mark.parametrize("name", ["../web1", "a/b", ".hidden"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a machine"):
        record.make_folder(None, name)
    with pytest.raises(NotBooted):
        record.read(name)


def test_a_file_of_somebody_elses_is_not_deleted_with_a_machine(tmp_path: Path) -> None:
    folder = record.make_folder(None, "web1-boot")
    record.write(booted(folder))
    (folder / "notes").write_text("mine")
    with pytest.raises(PullerError, match="not empty"):
        record.forget(booted(folder))
    assert (folder / "notes").read_text() == "mine"


def test_a_record_that_cannot_be_read_is_an_error_of_one_line(home: Path) -> None:
    folder = record.make_folder(None, "web1-boot")
    (folder / "boot.json").write_bytes(b"{")
    with pytest.raises(PullerError, match="cannot read the record of a booted machine"):
        record.read("web1-boot")


def test_a_state_that_is_not_known_is_refused() -> None:
    folder = record.make_folder(None, "web1-boot")
    record.write(msgspec.structs.replace(booted(folder), state="asleep"))
    with pytest.raises(PullerError, match="asleep"):
        record.read("web1-boot")


def test_the_server_gets_what_leads_to_the_store_and_no_password() -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1",
        "NO_PROXY": "127.0.0.1",
        "https_proxy": "http://proxy",
        "PULLER_CACHE_DIR": "/cache",
        "HOME": "/root",
        "PULLER_PASSWORD": "secret",
        "PULLER_PASSWORD_FILE": "/etc/puller/password",
        "PULLER_KEY_FILE": "/etc/puller/key",
        "MAIL": "/var/mail/root",
    }
    kept = wanted_variables(environment)
    assert set(environment) - set(kept) == {
        "PULLER_PASSWORD",
        "PULLER_PASSWORD_FILE",
        "PULLER_KEY_FILE",
        "MAIL",
    }


def test_a_guest_waits_a_day_for_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """puller's other servers give up after 150 s. The keys are handed over in a private file."""
    monkeypatch.setattr("puller.recovery.booting.image_server.Supervised.start", lambda *_: None)
    repository = puller.create_repository(str(tmp_path / "repository"), password="x")
    machine = booted(record.make_folder(None, "web1-boot"))
    point: Any = SimpleNamespace(point=machine.point)
    monkeypatch.setattr("puller.recovery.serving.opening.opened_form", lambda *_: b"keys")
    image_server.start(machine, repository, point, {"AWS_REGION": "here", "PULLER_PASSWORD": "x"})
    path = Path(machine.runtime) / "session.json"
    handed = msgspec.json.decode(path.read_bytes(), type=image_server.HandedOver)
    assert (handed.session.patience, handed.session.opened) == (86400, b"keys")
    assert handed.environment == {"AWS_REGION": "here"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


class _Libvirt:
    """A libvirt whose domain ``name`` has the UUID ``uuid`` and uses ``path``; all else is recorded."""

    def __init__(self, name: str, uuid: str, path: str) -> None:
        self.found = SimpleNamespace(name=name, uuid=uuid)
        self._path = path

    def domain(self, uuid: str) -> Any:
        if uuid != self.found.uuid:
            raise NoSuchDomain(f"no domain {uuid}")
        return self.found

    def sources_in_use(self) -> list[tuple[str, str]]:
        return [(self.found.name, self._path)]


def test_a_domain_of_somebody_elses_keeps_the_disks_of_a_machine_that_is_discarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody has defined it on the overlays, perhaps under the machine's old name."""
    machine = booted(record.make_folder(None, "web1-boot"))
    record.write(machine)
    overlay = machine.disks[0].overlay
    removed: list[str] = []
    monkeypatch.setattr(discard, "remove", lambda booted, *_: removed.append(booted.name))
    for name in ("web1-boot", "web1-again"):
        host: Any = _Libvirt(name, "another", overlay)
        with pytest.raises(OutputInUse, match=f"domain {name} uses {overlay}"):
            discard.discard(machine, host, None, lambda _: None)
    assert removed == []
    renamed: Any = _Libvirt("renamed", machine.uuid, overlay)
    discard.discard(machine, renamed, None, lambda _: None)
    assert removed == ["web1-boot"]


def test_a_domain_that_libvirt_defines_after_puller_was_killed_is_removed_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record.make_folder(None, "web1-boot")
    killed = msgspec.structs.replace(booted(folder), state="booting", keep="")
    record.write(killed)
    made: list[bool] = []
    with Host.connect("test:///default") as host:

        def define(*_: object) -> None:
            made.append(True)
            xml = f"<domain type='test'><name>web1-boot</name><uuid>{killed.uuid}</uuid><memory>1</memory>"
            host.define(f"{xml}<os><type>hvm</type></os></domain>", "")

        monkeypatch.setattr(host.scope, "pause", define)
        monkeypatch.setattr(lifecycle, "_REMOVED_WITH_IT", 0)  # libvirt's test driver knows no such flags
        monkeypatch.setattr(lifecycle, "_TPM", 0)
        discard.discard(killed, host, None, lambda _: None)
        assert made, "what is defined now stays"
        assert "web1-boot" not in host.uuids()
    assert list(home.iterdir()) == []
