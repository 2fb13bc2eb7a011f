"""Exercises of a directory, of a real server, and of what stands before one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import puller
from puller.diagnosis.doctor import exercise_store
from puller.diagnosis.exercise.exercise import NAMES, exercise
from puller.store.directory.folder import FolderStore
from puller.store.s3.bucket import Bucket
from puller.store.s3.s3 import S3Store
from puller.units import MIB
from tests.diagnosis.caching import caching_gateway
from tests.diagnosis.exercise.exercising import SMALL, faults
from tests.lab.memory import MemoryStore
from tests.lab.seaweed import Seaweed


def test_a_directory_is_as_it_was_before(tmp_path: Path) -> None:
    puller.create_repository(str(tmp_path / "repository"))
    before = sorted(tmp_path.rglob("*"))
    report = exercise_store(FolderStore(tmp_path / "repository"), SMALL, str)
    assert faults(report) == {}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_real_server_has_no_fault(s3: S3Store) -> None:
    before = [info.key for info in s3.list("")]
    report = exercise_store(s3, SMALL, str)
    assert faults(report) == {}
    assert [finding.name for finding in report.findings][-len(NAMES) :] == list(NAMES)
    assert [info.key for info in s3.list("")] == before


def test_a_server_that_ignores_if_match(s3: S3Store) -> None:
    def ignore(params: dict[str, Any], **_: object) -> None:
        params.pop("IfMatch", None)

    s3._client.meta.events.register("before-parameter-build.s3.GetObject", ignore)
    assert faults(exercise(s3, s3.bucket, SMALL, str)) == {
        "exercise-if-match": "warn: the store ignores If-Match on ranged reads"
    }


def test_a_cache_before_a_real_server(s3: S3Store, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [info.key for info in s3.list("")]
    with caching_gateway(seaweed.endpoint) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        report = puller.exercise_store(s3.url, size=MIB)
    assert faults(report) == {
        "exercise-replace": "warn: 64 of 64 objects were read with their old content right after they were "
        "replaced",
        "exercise-list-delete": "fail: 64 of 64 objects were still listed right after they were deleted",
        "exercise-delete-many": "fail: 1050 of 1050 objects were still listed after a deletion "
        "of all of them",
        "exercise-if-match": "warn: the store ignores If-Match on ranged reads",
    }
    assert [info.key for info in s3.list("")] == before


def test_a_bucket_that_would_keep_the_objects_is_left_alone(s3: S3Store) -> None:
    class Locked(type(s3.bucket)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def default_retention(self) -> str:
            return "GOVERNANCE, 3 days"

    before = [info.key for info in s3.list("")]
    assert faults(exercise(s3, Locked(), SMALL, str)) == {
        "exercise": "warn: not tried, because Object Lock would keep its objects (GOVERNANCE, 3 days)"
    }
    assert [info.key for info in s3.list("")] == before


def test_hidden_versions_are_told() -> None:
    class Versioned(Bucket):
        def __init__(self) -> None:
            pass

        def default_retention(self) -> None:
            return None

        def serves_range_if(self, key: str, etag: str) -> bool:
            return False

        def keeps_versions(self) -> bool:
            return True

    report = exercise(MemoryStore(), Versioned(), SMALL, str)
    assert {finding.name: finding.text for finding in report.findings}["exercise-left"] == (
        "all objects are deleted; the bucket keeps hidden versions of them"
    )
