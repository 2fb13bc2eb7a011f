"""Proofs: what a drill has found is stored, listed by the newest, readable by who may read guests only."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from puller.errors import DamagedData
from puller.repository.format.sealing import BoxKind
from puller.repository.keys.key_slots import BACKUP_ONLY, KeyFile, Password, add_slot, open_slot
from puller.repository.records.proofs import (
    KEPT,
    LARGEST_SCREENSHOT,
    LONGEST_LOG,
    Proof,
    decode,
    superfluous,
)
from puller.repository.repository import Repository, create, open_repository
from puller.store.base import ObjectInfo
from tests.lab.history import uuid_of
from tests.lab.memory import MemoryStore

NOW = datetime(2026, 11, 28, 3, 10, tzinfo=UTC)
UUID, OTHER = uuid_of("a"), uuid_of("b")
POINT = (UUID, "20261128T020000Z-00000000")
PROOF = Proof(NOW, "proven", "web1", "kvm2", "console:login:", 21.4, "", "login:", b"\x89PNG")
PASSWORD = Password("correct horse")


@pytest.fixture(params=[None, PASSWORD], ids=["plain", "encrypted"])
def repository(request: pytest.FixtureRequest) -> Repository:
    return create(MemoryStore(), request.param)


def _info(uuid: str, point: str, number: int, modified: float) -> ObjectInfo:
    return ObjectInfo(f"proofs/{uuid}/{point}/{number:032x}", 1, modified, "")


def test_what_was_put_is_read(repository: Repository) -> None:
    repository.proofs.put(POINT, PROOF)
    assert repository.proofs.newest() == repository.proofs.newest(*POINT) == {POINT: PROOF}
    assert repository.proofs.newest_of_domains() == {UUID: PROOF}
    assert repository.proofs.newest(OTHER) == {}


def test_the_newest_by_the_clock_of_the_store_counts() -> None:
    store = MemoryStore()
    repository = create(store, None)
    first = repository.proofs.put(POINT, replace(PROOF, time=NOW + timedelta(days=99)))
    later = replace(PROOF, verdict="failed", reason="no evidence within 300 s")
    second = repository.proofs.put((UUID, "20261101T020000Z-00000000"), later)
    assert repository.proofs.newest_of_domains() == {UUID: later}
    assert [info.key for info in repository.proofs.listed()] == [second, first]
    assert set(repository.proofs.times()) == {UUID}


def test_a_backup_only_key_reads_the_verdict_but_neither_log_nor_screen() -> None:
    """It is the guest's screen: who may not read its disks may not read that either."""
    store = MemoryStore()
    full = create(store, PASSWORD)
    full.proofs.put(POINT, PROOF)
    opened = open_slot(store, full.keys.repository_id, full.keys.repository_id, PASSWORD)
    add_slot(store, opened, KeyFile(bytes(32)), BACKUP_ONLY, "host")
    host = open_repository(store, KeyFile(bytes(32)))
    assert host.proofs.newest()[POINT] == replace(PROOF, log="", screenshot=None)
    host.proofs.put((OTHER, POINT[1]), PROOF)
    assert full.proofs.newest()[OTHER, POINT[1]] == PROOF
    assert not any(b"login" in store.get(info.key) for info in store.list("proofs/"))


def test_a_proof_fits_whatever_it_holds(repository: Repository) -> None:
    text, picture = "\N{SNOWMAN}" * 5000, b"\xff" * LARGEST_SCREENSHOT
    largest = Proof(NOW, "failed", text, text, text, 1.0, text, "\N{GRINNING FACE}" * 99999, picture)
    name = repository.proofs.put(POINT, largest)
    assert len(repository.store.get(name)) <= 1 << 20
    read = repository.proofs.newest()[POINT]
    assert (len(read.log), len(read.reason), len(read.host)) == (LONGEST_LOG, 1000, 1000)
    assert read.screenshot == largest.screenshot
    repository.proofs.put(POINT, replace(largest, screenshot=bytes(LARGEST_SCREENSHOT + 1)))
    assert repository.proofs.newest()[POINT].screenshot is None


def test_control_characters_of_a_guest_are_not_stored(repository: Repository) -> None:
    repository.proofs.put(POINT, replace(PROOF, log="a\x1b[31mred\r\n\tb\x00\udcff", host="k\nvm"))
    read = repository.proofs.newest()[POINT]
    assert read.log == "a[31mred\n\tb"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 100000,
        b'{"time": "2026-11-28T03:10:00Z", "verdict": "perhaps"}',
        b'{"time": "2026-11-28T03:10:00", "verdict": "proven"}',
        b'{"time": "9999-12-31T23:59:59-23:59", "verdict": "proven"}',
        b'{"time": "2026-11-28T03:10:00Z", "verdict": "proven", "seconds": -1}',
        b'{"time": "2026-11-28T03:10:00Z", "verdict": "proven", "seconds": 1e300}',
        b'{"time": "2026-11-28T03:10:00Z", "verdict": "proven", "guest": "!"}',
        b'{"time": "2026-11-28T03:10:00Z", "verdict": "proven", "version": 2}',
    ],
)
def test_what_cannot_be_read_proves_nothing_and_hides_nothing(repository: Repository, body: bytes) -> None:
    keys, store = repository.keys, repository.store
    name = repository.proofs.put(POINT, PROOF)
    bad = name[:-4] + "ffff"
    with pytest.raises(DamagedData):
        decode(body, bad, keys)
    store.put(bad, keys.boxes().pack(BoxKind.PROOF, bad, body))
    store.put(name[:-4] + "fffe", b"garbage")
    assert repository.proofs.newest() == {POINT: PROOF}


def test_a_proof_says_nothing_about_another_point(repository: Repository) -> None:
    """It is bound to its name: nobody without a key makes a failed point look proven."""
    name = repository.proofs.put(POINT, PROOF)
    repository.store.put(name.replace(UUID, OTHER), repository.store.get(name))
    assert repository.proofs.newest(OTHER) == {}


def test_of_a_point_the_newest_proofs_stay() -> None:
    infos = [_info(*POINT, number, 100.0 + number) for number in range(KEPT + 3)]
    assert superfluous(infos, {POINT}) == [info.key for info in infos[:3]]


def test_the_last_proof_of_a_domain_outlives_its_point() -> None:
    """So that the domain that was drilled longest ago is still known when retention has removed the point."""
    old, new = "20261101T020000Z-00000000", "20261120T020000Z-00000000"
    infos = [_info(UUID, old, 1, 10.0), _info(UUID, new, 2, 20.0), _info(UUID, new, 3, 15.0)]
    assert superfluous(infos, {POINT}) == [infos[0].key, infos[2].key]
    assert superfluous(infos, {(OTHER, POINT[1])}) == [info.key for info in infos], "the domain is gone"
    standing = _info(*POINT, 4, 30.0)
    assert superfluous([*infos, standing], {POINT}) == [info.key for info in infos]


def test_foreign_names_are_left_alone() -> None:
    assert superfluous([ObjectInfo("proofs/README", 1, 1.0, "")], set()) == []
