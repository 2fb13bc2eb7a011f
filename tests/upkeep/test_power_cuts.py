"""Power cuts at each system call of a repository in a directory: ``docs/reliability.md``, *Power cuts*.

``scripts/soak --power`` plays many more of them.
"""

from __future__ import annotations

import os
import random
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from puller.repository.keys import key_slots
from puller.store.directory import folder, mounts
from puller.store.directory.folder import FolderStore
from tests.lab.power_cut import Disk, Everything, Mixture, Names, Nothing, Tree
from tests.upkeep.planted import commit_before_flush
from tests.upkeep.power_history import LINKED, UNLINKED, Aftermath, cuts, found_fault, recorded

SHARES = {"hard links": (1, 50), "no hard links": (6, 12)}
"""One in so many power cuts is played. After one in so many of these the repository is worked with: another
backup, a check, a prune."""

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where every sync is quick, if there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="puller-", dir=memory if memory.is_dir() else None) as path:
        monkeypatch.setenv("PULLER_CACHE_DIR", f"{path}/cache")
        yield Path(path)


@pytest.mark.parametrize(
    ("name", "refused"), [("hard links", LINKED), ("no hard links", UNLINKED)], ids=[*SHARES]
)
def test_a_power_cut_at_each_call(place: Path, name: str, refused: Mapping[str, int]) -> None:
    share, goes_on = SHARES[name]
    history, log = recorded(place, refused)
    found = list(cuts(history, log, 1, 1))
    assert len(found) > len(log)
    chosen = random.Random(1).sample(found, len(found) // share)
    faults = [
        found_fault(history, cut, place / "state", goes_on=not number % goes_on)
        for number, cut in enumerate(chosen)
    ]
    assert [fault for fault in faults if fault] == []


# --- planted faults -------------------------------------------------------------------------


def _file_unsynced(patch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            fsync(descriptor)

    patch.setattr(os, "fsync", sync)


def _directory_unsynced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folder, "sync_folder", lambda _: True)


def _put_before_its_parent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FolderStore, "_prepare", lambda _, place: place.mkdir(parents=True, exist_ok=True))


def _named_before_it_is_synced(patch: pytest.MonkeyPatch) -> None:
    """Everything is synced when the put returns, but in the wrong order."""
    sync_folder = mounts.sync_folder

    def sync_all(place: Path) -> bool:
        for path in place.iterdir():
            if path.is_file():
                with path.open("rb") as file:
                    fsync(file.fileno())
        return sync_folder(place)

    fsync = os.fsync
    _file_unsynced(patch)
    patch.setattr(folder, "sync_folder", sync_all)


def _deletion_unsynced(patch: pytest.MonkeyPatch) -> None:
    def delete(store: FolderStore, place: Path, keys: list[str]) -> list[Exception]:
        return [error for key in keys for error in store._unlink(key)]

    patch.setattr(FolderStore, "_delete_in", delete)


def _leftovers_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FolderStore, "sweep", lambda *_: None)


def _slots_of_an_unfinished_init_count(patch: pytest.MonkeyPatch) -> None:
    listed = key_slots.list_slots

    def all_listed(store: FolderStore, _: bytes) -> list[object]:
        ids = {key_slots._load(store, info.key).repository for info in store.list("keys/")}
        return [item for name in ids for item in listed(store, bytes.fromhex(name))]

    patch.setattr(key_slots, "list_slots", all_listed)


PLANTED: dict[str, tuple[Plant, Mapping[str, int]]] = {
    "a file is not synced": (_file_unsynced, LINKED),
    "a directory is not synced after a link": (_directory_unsynced, LINKED),
    "a directory is not synced after a rename": (_directory_unsynced, UNLINKED),
    "a put before its parent": (_put_before_its_parent, LINKED),
    "a link before the file is synced": (_named_before_it_is_synced, LINKED),
    "a rename before the file is synced": (_named_before_it_is_synced, UNLINKED),
    "a deletion is not synced": (_deletion_unsynced, LINKED),
    "a point before its packs": (commit_before_flush, LINKED),
    "leftovers stay": (_leftovers_stay, LINKED),
    "slots of an unfinished init count": (_slots_of_an_unfinished_init_count, LINKED),
}

SEEN_LATER = {_leftovers_stay, _slots_of_an_unfinished_init_count}
"""What only shows when the repository is worked with."""


@pytest.mark.parametrize(("plant", "refused"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_fault_is_found(
    plant: Plant,
    refused: Mapping[str, int],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    plant(monkeypatch)
    history, log = recorded(place, refused)
    tried = (
        found_fault(history, cut, place / "state", goes_on=plant in SEEN_LATER)
        for cut in cuts(history, log, 1, 1)
    )
    fault = next((found for found in tried if found), None)
    assert fault is not None
    record_property("found", fault)


# --- the model ------------------------------------------------------------------------------


def _after(*records: tuple[object, ...]) -> Disk:
    disk = Disk()
    for record in records:
        disk.follow(record)
    return disk


class TestModel:
    def test_a_file_whose_directory_is_not_synced(self) -> None:
        disk = _after(("create", 1, "a", 2), ("write", 2, 0, b"content"), ("sync file", 2))
        assert disk.after(Nothing()) == {}
        assert disk.after(Everything()) == {"a": b"content"}

    def test_a_name_whose_file_is_not_synced(self) -> None:
        disk = _after(("create", 1, "a", 2), ("write", 2, 0, b"content"), ("sync directory", 1))
        assert disk.after(Nothing()) == {"a": b""}
        assert disk.after(Names()) == {"a": bytes(7)}

    def test_a_directory_that_its_parent_does_not_name(self) -> None:
        disk = _after(("mkdir", 1, "a", 2), ("create", 2, "b", 3), ("sync file", 3), ("sync directory", 2))
        assert disk.after(Nothing()) == {}
        disk.follow(("sync directory", 1))
        assert disk.after(Nothing()) == {"a": None, "a/b": b""}

    def test_a_rename_takes_effect_as_a_whole(self) -> None:
        disk = _after(("create", 1, "a", 2), ("sync directory", 1), ("rename", 1, "a", 1, "b", 2))
        assert disk.after(Nothing()) == {"a": b""}
        assert disk.after(Everything()) == {"b": b""}

    def test_an_unlink_may_come_back_and_may_be_all_that_is_left(self) -> None:
        disk = _after(("create", 1, "a", 2), ("sync directory", 1), ("link", 1, "b", 2), ("unlink", 1, "a"))
        seen = {frozenset(disk.after(Mixture(seed))) for seed in range(100)}
        assert seen == {frozenset(names) for names in ((), ("a",), ("b",), ("a", "b"))}

    def test_a_torn_write(self) -> None:
        disk = _after(("create", 1, "a", 2), ("sync directory", 1), ("write", 2, 0, b"x" * 2048))
        trees: list[Tree] = [disk.after(Mixture(seed)) for seed in range(400)]
        blocks = {
            tuple((tree["a"] or b"")[place : place + 512] for place in range(0, 2048, 512)) for tree in trees
        }
        assert (b"x" * 512, bytes(512), b"x" * 512, b"x" * 512) in blocks


def test_what_commands_promise_follows_the_log(place: Path) -> None:
    """Of each command: nothing before it, either while it runs, certain after it."""
    history, log = recorded(place)
    for command in history.commands:
        assert not command.made & history.expected(command.begin).certain or command.name == "keep again"
        assert command.made <= history.expected(command.end).certain
        assert not command.ended & history.expected(command.end).certain
    last = history.commands[-1]
    assert last.end == len(log)
    assert (
        Aftermath(history, next(iter(cuts(history, [], 1, 0))), place / "x").expected.certain == frozenset()
    )
