"""The units: systemd understands them, and they are as locked up as is said."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
TIMERS = sorted(path.name for path in UNITS.glob("*.timer"))
HIGHEST = 3.0
"""systemd's measure of exposure, of 10."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with a program in the place of puller, which is not installed where the tests run."""
    for path in UNITS.iterdir():
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace("/opt/puller/bin/puller", "/bin/true"))
    return tmp_path


def test_every_job_step_has_a_service_and_a_timer() -> None:
    steps = ("backup", "check", "prove", "prune")
    assert [f"puller-{step}@.timer" for step in steps] == TIMERS
    assert {f"puller-{step}@.service" for step in (*steps, "failure")} == set(SERVICES)


@pytest.mark.parametrize("name", [*SERVICES, *TIMERS])
def test_systemd_finds_nothing_to_complain_of(installed: Path, name: str) -> None:
    unit = installed / name.replace("@", "@nightly")
    shutil.copy(installed / name, unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", SERVICES)
def test_exposure_is_low(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    level = re.search(r"exposure level .*: (\d+\.\d)", shown)
    assert level is not None, shown
    assert float(level[1]) <= HIGHEST


@pytest.mark.parametrize("name", [name for name in SERVICES if "failure" not in name])
def test_what_the_services_rely_on(name: str) -> None:
    """A failure is told, a stop leaves time to clean up, and secrets are credentials."""
    lines = (UNITS / name).read_text().splitlines()
    step = name.removeprefix("puller-").removesuffix("@.service")
    only = "" if step == "backup" else f"--only {step} "
    assert f"ExecStart=/opt/puller/bin/puller run {only}%i" in lines
    # After a signal, the job's last command has 600 s of its own.
    assert f"TimeoutStopSec={15 if step == 'backup' else 5}min" in lines
    # What thaws a guest must outlive a backup.
    assert f"KillMode={'process' if step == 'backup' else 'mixed'}" in lines
    # The kernel may have killed one of several processes; systemd's default is to stop the others too.
    assert ("OOMPolicy=continue" in lines) is (step == "backup")
    # A backup reads the images of a domain that is shut off, which may be block devices.
    devices = {"backup": "DeviceAllow=block-* r", "prove": "DeviceAllow=/dev/kvm rw"}
    assert devices.get(step, "PrivateDevices=yes") in lines
    for line in (
        "Type=notify",
        "OnFailure=puller-failure@%n.service",
        "WatchdogSignal=SIGTERM",
        "LoadCredential=puller-password",
        "LoadCredential=puller-aws-credentials",
        "RuntimeDirectoryPreserve=yes",
    ):
        assert line in lines, line
