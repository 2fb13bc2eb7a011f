"""A process that outlives puller and is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from puller.host import supervision
from puller.host.supervision import Supervised

pytestmark = pytest.mark.skipif(supervision.has_systemd(), reason="systemd supervises here")


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def start(*command: str, **environment: str) -> Supervised:
        made.append(Supervised(f"puller-test-{tmp_path}", command, tmp_path / "log"))
        made[-1].start(environment or os.environ)
        return made[-1]

    yield start
    for one in made:
        one.stop()


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


def test_what_ends_is_started_again(supervise: Callable[..., Supervised], tmp_path: Path) -> None:
    told = tmp_path / "numbers"
    supervised = supervise("sh", "-c", f"echo $$ >>{told}; exec sleep 600")
    wait_for(lambda: len(numbers(told)) == 1)
    assert supervised.is_running()
    os.kill(numbers(told)[0], signal.SIGKILL)
    wait_for(lambda: len(numbers(told)) == 2)
    assert lives(numbers(told)[1])


def test_it_gets_the_environment_that_it_is_given(
    supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    supervise("/bin/sh", "-c", f"echo $GIVEN-$HOME- >{told}", GIVEN="yes")
    wait_for(lambda: told.exists() and bool(told.read_text()))
    assert told.read_text() == "yes--\n"


def test_its_end_is_that_of_all_it_has_started(supervise: Callable[..., Supervised], tmp_path: Path) -> None:
    told = tmp_path / "numbers"
    supervised = supervise("sh", "-c", f"sleep 600 & echo $$ $! >>{told}; wait")
    wait_for(lambda: len(numbers(told)) == 2)
    supervised.stop()
    assert not supervised.is_running()
    assert [number for number in numbers(told) if lives(number)] == []
    supervised.stop()


def test_what_does_not_heed_a_signal_is_killed(
    supervise: Callable[..., Supervised], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_END_SECONDS", 0.2)
    told = tmp_path / "numbers"
    supervised = supervise("sh", "-c", f"trap '' TERM; echo $$ >>{told}; while :; do sleep 1; done")
    wait_for(lambda: len(numbers(told)) == 1)
    supervised.stop()
    wait_for(lambda: not lives(numbers(told)[0]))


def test_it_is_found_without_any_file(supervise: Callable[..., Supervised], tmp_path: Path) -> None:
    """puller may be killed as soon as it has started it."""
    supervised = supervise("sleep", "601")
    other = Supervised(supervised.name, supervised.command, tmp_path / "elsewhere")
    wait_for(other.is_running)
    other.stop()
    assert not supervised.is_running()


def test_a_process_that_has_lost_its_shell_is_ended(
    supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    told = tmp_path / "numbers"
    tell = "open(sys.argv[1], 'a').write(f'{os.getpid()} {os.getppid()}')"
    program = f"import os, sys, time; {tell}; time.sleep(600)"
    supervised = supervise(sys.executable, "-c", program, str(told))
    wait_for(lambda: len(numbers(told)) == 2)
    process, shell = numbers(told)
    os.kill(shell, signal.SIGKILL)
    wait_for(lambda: not supervised.is_running())
    assert lives(process)
    supervised.stop()
    assert not lives(process)


def test_another_process_is_not_taken_for_it(tmp_path: Path) -> None:
    supervised = Supervised(f"puller-test-{tmp_path}", ("sleep", "602"), tmp_path / "log")
    with subprocess.Popen(["sh", "-c", "sleep 600; :", supervised.name], start_new_session=True) as stranger:
        assert not supervised.is_running()
        supervised.stop()
        assert lives(stranger.pid)
        os.killpg(stranger.pid, signal.SIGKILL)


def test_a_transient_unit_is_started_again_for_ever() -> None:
    options = supervision.unit_options("puller-boot-1.service")
    assert {"--unit=puller-boot-1.service", "--collect", "--property=Restart=always"} <= set(options)
    assert "--property=StartLimitIntervalSec=0" in options


def test_a_unit_outlives_the_guests_of_a_host_that_shuts_down() -> None:
    """systemd ends units in the reverse order: libvirt-guests shuts the guests down, who write meanwhile."""
    options = supervision.unit_options("puller-boot-1.service")
    assert {"--property=Before=libvirt-guests.service", "--property=After=network.target"} <= set(options)


def test_systemd_is_asked_where_it_is_process_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for systemd's programs: it is not process 1 where the tests run."""
    told = tmp_path / "told"
    for name in ("systemd-run", "systemctl"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{told}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(supervision, "has_systemd", lambda: True)
    supervised = Supervised("puller-boot-1", ("puller", "serve"), tmp_path / "log")
    supervised.start({})
    assert supervised.is_running()
    supervised.stop()
    begun, asked, stopped = told.read_text().splitlines()
    assert begun.endswith("-- puller serve")
    assert asked == "systemctl is-active -q puller-boot-1.service"
    assert stopped == "systemctl stop puller-boot-1.service"
    assert not (tmp_path / "log").exists()
