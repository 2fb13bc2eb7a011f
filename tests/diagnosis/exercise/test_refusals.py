"""What an exercise does not begin, and what it cannot delete."""

from __future__ import annotations

from pathlib import Path

import puller
from puller.diagnosis.doctor import exercise_store
from puller.store.base import Body
from puller.store.directory.folder import FolderStore
from puller.store.wrapping.wrapped import WrappedStore
from tests.diagnosis import lying
from tests.diagnosis.exercise.exercising import SMALL, faults, tried
from tests.lab.memory import MemoryStore


def test_nothing_is_put_where_nothing_may_be_deleted() -> None:
    store = MemoryStore()
    report = tried(lying.MayNotDelete(store))
    assert faults(report) == {"exercise": "fail: cannot delete objects: access denied"}
    assert [finding.advice for finding in report.findings] == [
        "Exercise the store with the credentials that prune: they may put and delete under locks/."
    ]
    assert list(store.list("")) == []


def test_what_cannot_be_deleted_is_told() -> None:
    store = MemoryStore()
    found = faults(tried(lying.KeepsAll(store)))
    folder = next(iter(store.list(""))).key.rpartition("/")[0].partition("/")[2].partition("/")[0]
    count = sum(1 for _ in store.list(""))
    assert found == {
        "exercise-delete": "fail: 64 of 64 objects could still be read right after they were deleted",
        "exercise-list-delete": "fail: 64 of 64 objects were still listed right after they were deleted",
        "exercise-delete-many": "fail: 1050 of 1050 objects were still listed after a deletion "
        "of all of them",
        "exercise-left": f"fail: {count} objects are left under locks/{folder}/",
    }


def test_nothing_is_tried_without_a_repository(tmp_path: Path) -> None:
    report = exercise_store(FolderStore(tmp_path / "slip"), SMALL, str)
    assert faults(report) == {"exercise": "fail: not tried, because there is no repository"}
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_tried_after_a_failed_check(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    puller.create_repository(str(tmp_path))
    found = faults(exercise_store(Unwritable(store), SMALL, str))
    assert found["exercise"] == "fail: not tried, because a check of the store has failed"


class Unwritable(WrappedStore):
    def put(self, key: str, body: Body) -> None:
        raise puller.StoreDenied("cannot store it: access denied")

    def put_new(self, key: str, body: Body) -> None:
        raise puller.StoreDenied("cannot store it: access denied")
