"""A process that outlives puller and is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from puller.host import supervision
from puller.host.supervision import Supervised

pytestmark = pytest.mark.skipif(supervision.has_systemd(), reason="systemd supervises here")


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    found = Supervised("puller-test", tmp_path, tmp_path / "log")
    yield found
    found.stop()


def wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def numbers(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def lives(number: int) -> bool:
    with suppress(OSError):
        return ") Z" not in Path(f"/proc/{number}/stat").read_text()
    return False


def test_what_ends_is_started_again(supervised: Supervised, tmp_path: Path) -> None:
    told = tmp_path / "numbers"
    supervised.start(["sh", "-c", f"echo $$ >>{told}; exec sleep 600"])
    wait_for(lambda: len(numbers(told)) == 1)
    assert supervised.is_running()
    os.kill(numbers(told)[0], signal.SIGKILL)
    wait_for(lambda: len(numbers(told)) == 2)
    assert lives(numbers(told)[1])


def test_its_end_is_that_of_all_it_has_started(supervised: Supervised, tmp_path: Path) -> None:
    told = tmp_path / "numbers"
    supervised.start(["sh", "-c", f"sleep 600 & echo $$ $! >>{told}; wait"])
    wait_for(lambda: len(numbers(told)) == 2)
    supervised.stop()
    assert not supervised.is_running()
    assert [number for number in numbers(told) if lives(number)] == []
    supervised.stop()


def test_what_does_not_heed_a_signal_is_killed(
    supervised: Supervised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_END_SECONDS", 0.2)
    told = tmp_path / "numbers"
    supervised.start(["sh", "-c", f"trap '' TERM; echo $$ >>{told}; while :; do sleep 1; done"])
    wait_for(lambda: len(numbers(told)) == 1)
    supervised.stop()
    wait_for(lambda: not lives(numbers(told)[0]))


def test_a_process_that_has_got_the_number_of_a_supervisor_that_is_gone_is_not_ended(
    supervised: Supervised, tmp_path: Path
) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        (tmp_path / "supervisor").write_text(f"{stranger.pid} 1")
        assert not supervised.is_running()
        supervised.stop()
        assert lives(stranger.pid)
        stranger.kill()


def test_a_transient_unit_is_started_again_for_ever() -> None:
    options = supervision.unit_options("puller-boot-1.service")
    assert {"--unit=puller-boot-1.service", "--collect", "--property=Restart=always"} <= set(options)
    assert "--property=StartLimitIntervalSec=0" in options


def test_systemd_is_asked_where_it_is_process_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for systemd's programs: it is not process 1 where the tests run."""
    told = tmp_path / "told"
    for name in ("systemd-run", "systemctl"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{told}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(supervision, "has_systemd", lambda: True)
    supervised = Supervised("puller-boot-1", tmp_path, tmp_path / "log")
    supervised.start(["puller", "serve"])
    assert supervised.is_running()
    supervised.stop()
    begun, asked, stopped = told.read_text().splitlines()
    assert begun.endswith("-- puller serve")
    assert asked == "systemctl is-active -q puller-boot-1.service"
    assert stopped == "systemctl stop puller-boot-1.service"
    assert not (tmp_path / "log").exists()
