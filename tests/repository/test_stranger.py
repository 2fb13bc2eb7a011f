"""docs/format.md is enough: a restorer that shares no code with puller gets the same bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from puller.repository import repository as repositories
from puller.repository.collecting.compaction import compact
from puller.repository.format.address import Address
from puller.repository.format.packname import PackKind
from puller.repository.keys.key_slots import Password
from puller.repository.points import DiskRecord, Point, Ref, new_id
from puller.repository.reading.packs import PackReader
from puller.repository.repository import Repository
from puller.store.directory.folder import FolderStore
from puller.units import CHUNK, PAGE_CHUNKS, Extent, Kind
from tests.lab.feed import store_disk
from tests.lab.history import pack_id_of

STRANGER = Path(__file__).parent.parent / "stranger.py"
UUID = "1f80ae13-49df-4e30-9b5a-d185a32acbbc"


def test_the_stranger_is_one() -> None:
    source = STRANGER.read_text()
    assert "import puller" not in source
    assert "from puller" not in source
    assert len(source.splitlines()) <= 150


def _compact_first(repository: Repository, address: Address) -> None:
    """Take the slots of the overwritten chunks out of the base's pack: the disk does not reach them."""
    name = max((info.size, info.key) for info in repository.store.list("packs/"))[1]
    reader = PackReader(repository.store, repository.keys)
    pack = reader.open(PackKind.DATA, pack_id_of(name))
    root = repository.maps.root(address)
    number = repository.maps.table.number(pack.pack_id)
    reached = {
        int(slot)
        for refs in repository.maps.pages(root, range(2)).values()
        for slot in refs.slots[refs.packs == number]
    }
    dead = set(range(pack.footer.count)) - reached
    assert dead
    compact(repository.store, repository.keys, reader, pack, sum(1 << slot for slot in dead))
    repository.store.delete([name])


@pytest.mark.parametrize("password", [None, "correct horse"])
def test_a_stranger_restores_an_incremental(tmp_path: Path, password: str | None) -> None:
    repository = repositories.create(
        FolderStore(tmp_path / "repository"), Password(password) if password else None
    )
    noise = random.Random(1).randbytes
    size = PAGE_CHUNKS * CHUNK + 5 * CHUNK + 77
    disk = bytearray(noise(40 * CHUNK).ljust(size, b"\0"))
    disk[-100:] = noise(100)
    base, _ = store_disk(repository, bytes(disk))
    disk[CHUNK : 3 * CHUNK] = b"text " * (2 * CHUNK // 5) + b"ab"
    disk[8 * CHUNK : 9 * CHUNK] = bytes(CHUNK)
    extents = [Extent(CHUNK, 2 * CHUNK, Kind.DATA), Extent(8 * CHUNK, CHUNK, Kind.ZERO)]
    root, _ = store_disk(repository, bytes(disk), base, extents)
    now = datetime.now(UTC)
    record = DiskRecord("vda", "incremental", size, Ref.to(root))
    point = Point(new_id(now), "web1", UUID, now, "pull", "incremental", (record,))
    repository.points.commit(point)
    _compact_first(repository, root)
    output = tmp_path / "vda.raw"
    subprocess.run(
        [sys.executable, str(STRANGER), str(tmp_path / "repository"), UUID, point.point, "vda", str(output)],
        check=True,
        env=os.environ | {"PULLER_PASSWORD": password or ""},
    )
    assert output.read_bytes() == bytes(disk)
