"""What other programs and later versions of puller may store: no command fails for it or removes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import puller
from puller.diagnosis.finding import Status
from puller.diagnosis.repository import foreign_objects
from puller.errors import DamagedData, UnknownKind
from puller.events import Event, Notice
from puller.repository.foreign import foreign
from puller.repository.format.names import FOLDERS, is_foreign
from puller.repository.format.sealing import BOX_HEADER, BOX_MAGIC, Boxes, BoxKind
from puller.repository.keys.key_slots import KeyFile
from puller.repository.keys.keyring import KeyRing
from puller.repository.reading.image import DiskImage
from puller.repository.repository import open_repository
from puller.upkeep.checking.check import check
from puller.upkeep.checking.schedule import Reading
from tests.cli.conftest import CommandLine, cli, nothing_in_the_environment  # noqa: F401 - fixtures
from tests.fuzz import _KEY_FILE, Target
from tests.lab.feed import read_disk
from tests.lab.history import back_up, uuid_of
from tests.mutation import BOX_KINDS

LATER_KIND = 200
MAPS = ("tags", "packs")
"""JSON objects whose members are entries: a later version may not add others."""

UUID = uuid_of("a")
POINT = "20990101T000000Z-00000000"
RANDOM = "5" * 32
FOREIGN = {
    **{f"{folder}README": b"of somebody else" for folder in FOLDERS},
    **{f"{folder}deep/er/{RANDOM}": b"of somebody else" for folder in FOLDERS},
    f"points/{UUID}/{POINT}": b"",
    f"pending/{UUID}/{POINT}": b"",
    f"points/{UUID}/20990101T000000Z-11111111/note": b"below a point",
    f"keys/{'5' * 16}": b"",
    f"packs/55/{RANDOM}": b"",
    f"maps/55/{RANDOM}": b"",
    f"index/{RANDOM}": b"",
    f"condemned/{RANDOM}": b"",
    f"damaged/{RANDOM}": b"",
    f"verified/{RANDOM}": b"",
    f"proofs/{UUID}/{POINT}/{RANDOM}": b"",
    f"locks/prune/{RANDOM}": b"without a number",
}
"""All in the folders of the repository, and nothing of puller's."""


def later(boxes: Boxes, keys: KeyRing) -> dict[str, bytes]:
    """Objects of kinds to come, rightly sealed, and of no kind at all."""
    sealed = {
        f"points/{UUID}/20990202T000000Z-00000000": LATER_KIND,
        f"pending/{UUID}/20990202T000000Z-00000000": LATER_KIND,
        f"condemned/{'6' * 32}": LATER_KIND,
        f"damaged/{'6' * 32}": LATER_KIND,
        f"quotas/{RANDOM}": LATER_KIND,
    }
    made = {name: box_of(boxes, kind, name) for name, kind in sealed.items()}
    return made | {"README": b"of somebody else", "other/program/file": b"", "later.json": b'{"version": 9}'}


def box_of(boxes: Boxes, kind: int, name: str) -> bytes:
    """A box of any kind, as a later version would seal it."""
    head = BOX_MAGIC + bytes((1, kind, boxes._cipher, 0))
    nonce = bytes(BOX_HEADER - len(head))
    return head + nonce + boxes._seal.seal(nonce, b"later", boxes._aad(head, name))


def enriched(value: Any, inside: str = "") -> Any:
    """The JSON with members that nobody knows yet, at every level."""
    if isinstance(value, list):
        return [enriched(item) for item in value]
    if not isinstance(value, dict):
        return value
    known = {name: enriched(member, name) for name, member in value.items()}
    if inside in MAPS:
        return known
    return known | {"later": {"deep": [1, None]}, "copied_from": {"repository": "00", "point": POINT}}


def with_later_members(target: Target) -> dict[str, bytes]:
    """All objects that hold JSON, enriched."""
    boxes, changed = target.template.keys.boxes(), {}
    for name, body in target.objects.items():
        kind = next((kind for prefix, kind in BOX_KINDS.items() if name.startswith(prefix)), None)
        if kind is None and (name.startswith("keys/") or name == "repository.json"):
            changed[name] = msgspec.json.encode(enriched(msgspec.json.decode(body)))
        elif kind is not None:
            content = enriched(msgspec.json.decode(boxes.unpack(kind, name, body)))
            changed[name] = boxes.pack(kind, name, msgspec.json.encode(content))
    return changed


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULLER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield Target.make(_KEY_FILE)


@pytest.fixture
def planted(target: Target) -> dict[str, bytes]:
    keys = target.template.keys
    return FOREIGN | later(keys.boxes(), keys)


@pytest.fixture
def folder(
    target: Target, planted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The repository in a folder, with everything planted; the environment names it and its key."""
    root = tmp_path / "repository"
    for name, body in (target.objects | with_later_members(target) | planted).items():
        if name in planted or not name.startswith("locks/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(body)
    (tmp_path / "key").write_bytes(_KEY_FILE.content)
    monkeypatch.setenv("PULLER_REPOSITORY", str(root))
    monkeypatch.setenv("PULLER_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("PULLER_CONFIG", "/dev/null")
    return root


def test_no_command_fails_for_it_and_none_removes_it(
    cli: CommandLine,  # noqa: F811
    target: Target,
    folder: Path,
    planted: dict[str, bytes],
    tmp_path: Path,
) -> None:
    first, second = sorted(target.expected)
    commands = (
        "points",
        "points a",
        f"show {first}",
        "show a@latest",
        "stats",
        "key list",
        "check",
        "check --read-data",
        f"restore {first} --output {tmp_path / 'one'}",
        f"restore b@latest --output {tmp_path / 'two'}",
        f"keep {first} --note mine",
        f"release {second}",
        "prune --keep-last 1 --dry-run",
        "prune --keep-last 1",
        "prune --keep-last 1 --grace 0",
        "repair index",
        f"delete {second}",
        "prune --grace 0",
        "check --read-data",
        "points",
    )
    for line in commands:
        answer = cli(*line.split(), "--json")
        assert answer.code == 0, (line, answer.err)
        if line == "points":
            assert {point["point"] for point in answer.document["points"]} <= {*target.expected}
    repository = puller.open_repository(str(folder), key_file=_KEY_FILE.content)
    point = back_up(repository, "a", [1, 9]).commit()
    assert read_disk(repository, point.disks[0].root.address)
    for name, expected in target.expected.items():
        if name != second:
            root = repository.points.select(name).disks[0].root.address
            assert read_disk(repository, root) == expected
            assert DiskImage(repository.maps, repository.packs, root).size == len(expected)
    assert {name: (folder / name).read_bytes() for name in planted} == planted
    shutil.rmtree(folder)


def test_check_and_doctor_name_it_once(target: Target) -> None:
    for name, body in FOREIGN.items():
        target.store.put(name, body)
    try:
        told: list[Event] = []
        check(target.open(), (), Reading(), told.append)
        texts = [event.text for event in told if isinstance(event, Notice)]
        assert len(texts) == 1
        assert f"{len(FOREIGN) - 3} more" in texts[0]
        assert set(foreign(target.store, FOLDERS)) == set(FOREIGN)
        answer = foreign_objects(target.open())
        assert answer.status is Status.WARN and answer.advice
    finally:
        target.store.delete(FOREIGN)
    assert foreign(target.store, FOLDERS) == [], "an object of every kind is puller's own"
    assert not is_foreign(f"kept/{UUID}/{POINT}/{RANDOM}", 0)
    assert not is_foreign(f"locks/prune/{RANDOM}-00000000", 0)
    assert foreign_objects(target.open()).status is Status.OK


def test_a_later_key_slot_does_not_close_the_others(target: Target) -> None:
    name = next(name for name in target.objects if name.startswith("keys/"))
    slot = msgspec.json.decode(target.objects[name]) | {"version": 2, "kind": "tpm"}
    target.store.put(f"keys/{'0' * 15}1", msgspec.json.encode(slot))
    try:
        assert open_repository(target.store, target.secret).points.names()
        with pytest.raises(UnknownKind) as unknown:
            open_repository(target.store, KeyFile(bytes(32)))
        assert "Upgrade" in unknown.value.advice
    finally:
        target.store.delete([f"keys/{'0' * 15}1"])


def test_a_kind_counts_as_later_only_if_its_seal_says_so(target: Target) -> None:
    boxes, name = target.template.keys.boxes(), f"condemned/{RANDOM}"
    with pytest.raises(UnknownKind):
        boxes.unpack(BoxKind.CONDEMNED, name, box_of(boxes, LATER_KIND, name))
    flipped = bytearray(boxes.pack(BoxKind.CONDEMNED, name, b"{}"))
    flipped[5] = LATER_KIND
    with pytest.raises(DamagedData) as damaged:
        boxes.unpack(BoxKind.CONDEMNED, name, bytes(flipped))
    assert not isinstance(damaged.value, UnknownKind)
