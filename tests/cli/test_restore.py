"""``restore``: where it writes, what it refuses, what it says of damage."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import puller
from puller.units import CHUNK
from tests.cli.conftest import CommandLine
from tests.lab.archive import DOMAIN_XML, data_packs, make_point

pytestmark = pytest.mark.usefixtures("repository_in_the_environment")

CONTENT = os.urandom(3 * CHUNK) + bytes(2 * CHUNK) + os.urandom(CHUNK + 512)
OTHER = os.urandom(CHUNK)


@pytest.fixture
def point(repository: puller.Repository) -> puller.Point:
    return make_point(repository, {"vda": CONTENT, "vdb": OTHER})


def test_into_a_folder(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    answer = cli("restore", point.point, "--output", str(tmp_path / "out"), "--json")
    document = answer.document
    assert document.keys() == {"point", "disks"}
    assert document["point"] == point.point
    by_disk = {disk["disk"]: disk for disk in document["disks"]}
    assert by_disk.keys() == {"vda", "vdb"}
    assert by_disk["vda"].keys() == {"disk", "output", "bytes_written", "seconds", "format"}
    assert by_disk["vda"]["output"] == str(tmp_path / "out" / "vda.raw")
    assert by_disk["vda"]["bytes_written"] == len(CONTENT) - 2 * CHUNK
    assert (tmp_path / "out" / "vda.raw").read_bytes() == CONTENT
    assert (tmp_path / "out" / "vdb.raw").read_bytes() == OTHER
    assert (tmp_path / "out" / "domain.xml").read_bytes() == DOMAIN_XML
    assert (tmp_path / "out" / "restored.xml").stat().st_mode & 0o777 == 0o600
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_each_disk_is_told_once(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    """As a result, or, where the result is a document, as progress; zeros are not counted as written."""
    answer = cli("restore", point.point, "--output", str(tmp_path / "out"))
    assert [line.split(" (")[1].split(" in ")[0] for line in answer.out.splitlines()] == [
        "256 KiB written",
        "64.0 KiB written",
    ]
    assert [line for line in answer.err.splitlines() if "written" in line] == []
    answer = cli("restore", point.point, "--output", str(tmp_path / "json"), "--json")
    lines = [line for line in answer.err.splitlines() if "written" in line]
    assert [line.split(" in ")[0] for line in lines] == [
        f"{point.point}: vda: 256 KiB written",
        f"{point.point}: vdb: 64.0 KiB written",
    ]
    assert cli("restore", point.point, "--output", str(tmp_path / "quiet"), "-q").err == ""


def test_one_disk_into_a_file(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    output = tmp_path / "disk.img"
    assert cli("restore", "web1@latest", "--disk", "vdb", "-o", str(output), "--json").document["disks"]
    assert output.read_bytes() == OTHER


def test_as_qcow2(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    arguments = [
        "restore",
        point.point,
        "--disk",
        "vda",
        "--format",
        "qcow2",
        "-o",
        str(tmp_path / "out") + "/",
    ]
    assert cli(*arguments, "--json").document["disks"][0]["output"].endswith("/vda.qcow2")
    subprocess.run(
        ["qemu-img", "convert", "-O", "raw", tmp_path / "out/vda.qcow2", tmp_path / "raw"], check=True
    )
    assert (tmp_path / "raw").read_bytes() == CONTENT


def test_a_disk_that_the_point_lacks(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    error = cli("restore", point.point, "--disk", "vdz", "-o", str(tmp_path / "x"), "--json").error
    assert (error["code"], error["name"]) == (16, "NoSuchDisk")
    assert "vdz" in error["message"]
    assert "vda, vdb" in error["message"]


def test_an_output_that_exists(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    output = tmp_path / "disk.img"
    output.write_text("precious")
    restore = ["restore", point.point, "--disk", "vdb", "-o", str(output), "--json"]
    error = cli(*restore).error
    assert (error["code"], error["name"]) == (2, "OutputRefused")
    assert str(output) in error["message"]
    assert output.read_text() == "precious"
    assert cli(*restore, "--force").code == 0
    assert output.read_bytes() == OTHER


def test_a_folder_that_holds_one_of_the_files(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    (tmp_path / "vdb.raw").write_text("precious")
    assert cli("restore", point.point, "-o", str(tmp_path), "--json").error["name"] == "OutputRefused"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repository", "vdb.raw"]


@pytest.mark.parametrize("output", ["file/below", "/proc/x", "/dev/null/x", "a\0b", "a\ud800b", "a" * 300])
def test_an_output_that_cannot_be_written(
    cli: CommandLine, point: puller.Point, tmp_path: Path, output: str
) -> None:
    (tmp_path / "file").touch()
    error = cli("restore", point.point, "-o", str(tmp_path / output), "--json").error
    assert error["code"] in (1, 2)
    assert error["name"] in ("OutputRefused", "OutputFailed")


def test_an_output_without_a_name(
    cli: CommandLine, point: puller.Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script gives it whose variable is not set: this folder is not what is meant."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert cli("restore", point.point, "-o", "", "--json").error["name"] == "OutputRefused"
    assert set(tmp_path.iterdir()) == before


def test_a_disk_that_is_named_twice(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    words = ("restore", point.point, "--disk", "vda", "--disk", "vda", "-o", str(tmp_path / "out.raw"))
    (disk,) = cli(*words, "--json").document["disks"]
    assert disk["output"] == str(tmp_path / "out.raw")


class Export:
    """An image of ``size`` bytes that ``qemu-nbd`` serves on a socket."""

    def __init__(self, folder: Path, size: int) -> None:
        self.image = folder / "export.img"
        self.image.write_bytes(b"\xff" * size)
        self.uri = f"nbd+unix:///?socket={folder}/nbd"
        self._pidfile = folder / "nbd.pid"
        self._command = ["qemu-nbd", "-f", "raw", "-k", f"{folder}/nbd", "--pid-file", str(self._pidfile)]

    def __enter__(self) -> Export:
        subprocess.run([*self._command, "--fork", "--persistent", self.image], check=True)
        return self

    def __exit__(self, *unused: object) -> None:
        os.kill(int(self._pidfile.read_text()), 15)


def test_into_an_export(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    with Export(tmp_path, 8 * CHUNK) as export:
        assert cli("restore", point.point, "--disk", "vda", "-o", export.uri, "--json").document
    assert export.image.read_bytes()[: len(CONTENT)] == CONTENT


def test_an_output_that_is_too_small(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    with Export(tmp_path, CHUNK) as export:
        error = cli("restore", point.point, "--disk", "vda", "-o", export.uri, "--json").error
    assert (error["code"], error["name"]) == (2, "OutputRefused")
    assert str(len(CONTENT)) in error["message"]
    assert export.image.read_bytes() == b"\xff" * CHUNK


def test_an_export_that_is_not_there(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    uri = f"nbd+unix:///?socket={tmp_path}/nothing"
    error = cli("restore", point.point, "--disk", "vda", "-o", uri, "--json").error
    assert (error["code"], error["name"]) == (1, "OutputFailed")


def _hurt(folder: Path, pack: Path, how: str) -> None:
    content = pack.read_bytes()
    if how == "truncated":
        pack.write_bytes(content[: len(content) // 2])
    elif how == "swapped":
        other = next(path for path in data_packs(folder) if path != pack)
        pack.write_bytes(other.read_bytes())
    elif how == "flipped bit":
        pack.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    else:
        pack.unlink()


def _pack_of_vda(folder: Path) -> Path:
    """The largest pack: of what cannot be compressed vda has the most."""
    return max(data_packs(folder), key=lambda path: path.stat().st_size)


DAMAGES = ["truncated", "swapped", "flipped bit", "missing"]


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_names_point_disk_and_offset_and_spares_the_others(
    cli: CommandLine, point: puller.Point, folder: Path, tmp_path: Path, how: str
) -> None:
    _hurt(folder, _pack_of_vda(folder), how)
    out = tmp_path / "out"
    error = cli("restore", point.point, "-o", str(out), "--json").error
    assert error["code"] == 13
    for word in (point.point, "disk vda", "bytes 0 to "):
        assert word in error["message"]
    assert "--salvage" in error["advice"]
    assert sorted(path.name for path in out.iterdir()) == ["domain.xml", "restored.xml", "vdb.raw"]
    assert (out / "vdb.raw").read_bytes() == OTHER


@pytest.mark.parametrize("how", DAMAGES)
def test_salvage_writes_the_rest(
    cli: CommandLine, point: puller.Point, folder: Path, tmp_path: Path, how: str
) -> None:
    _hurt(folder, _pack_of_vda(folder), how)
    out = tmp_path / "out"
    answer = cli("restore", point.point, "-o", str(out), "--salvage", "--json")
    assert answer.error["code"] == 13
    assert point.point in answer.error["message"]
    assert [disk["disk"] for disk in answer.document["disks"]] == ["vda", "vdb"]
    damage = answer.document["damage"]
    assert all(lost.keys() == {"disk", "offset", "length", "message"} for lost in damage)
    assert {lost["disk"] for lost in damage} == {"vda"}
    expected = bytearray(CONTENT)
    for lost in damage:
        expected[lost["offset"] : lost["offset"] + lost["length"]] = bytes(lost["length"])
    assert (out / "vda.raw").read_bytes() == expected
    assert (out / "vdb.raw").read_bytes() == OTHER
    if how == "flipped bit":
        assert [(lost["offset"], lost["length"]) for lost in damage] == [(0, CHUNK)]


def test_salvage_of_a_sound_point_has_lost_nothing(
    cli: CommandLine, point: puller.Point, tmp_path: Path
) -> None:
    answer = cli("restore", point.point, "-o", str(tmp_path / "out"), "--salvage", "--json")
    assert (answer.code, answer.document["damage"]) == (0, [])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--in-place --define", "cannot combine --in-place and --define"),
        ("--in-place --output x", "cannot combine --in-place and --output"),
        ("--in-place --disk vda=x", "cannot combine --in-place and --disk TARGET=PATH"),
        ("--define --output x --salvage", "cannot combine --define and --salvage"),
        ("--output x --compare", "--compare needs --in-place"),
        ("--output x --name copy", "--name needs --define"),
        ("--output x --dry-run", "--dry-run needs --in-place or --define"),
        ("--disk vda=x --disk vda=y", "vda is given two values"),
        ("--define --disk vda=x --map-disk vda=y", "vda is given two values"),
        ("--define --map-disk vda", "invalid --map-disk 'vda'"),
        ("--define --name copy", "restore --define needs --output, --pool or --map-disk"),
        ("--define --output x --map-network old", "invalid --map-network 'old'"),
    ],
)
def test_options_that_do_not_go_together(
    cli: CommandLine, point: puller.Point, options: str, said: str
) -> None:
    error = cli("restore", point.point, *options.split(), "--json").error
    assert (error["code"], error["message"]) == (2, said)


def test_each_disk_to_a_place_of_its_own(cli: CommandLine, point: puller.Point, tmp_path: Path) -> None:
    places = {"vda": str(tmp_path / "a.raw"), "vdb": str(tmp_path / "b" / "b.img")}
    words = [word for target, place in places.items() for word in ("--disk", f"{target}={place}")]
    document = cli("restore", point.point, *words, "--json").document
    assert {disk["disk"]: disk["output"] for disk in document["disks"]} == places
    assert (tmp_path / "a.raw").read_bytes() == CONTENT
    assert (tmp_path / "b" / "b.img").read_bytes() == OTHER
