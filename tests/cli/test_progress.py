"""Progress: lines where nobody watches, bars on a terminal; and the words for times and sizes."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import puller
from puller.cli.output.reporting.live import LiveProgress
from puller.cli.output.reporting.measures import BACKUP
from puller.cli.output.reporting.progress import Lines, telling
from puller.cli.output.results.tables import facts, table
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable
from puller.cli.output.times import age, duration, rfc3339
from puller.events import DiskDone, DiskPlanned, DiskProgress, Notice, Step
from puller.units import MIB
from tests.cli.conftest import Terminal, command
from tests.lab.archive import make_point

EVENTS = [
    Step("web1", "read"),
    DiskPlanned("web1", "vda", 64 * MIB, 8 * MIB),
    Notice("web1", "something to know"),
    DiskProgress("web1", "vda", 4 * MIB, MIB, MIB // 2),
    DiskProgress("web1", "vda", 8 * MIB, 5 * MIB, 2 * MIB),
    DiskDone("web1", "vda"),
]


@pytest.mark.parametrize("verbose", [False, True])
def test_lines(capsys: pytest.CaptureFixture[str], verbose: bool) -> None:
    observer = Lines(BACKUP, verbose)
    for event in EVENTS:
        observer(event)
    lines = capsys.readouterr().err.splitlines()
    if verbose:
        assert lines[:2] == ["web1: read", "web1: vda: 8.0 MiB of 64.0 MiB"]
    notice, done = lines[-2:]
    assert notice == "web1: something to know"
    assert done.startswith("web1: vda: 5.0 MiB read, 2.0 MiB stored in ")
    assert len(lines) == (4 if verbose else 2)


def test_bars_take_events_from_many_threads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    counts = range(0, 8 * MIB + 1, 64 * 1024)

    def feed(disk: str) -> None:
        live(DiskPlanned("web1", disk, 8 * MIB, 8 * MIB))
        for count in counts:
            live(DiskProgress("web1", disk, count, count // 2, count // 4))
        live(DiskDone("web1", disk))

    with LiveProgress(BACKUP, verbose=False) as live:
        threads = [threading.Thread(target=feed, args=(f"vd{letter}",)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        live(Notice("web1", "something to know"))
    shown = capsys.readouterr().err
    assert "web1: something to know" in shown
    for letter in "abcd":
        assert f"vd{letter}" in shown
    assert shown.count("4.0 MiB read  2.0 MiB stored") >= 4


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_that_goes_away_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    main, side = pty.openpty()
    with os.fdopen(side, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", term)
        with telling(Settings(said=1), BACKUP) as observer:
            assert isinstance(observer, LiveProgress if term == "xterm" else Lines)
            os.close(main)
            for event in EVENTS:
                observer(event)
        monkeypatch.undo()


def test_a_full_disk_behind_stderr_does_not_change_the_exit_code(
    repository: puller.Repository, folder: Path, tmp_path: Path
) -> None:
    point = make_point(repository, {"vda": b"x"})
    words = command("restore", point.point, "-r", str(folder), "-o", str(tmp_path / "out"), "-v")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stderr=full, stdout=subprocess.PIPE, check=False)
    assert done.returncode == 0
    assert b"vda" in done.stdout


def test_a_restore_on_a_terminal(
    repository: puller.Repository, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    point = make_point(repository, {"vda": bytes(3 * MIB) + os.urandom(MIB)})
    with Terminal(
        "restore", point.point, "-r", str(folder), "-o", str(tmp_path / "out"), "--json"
    ) as terminal:
        answer = terminal.type()
    assert answer.document["disks"][0]["disk"] == "vda"
    assert " 1.0 MiB written  " in answer.err
    assert "4.0 MiB" not in answer.err
    assert "\x1b[" in answer.err


@given(st.text())
def test_what_is_printed_is_one_line_that_steers_nothing(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1


def test_tables_line_up() -> None:
    shown = table(("NAME", ">SIZE"), [("a", "10 B"), ("longer", "2.5 MiB")])
    assert shown.splitlines() == ["NAME       SIZE", "a          10 B", "longer  2.5 MiB"]
    assert facts([("a", "1"), ("long", "2")]).splitlines() == ["a     1", "long  2"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.6, "1 min 0 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=23), "23 h"),
        (timedelta(days=364), "364 d"),
        (timedelta(days=800), "2 y"),
    ],
)
def test_ages(passed: timedelta, text: str) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert age(now - passed, now) == text


def test_times_are_utc() -> None:
    moment = datetime(2026, 11, 23, 6, 0, tzinfo=timezone(timedelta(hours=1)))
    assert rfc3339(moment) == "2026-11-23T05:00:00Z"
    assert rfc3339(moment.replace(microsecond=500000)) == "2026-11-23T05:00:00.500000Z"
