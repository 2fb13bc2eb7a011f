"""How a repository's place is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from puller.errors import UsageError
from puller.store.directory.folder import FolderStore
from puller.store.location import FolderLocation, Location, S3Location, open_store, parse


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/", S3Location("bucket", "")),
        ("s3://bucket/prefix", S3Location("bucket", "prefix")),
        ("s3://my.bucket-1/a/b c/", S3Location("my.bucket-1", "a/b c")),
        ("/srv/backup", FolderLocation(Path("/srv/backup"))),
        ("/srv/backup/", FolderLocation(Path("/srv/backup"))),
        ("/srv/x/../backup", FolderLocation(Path("/srv/backup"))),
        ("file:///srv/backup", FolderLocation(Path("/srv/backup"))),
        ("file:///srv/my%20backup", FolderLocation(Path("/srv/my backup"))),
    ],
)
def test_understood(url: str, expected: Location) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize("url", ["./x", "../x", ".", ".."])
def test_relative_paths_become_absolute(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert parse(url) == FolderLocation((tmp_path / "here" / url).resolve())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "backup",
        "s3:bucket",
        "s3://",
        "s3:///prefix",
        "s3://ab",
        "s3://bucket name/x",
        "s3://bucket//x/y/../z",
        "s3://bucket/x//y",
        "s3://bucket/.hidden",
        "file://host/path",
        "file:relative",
        "https://bucket.s3.amazonaws.com/x",
        "sftp://host/x",
        "/zero\0byte",
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(url)
    assert "s3://bucket/prefix" in caught.value.advice


def test_credentials_in_the_url_are_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse("s3://AKIAKEY:secret@bucket/prefix")
    assert "secret" not in str(caught.value) + caught.value.advice


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/a/b", "/srv/backup"])
def test_url_leads_back(url: str) -> None:
    location = parse(url)
    assert location.url == url
    assert parse(location.url) == location


def test_opening_a_folder_touches_nothing_and_loads_no_boto(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "repository"))
    assert isinstance(store, FolderStore)
    assert store.url == str(tmp_path / "repository")
    assert list(tmp_path.iterdir()) == []
    code = "import sys, puller.store.location as at; at.open_store('/x'); print('boto3' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
