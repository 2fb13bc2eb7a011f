"""Versions of a file in points that cannot all be looked at, or are not those of one machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

import puller
from puller.errors import AmbiguousPoint, FileUnreadable, NoFilesystem, NoSuchDisk, PullerError
from puller.events import Event, Notice
from puller.recovery.files.entry import FileEntry
from tests.lab.archive import make_point

MOMENT = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
SAME = FileEntry("/file", "file", 5, 0o644, 0, 0, 10**18, None, 1, (1, 1))


class Points:
    """Points of web1, each with a disk that differs from all others, and what a look at each finds."""

    def __init__(self, folder: Path, count: int) -> None:
        self.repository = puller.create_repository(str(folder / "repository"), password=None)
        self.names = [
            make_point(
                self.repository, {"vda": bytes([number]) * 512}, moment=MOMENT + timedelta(hours=number)
            ).point
            for number in range(count)
        ]
        self.found: Mapping[str, FileEntry | PullerError] = {}

    @contextmanager
    def opened(self, repository: object, point: puller.Point, *_: object) -> Iterator[SimpleNamespace]:
        found = self.found[point.point]
        if isinstance(found, PullerError):
            raise found
        yield SimpleNamespace(tree=SimpleNamespace(entry=lambda path: found, followed=lambda path: found))


@pytest.mark.parametrize("error", [NoFilesystem("none"), FileUnreadable("lost"), NoSuchDisk("no disk vda")])
def test_a_point_that_cannot_be_looked_at_ends_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: PullerError
) -> None:
    points = Points(tmp_path, 3)
    points.found = dict(zip(points.names, (SAME, error, SAME), strict=True))
    monkeypatch.setattr("puller.recovery.files.versions.opened", points.opened)
    heard: list[Event] = []
    (version,) = puller.file_versions(points.repository, "web1", "/file", observer=heard.append)
    assert (version.point, version.oldest) == (points.names[2], points.names[0])
    notices = [event for event in heard if isinstance(event, Notice)]
    assert [(event.subject, event.text) for event in notices] == [
        (points.names[1], f"left out: {error.message}")
    ]


def test_points_of_two_machines_are_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = Points(tmp_path, 1)
    other = make_point(points.repository, {"vda": b"x" * 512}, host="elsewhere").point
    points.found = {points.names[0]: SAME, other: SAME}
    monkeypatch.setattr("puller.recovery.files.versions.opened", points.opened)
    with pytest.raises(AmbiguousPoint, match="were taken on 2 hosts"):
        puller.file_versions(points.repository, "web1", "/file")
    (version,) = puller.file_versions(points.repository, "web1", "/file", hosts=["elsewhere"])
    assert version.point == version.oldest == other
