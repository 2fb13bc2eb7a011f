"""What drills are made of: which come first, what is seen on a console, what becomes of a screen."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

import puller
from puller.configuration.drills import DrillSettings, evidences
from puller.configuration.evidence import Evidence, evidence
from puller.errors import CannotDrill
from puller.events import Notice
from puller.recovery.proving.consoles import KEPT, Consoles
from puller.recovery.proving.drill import Conditions, _Drill
from puller.recovery.proving.examining import Examined, Filesystem
from puller.recovery.proving.picture import png_of
from puller.recovery.proving.prove import choose, longest_ago, newest_points
from puller.recovery.proving.waiting import Seen
from puller.repository.points import Point
from puller.repository.records.proofs import LARGEST_SCREENSHOT, Proof, superfluous
from puller.repository.repository import Repository, create
from tests.lab.history import MOMENT, back_up, uuid_of
from tests.lab.memory import MemoryStore

NOW = datetime(2026, 11, 28, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def repository() -> Repository:
    return create(MemoryStore(), None)


# --- which points --------------------------------------------------------------------------------


def test_the_domain_that_was_drilled_longest_ago_comes_first(repository: Repository) -> None:
    for domain in "abcd":
        for day in range(2):
            back_up(repository, domain, [day], moment=MOMENT + day * DAY).commit()
    newest = newest_points(repository.points.all())
    assert {(point.domain, point.time) for point in newest} == {(name, MOMENT + DAY) for name in "abcd"}

    def drilled(domain: str, verdict: str) -> None:
        point = next(point for point in repository.points.all() if point.domain == domain)
        repository.proofs.put((point.uuid, point.point), Proof(NOW, verdict))  # type: ignore[arg-type]

    drilled("b", "proven")
    drilled("a", "failed")
    drilled("d", "proven")
    assert [point.domain for point in longest_ago(repository, newest)] == ["c", "b", "a", "d"]


def test_a_domain_that_is_not_drilled_yet_gets_its_turn_whatever_retention_removes(
    repository: Repository,
) -> None:
    """Each night one drill, and then retention removes all points but the newest."""
    turns = []
    for night in range(6):
        for domain in "abc":
            back_up(repository, domain, [night], moment=MOMENT + night * DAY).commit()
        newest = newest_points(repository.points.all())
        point = longest_ago(repository, newest)[0]
        repository.proofs.put((point.uuid, point.point), Proof(NOW, "proven"))
        turns.append(point.domain)
        kept = {item.point for item in newest}
        gone = [name for name in repository.points.names() if name[1] not in kept]
        repository.points.delete(gone)
        repository.proofs.delete(superfluous(repository.proofs.listed(), repository.points.names()))
    assert turns == ["a", "b", "c", "a", "b", "c"]


@pytest.mark.parametrize("parallel", [1, 3])
def test_machines_that_cannot_be_drilled_do_not_take_the_turn_of_others(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parallel: int
) -> None:
    """They get no verdict, so they would come first every night."""

    def drill(_: Repository, point: Point, *__: object) -> Proof:
        if point.domain in "ab":
            raise CannotDrill("it has no domain.xml")
        return Proof(NOW, "proven", point.domain)

    monkeypatch.setattr("puller.recovery.proving.prove.drill", drill)
    for domain in "abcde":
        back_up(repository, domain, [1]).commit()
    connect = "test:///default"
    nights = [
        puller.prove(
            repository, count=2, parallel=parallel, connect=connect, directory=str(tmp_path / "drills")
        )
        for _ in range(2)
    ]
    held = [{drill.point.domain for drill in night.held} for night in nights]
    assert (held[0], len(held[1]), "e" in held[1]) == ({"c", "d"}, 2, True)
    assert [sorted(domain for domain, _ in night.failed) for night in nights] == [["a", "b"]] * 2


def test_words_mean_points_or_domains(repository: Repository) -> None:
    old, new = (back_up(repository, "a", [day], moment=MOMENT + day * DAY).commit() for day in (1, 2))
    other = back_up(repository, "b", [3], moment=MOMENT + 3 * DAY).commit()
    assert choose(repository, ["a"], ()) == [new]
    assert choose(repository, [uuid_of("a"), new.point], ()) == [new], "once is enough"
    assert choose(repository, [old.point, other], ()) == [old, other]
    assert choose(repository, [], ()) == [new, other]
    assert choose(repository, [], ["elsewhere"]) == []


# --- evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["agent", "console:login: ", "console:a:b", "tcp:443", "command:/bin/true"])
def test_evidence_in_words(word: str) -> None:
    assert str(evidence(word)) == word


@pytest.mark.parametrize(
    "word",
    [
        *(
            "",
            "smoke",
            "agent:",
            "agent:x",
            "console",
            "console:",
            "console:\n",
            "tcp:",
            "tcp:0",
            "tcp:65536",
        ),
        *("tcp:http", "tcp:٣", "command:true", "command:", f"console:{'x' * 501}", "AGENT"),
    ],
)
def test_what_is_no_evidence_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="invalid evidence"):
        evidence(word)


def test_the_first_pattern_counts() -> None:
    table = evidences({"web*": "tcp:443", "web1": "agent", uuid_of("x"): "agent"})
    settings = DrillSettings(table)
    assert settings.evidence_of("web1", "") == Evidence("tcp", "443")
    assert settings.evidence_of("anything", uuid_of("x")) == Evidence("agent")
    assert settings.evidence_of("db1", "") is None


# --- the console ---------------------------------------------------------------------------------


def test_a_text_is_seen_wherever_it_is_split(tmp_path: Path) -> None:
    consoles, file = Consoles(tmp_path), tmp_path / "console0.log"
    consoles.watch_for("login:")
    consoles.read()
    for part in ("web1 lo", "g", "in", ": "):
        assert not consoles.has_shown("login:")
        with file.open("a") as written:
            written.write(part)
        consoles.read()
    assert consoles.has_shown("login:")
    assert not consoles.panicked


def test_colours_do_not_hide_a_text(tmp_path: Path) -> None:
    consoles = Consoles(tmp_path)
    consoles.watch_for("Reached target multi-user")
    (tmp_path / "console1.log").write_bytes(b"\x1b[0;32mReached target \x1b[0;1;39mmulti-user\x1b[0m\xff")
    consoles.read()
    assert consoles.has_shown("Reached target multi-user")


def test_a_guest_that_prints_without_end_fills_no_disk(tmp_path: Path) -> None:
    consoles, file = Consoles(tmp_path), tmp_path / "console0.log"
    consoles.watch_for("needle")
    file.write_bytes(b"needle" + b"hay" * (3 << 20))
    consoles.read()
    assert consoles.has_shown("needle")
    assert file.stat().st_size == 0
    with file.open("ab") as written:
        written.write(b"Kernel panic - not syncing: no init")
    consoles.read()
    assert consoles.panicked
    assert consoles.log(100).endswith("no init")
    assert len(consoles.log(10 * KEPT)) <= KEPT


def test_several_consoles_share_the_log(tmp_path: Path) -> None:
    consoles = Consoles(tmp_path)
    for number in range(3):
        (tmp_path / f"console{number}.log").write_text(f"{number}" * 1000 if number else " \n")
    consoles.read()
    log = consoles.log(100)
    assert len(log) <= 100
    assert {"1", "2"} <= set(log)


# --- the screen ----------------------------------------------------------------------------------


def _ppm(width: int, height: int, content: bytes) -> bytes:
    return f"P6\n{width} {height}\n255\n".encode() + content


def test_a_picture_becomes_a_small_png() -> None:
    noise = random.Random(1).randbytes(1920 * 1080 * 3)
    png = png_of(_ppm(1920, 1080, noise))
    assert png is not None
    assert len(png) <= LARGEST_SCREENSHOT
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 320


def test_a_png_that_fits_stays_as_it_is() -> None:
    png = png_of(_ppm(720, 400, bytes(720 * 400 * 3)))
    assert png is not None
    assert png_of(png) == png


@pytest.mark.parametrize(
    "bad", [None, b"", b"garbage", b"P6\n9 9\n255\n", b"\x89PNG\r\n\x1a\n" + bytes(300000)]
)
def test_what_is_no_picture_is_left_out(bad: bytes | None) -> None:
    assert png_of(bad) is None


# --- file systems --------------------------------------------------------------------------------


def test_what_speaks_against_a_machine_that_is_not_started() -> None:
    root = Filesystem("/dev/vda2", "ext4")
    swap = Filesystem("/dev/vda3", "swap", is_checked=False)
    sound = Examined((root, swap), ("Debian 12",))
    assert sound.fault == ""
    assert sound.log == (
        "/dev/vda2 (ext4): sound\n/dev/vda3 (swap): not checked\noperating system: Debian 12"
    )
    bad = Filesystem("/dev/vdb", "xfs", "xfs_repair -n finds damage")
    assert Examined((root, bad), ("Debian 12",)).fault == "damaged file systems: /dev/vdb"
    assert "no operating system" in Examined((root,), ()).fault
    assert "no operating system" in Examined((), ()).fault


@pytest.mark.parametrize("kind", ["crypto_LUKS", "BitLocker"])
def test_nothing_is_said_about_a_machine_whose_system_is_encrypted(kind: str) -> None:
    """Its system cannot be found, which is no fault of the backup's."""
    boot = Filesystem("/dev/vda1", "ext4")
    hidden = Filesystem("/dev/vda2", kind, is_checked=False)
    assert Examined((boot, hidden), ()).encrypted == ("/dev/vda2",)
    assert Examined((boot, hidden), ("Debian 12",)).encrypted == ()
    bad = Filesystem("/dev/vda1", "ext4", "it cannot be mounted")
    assert Examined((bad, hidden), ()).encrypted == ()
    assert Examined((boot,), ()).encrypted == ()


# --- the verdict ---------------------------------------------------------------------------------


def _drill(point: Point, repository: Repository) -> _Drill:
    return _Drill(
        repository, point, Conditions("test:///default", Path("/")), cast(Any, None), lambda _: None
    )


@pytest.mark.parametrize(
    "text",
    [
        "the store does not answer; trying again for 150 s: connection refused",
        "cannot read disk vda at byte 65536: access denied",
    ],
)
def test_a_guest_that_waited_for_the_store_has_not_failed(repository: Repository, text: str) -> None:
    """Its disk was slow or gave errors for a reason that the backup has nothing to do with."""
    point = back_up(repository, "a", [1]).commit()
    told = _drill(point, repository)
    told._hear(Notice(point.point, text))
    with pytest.raises(CannotDrill, match="the store") as caught:
        told.verdict(Seen(None, 300.0, "no evidence within 300 s"))
    assert text in caught.value.message
    assert told.verdict(Seen(Evidence("agent"), 20.0)).verdict == "proven"


def test_a_guest_that_came_across_damage_has_failed(repository: Repository) -> None:
    point = back_up(repository, "a", [1]).commit()
    told = _drill(point, repository)
    told._hear(Notice(point.point, "disk vda is damaged from byte 0 to 65535: wrong key"))
    proof = told.verdict(Seen(None, 300.0, "no evidence within 300 s"))
    assert (proof.verdict, "vda is damaged" in proof.reason) == ("failed", True)
