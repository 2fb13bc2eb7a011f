"""Files out of a point, by a real appliance of libguestfs; docs/files.md.

A start of the appliance takes seconds, so one opened point serves most of these tests.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import cast

import pytest

import puller
from puller.cli.program import run
from puller.errors import ApplianceFailed, NoFilesystem, NoSuchFile, OutputRefused, UsageError
from puller.events import Event, Notice
from puller.recovery.files import opening
from puller.recovery.files.copying import copy, make_plan
from puller.recovery.files.devices import DeviceNames
from puller.recovery.files.filesystems import FilesystemFinder, Wanted
from puller.recovery.files.opening import FilesRequest, OpenedPoint, opened
from tests.lab import luks
from tests.lab.archive import make_point
from tests.lab.guest_files import FILESYSTEMS, HOSTILE, MTIME, OWNER, SPARSE, make_disks, payload

PASSPHRASE = luks.PASSPHRASE.decode()
MOMENT = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)


class Scene:
    """A repository with a point of the guest, opened."""

    def __init__(
        self, url: str, repository: puller.Repository, files: OpenedPoint, heard: list[Event]
    ) -> None:
        self.url = url
        self.repository = repository
        self.files = files
        self.heard = heard

    def notices(self) -> list[str]:
        return [event.text for event in self.heard if isinstance(event, Notice)]

    @contextmanager
    def mounted(self, wanted: Wanted) -> Iterator[dict[str, str]]:
        """Other file systems of the same appliance, and then those from before again."""
        guest = self.files.appliance
        names = DeviceNames(["vda", "vdb"], ["/dev/sda", "/dev/sdb"])
        finder = FilesystemFinder(guest, names, self.files.point.point, self.heard.append)
        guest.call("umount_all")
        try:
            yield finder.mount(wanted)
        finally:
            guest.call("umount_all")
            for place in sorted(self.files.filesystems):  # an inspection would take seconds
                guest.call("mount_ro", names.inside(self.files.filesystems[place]), place)


@pytest.fixture(scope="module")
def point_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository with one point, of two disks."""
    folder = tmp_path_factory.mktemp("guest")
    repository = puller.create_repository(str(folder / "repository"), password=None)
    images = make_disks(folder)
    with images["vda"].open("rb") as one, images["vdb"].open("rb") as other:
        disks = {
            "vda": mmap(one.fileno(), 0, access=ACCESS_READ),
            "vdb": mmap(other.fileno(), 0, access=ACCESS_READ),
        }
        make_point(repository, cast("dict[str, bytes]", disks), moment=MOMENT)
    for image in images.values():
        image.unlink()
    return str(folder / "repository")


@pytest.fixture(scope="module")
def scene(point_url: str) -> Iterator[Scene]:
    repository = puller.open_repository(point_url)
    heard: list[Event] = []
    request = FilesRequest(passphrases=("wrong", PASSPHRASE))
    with opened(repository, repository.points.select("web1@latest", ()), request, heard.append) as files:
        yield Scene(point_url, repository, files, heard)


@pytest.fixture
def same_point(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Commands look at the opened point, whatever they ask for."""

    @contextmanager
    def shared(*_: object) -> Iterator[OpenedPoint]:
        yield scene.files

    monkeypatch.setattr(opening, "opened", shared)
    return scene


def test_the_guests_own_table_of_file_systems_is_followed(scene: Scene) -> None:
    assert scene.files.filesystems == {"/": "/dev/vda1", "/home": "/dev/vda2", "/srv": "/dev/vg/data"}
    content = {path: b"".join(scene.files.tree.read(f"{path}/payload")) for path in ("/", "/home", "/srv")}
    assert content == {
        "/": payload("/dev/vda1"),
        "/home": payload("/dev/vda2"),
        "/srv": payload("/dev/vg/data"),
    }


@pytest.mark.parametrize("device", FILESYSTEMS)
def test_one_file_comes_back_byte_for_byte(scene: Scene, device: str, tmp_path: Path) -> None:
    with scene.mounted(Wanted(device)) as places:
        assert places == {"/": device}
        assert b"".join(scene.files.tree.read("/payload")) == payload(device)
        (plan,) = make_plan(scene.files.tree, ["/payload"], str(tmp_path), force=False)
        copy(scene.files.tree, plan)
    assert (tmp_path / "payload").read_bytes() == payload(device)


def test_luks_is_opened_with_the_passphrase_that_fits(scene: Scene) -> None:
    name = scene.files.appliance.call("luks_uuid", "/dev/sdb")
    with scene.mounted(Wanted(f"/dev/mapper/luks-{name}")):
        assert b"".join(scene.files.tree.read("/payload")) == payload("/dev/mapper/secret")


def test_what_cannot_be_mounted_names_the_choice(scene: Scene) -> None:
    with pytest.raises(NoFilesystem) as caught, scene.mounted(Wanted("/dev/vda5")):
        pass
    assert caught.value.message.startswith("cannot mount /dev/vda5 of point ")
    assert "/dev/vda3 (btrfs), /dev/vda4 (ntfs)" in caught.value.advice
    assert caught.value.exit_code == 16


def test_a_version_is_of_what_a_symlink_leads_to(scene: Scene) -> None:
    tree = scene.files.tree
    led, etc = tree.followed(f"{HOSTILE}/absolute"), tree.entry("/etc")
    assert (led.type, led.mtime_ns, led.size) == ("directory", etc.mtime_ns, etc.size)
    assert tree.followed(f"{HOSTILE}/out").type == "symlink"  # it leads nowhere
    assert tree.followed("/configuration/fstab") == tree.entry("/configuration/fstab")


def test_a_directory_is_listed(same_point: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", f"web1@latest:{HOSTILE}", "-r", same_point.url, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    entries = {entry["path"]: entry for entry in document["entries"]}
    assert document["point"] == same_point.files.point.point
    assert entries[f"{HOSTILE}/plain"] == {
        "path": f"{HOSTILE}/plain",
        "type": "file",
        "size": 6,
        "mode": 0o640,
        "uid": OWNER,
        "gid": OWNER,
        "mtime": datetime.fromtimestamp(MTIME, UTC).isoformat().replace("+00:00", "Z"),
    }
    assert entries[f"{HOSTILE}/absolute"]["target"] == "/etc"
    assert entries[f"{HOSTILE}/latin-link"]["target"] == ""
    kinds = {Path(path).name: entry["type"] for path, entry in entries.items()}
    assert {kinds[name] for name in ("out", "device", "pipe", "closed")} == {
        *("symlink", "block", "fifo", "directory")
    }
    assert any("1 names below /hostile are not UTF-8" in text for text in same_point.notices())
    assert run(["ls", "web1@latest:/configuration/hostname", "-r", same_point.url]) == 0
    assert capsys.readouterr().out.split()[-1] == "/configuration/hostname"
    assert run(["ls", "web1@latest:/configuration", "-r", same_point.url]) == 0
    shown = capsys.readouterr().out
    assert "hostname" in shown
    assert run(["ls", "web1@latest:/nothing/here", "-r", same_point.url, "--json"]) == 16
    assert json.loads(capsys.readouterr().out)["error"]["name"] == "NoSuchFile"


def test_names_cannot_forge_lines(same_point: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    run(["ls", f"web1@latest:{HOSTILE}", "-r", same_point.url])
    assert any("new line and ünïcode" in line for line in capsys.readouterr().out.splitlines())


def test_files_are_found_by_name_and_by_path(same_point: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    def found(pattern: str) -> list[str]:
        assert run(["find", "web1@latest", pattern, "-r", same_point.url, "--json"]) == 0
        return [entry["path"] for entry in json.loads(capsys.readouterr().out)["entries"]]

    assert found("payload") == ["/home/payload", "/payload", "/srv/payload"]
    assert found("*/closed/*") == [f"{HOSTILE}/closed/below"]
    assert found("hostn[a]me") == ["/etc/hostname"]
    assert found("nothing") == []


def test_a_copy_has_what_the_file_had(same_point: Scene, tmp_path: Path) -> None:
    done = puller.copy_files(same_point.repository, "web1@latest", [HOSTILE], f"{tmp_path}/made/")
    copied = tmp_path / "made" / HOSTILE[1:]
    assert (copied / "plain").read_bytes() == b"plain\n"
    assert (copied / "new\nline and ünïcode").read_bytes() == b"odd\n"
    assert (copied / "closed" / "below").read_bytes() == b"below\n"
    modes = {
        name: stat.S_IMODE((copied / name).lstat().st_mode) for name in ("plain", "setuid", "closed", ".")
    }
    assert modes == {"plain": 0o640, "setuid": 0o755, "closed": 0o555, ".": 0o750}
    assert (copied / "plain").stat().st_mtime_ns == MTIME * 10**9
    assert (copied / "closed").stat().st_mtime == MTIME + 1
    if os.geteuid() == 0:
        assert (copied / "plain").stat().st_uid == (copied / "closed").stat().st_gid == OWNER
    assert os.getxattr(copied / "plain", "user.colour") == b"blue"
    assert (copied / "plain").samefile(copied / "linked")
    sparse = copied / "sparse"
    assert sparse.stat().st_blocks * 512 < SPARSE // 10
    assert sparse.read_bytes() == b"begin".ljust(SPARSE, b"\0") + b"end"
    assert (copied / "empty").stat().st_size == 0
    assert str((copied / "out").readlink()) == "../../../../../../../../../tmp"
    assert str((copied / "absolute").readlink()) == "/etc"
    skipped = {item.path: item.reason for item in done.copied[0].skipped}
    assert skipped == {
        f"{HOSTILE}/device": "a block is not copied",
        f"{HOSTILE}/latin-link": "a symlink whose target is not UTF-8 is not copied",
        f"{HOSTILE}/pipe": "a fifo is not copied",
        f"{HOSTILE}/setuid": "its setuid or setgid bit is not copied",
    }
    assert {path.name for path in (tmp_path / "made").iterdir()} == {HOSTILE[1:]}


def test_what_exists_is_refused_before_anything_is_copied(same_point: Scene, tmp_path: Path) -> None:
    def take(*paths: str, force: bool = False) -> None:
        puller.copy_files(same_point.repository, "web1@latest", paths, str(tmp_path), force=force)

    (tmp_path / "hostname").write_text("mine")
    with pytest.raises(OutputRefused, match="hostname exists"):
        take("/etc/fstab", "/etc/hostname")
    assert [path.name for path in tmp_path.iterdir()] == ["hostname"]
    take("/etc/fstab", "/etc/hostname", force=True)
    assert (tmp_path / "hostname").read_text() == "of-the-lab\n"
    (tmp_path / "etc").symlink_to("/nonexistent")
    with pytest.raises(OutputRefused, match="etc exists, and directories are not replaced"):
        take("/etc", force=True)
    with pytest.raises(NoSuchFile):
        take("/etc/passwd", "/nothing")
    with pytest.raises(UsageError, match="not an absolute path"):
        take("etc/fstab")


def test_cat_prints_the_file_and_nothing_else(point_url: str) -> None:
    words = ["cat", "web1@latest:/payload", "--filesystem", "/dev/vda3"]
    done = _process(*words, "-r", point_url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == payload("/dev/vda3")


def test_cat_refuses_what_is_no_file(same_point: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    for path, code in (("/etc", 2), (f"{HOSTILE}/pipe", 2), (f"{HOSTILE}/device", 2), ("/nothing", 16)):
        assert run(["cat", f"web1@latest:{path}", "-r", same_point.url]) == code
    assert "is not a regular file but a directory" in capsys.readouterr().err
    assert run(["cat", "web1@latest:/etc/hostname", "-r", same_point.url, "--json"]) == 2


def test_a_mount_shows_the_files_until_a_signal(point_url: str, tmp_path: Path) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no FUSE here")
    folder = tmp_path / "mnt"
    folder.mkdir()
    words = _command(
        "mount", "web1@latest", str(folder), "--filesystem", "/dev/vda1", "-r", point_url, "--json"
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["filesystems"] == {"/": "/dev/vda1"}
        assert (folder / "payload").read_bytes() == payload("/dev/vda1")
        assert "latin-\udcfc" in {path.name for path in (folder / HOSTILE[1:]).iterdir()}
        with pytest.raises(OSError, match="Read-only"):
            (folder / "new").touch()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, b"", b"")
    assert not folder.is_mount()
    assert not any(folder.iterdir())


def test_versions_are_the_points_in_which_the_file_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four points: the file is new, is changed, nothing is changed, and only another part of the disk is."""
    image = tmp_path / "image"
    repository = puller.create_repository(str(tmp_path / "repository"), password=None)
    points = []
    for number, text in enumerate(("old", "newer", None, "")):
        if text is not None:
            _write_image(image, text)
        points.append(
            make_point(repository, {"vda": image.read_bytes()}, moment=MOMENT + timedelta(hours=number)).point
        )
    looked: list[str] = []
    real = opening.opened

    @contextmanager
    def counted(bound: object, point: puller.Point, *rest: object) -> Iterator[OpenedPoint]:
        looked.append(point.point)
        with real(bound, point, *rest) as files:  # type: ignore[arg-type]
            yield files

    monkeypatch.setattr("puller.recovery.files.versions.opened", counted)
    found = puller.file_versions(repository, "web1", "/file")
    assert [(version.point, version.size, version.oldest) for version in found] == [
        (points[3], 5, points[1]),
        (points[0], 3, points[0]),
    ]
    assert found[0].mtime > found[1].mtime
    assert looked == [points[3], points[2], points[0]]  # 2 has the disks of 1


def test_a_stop_leaves_nothing(point_url: str, tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path)}
    words = _command("ls", "web1@latest", "-r", point_url, "-v")
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        assert process.stderr is not None
        while "find file systems" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_a_missing_libguestfs_names_its_package(point_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puller.recovery.files.appliance.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ApplianceFailed, match="libguestfs is not installed") as caught:
        puller.list_files(puller.open_repository(point_url), "web1@latest")
    assert "python3-guestfs" in caught.value.advice


def test_an_appliance_that_does_not_start_is_one_line(
    point_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBGUESTFS_HV", "/bin/false")
    with pytest.raises(ApplianceFailed, match="cannot start libguestfs's appliance: ") as caught:
        puller.list_files(puller.open_repository(point_url), "web1@latest")
    assert "\n" not in caught.value.message


def _write_image(image: Path, text: str) -> None:
    """Put ``text`` into the file of a small ext4; without text, change only another file."""
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    source, name = image.with_name("source"), "file" if text else "other"
    source.write_text(text or "other")
    stamp = MTIME + len(text)
    os.utime(source, (stamp, stamp))
    script = f"rm {name}\nwrite {source} {name}\nset_inode_field {name} mtime @{stamp}\n"
    subprocess.run(
        ["debugfs", "-w", "-f", "-", str(image)], input=script.encode(), check=True, capture_output=True
    )


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "puller.cli", *words]


def _process(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(_command(*words), check=False, capture_output=True, stdin=subprocess.DEVNULL)
