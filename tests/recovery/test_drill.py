"""Restore drills of machines that really start, or do not because their disk was destroyed before the backup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

import puller
from puller.configuration.evidence import evidence
from puller.events import ignore
from puller.recovery.proving.drill import Conditions
from puller.recovery.proving.prove import Proofs, prove
from puller.repository.points import Point
from puller.repository.repository import Repository
from tests.lab import bootable

PATIENCE = 60.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return puller.create_repository(str(tmp_path_factory.mktemp("repository") / "r"), password="of the lab")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "sound.raw"
    bootable.make_disk(path)
    return path


@pytest.fixture
def take(
    repository: Repository, disk: Path, libvirt_uri: str, tmp_path: Path
) -> Iterator[Callable[..., Point]]:
    """Backs up a machine with a copy of the disk, perhaps a damaged one, that has never run."""
    connection = libvirt.open(libvirt_uri) if False else puller_connection(libvirt_uri)
    made = []

    def backed_up(damage: bootable.Damage = bootable.sound, **choices: bool) -> Point:
        name = f"drilled{len(made)}-{damage.__name__}"
        image = tmp_path / f"{name}.raw"
        image.write_bytes(disk.read_bytes())
        damage(image)
        made.append(connection.defineXML(bootable.domain_xml(name, image, **choices)))
        return puller.backup(repository, name, connect=libvirt_uri)

    yield backed_up
    for handle in made:
        with suppress(libvirt.libvirtError):
            handle.undefine()


def puller_connection(uri: str) -> libvirt.virConnect:
    from puller.hypervisor.connection import open_embedded

    return open_embedded(uri)


def test_first(repository: Repository, take: Callable[..., Point], tmp_path: Path, libvirt_uri: str) -> None:
    point = take()
    cond = Conditions(libvirt_uri, tmp_path / "drills", evidence("console:" + bootable.READY), PATIENCE)
    found = prove(repository, [point], lambda _: cond, 1, print)
    print(found.failed)
    proof = found.proven[0].proof
    print(proof.verdict, proof.seconds, proof.reason, proof.log[-600:], proof.screenshot and len(proof.screenshot))
    if proof.screenshot: Path("/tmp/prove/shot.png").write_bytes(proof.screenshot)
    assert proof.verdict == "proven"
