"""The Debian package, as far as its files show; scripts/soak-package builds, installs and removes it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "debian"
SCRIPTS = [*sorted(DEBIAN.glob("puller.p*")), DEBIAN / "build-tree"]
SCRIPTS += [ROOT / "scripts" / name for name in ("package", "soak-package", "debian-tree.sh")]


def _depends() -> set[str]:
    (line,) = re.findall(r"^Depends: (.*)$", (DEBIAN / "control").read_text(), re.MULTILINE)
    return set(line.split(", "))


def test_it_needs_what_the_installation_by_hand_needs() -> None:
    (words,) = re.findall(
        r"^readonly packages=\((.*)\)$", (ROOT / "scripts/install").read_text(), re.MULTILINE
    )
    by_hand = set(words.split()) - {"python3", "python3-venv"}  # the package holds the environment
    assert by_hand == {"python3-libvirt", "python3-libnbd", "qemu-utils"}
    assert by_hand | {"${venv:Depends}"} <= _depends()


def test_its_version_is_that_of_puller() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    # scripts/package replaces the revision and the release in this line.
    assert (DEBIAN / "changelog").read_text().splitlines()[0].startswith(f"puller ({version}-1) unstable;")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_can_read_its_scripts(script: Path) -> None:
    shell = "sh" if script.parent == DEBIAN and script.name != "build-tree" else "bash"
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_purge_deletes_no_secret_no_state_and_no_repository() -> None:
    lines = [line.strip() for line in (DEBIAN / "puller.postrm").read_text().splitlines()]
    deleted = [line for line in lines if line.startswith("rm")]
    assert deleted == [
        "rm -f /etc/puller/puller.toml",
        "rm -f /etc/systemd/system/timers.target.wants/puller-*@*.timer",
        "rm -rf /var/cache/puller",
        "rmdir --ignore-fail-on-non-empty /etc/puller 2>/dev/null || true",
    ]


def test_every_unit_starts_the_program_of_the_package() -> None:
    (old, new) = re.findall(
        r"s\|\^ExecStart=(\S+) \|ExecStart=(\S+) \|", (DEBIAN / "build-tree").read_text()
    )[0]
    assert new == "/usr/bin/puller"
    for unit in (ROOT / "systemd").glob("*.service"):
        starts = re.findall(r"^ExecStart=(\S+)", unit.read_text(), re.MULTILINE)
        assert starts == [old if "failure" not in unit.name else "/bin/sh"]
        assert unit.read_text().count("/opt/puller") == ("failure" not in unit.name)


def test_the_image_for_restores_holds_what_the_package_only_recommends() -> None:
    control, image = (DEBIAN / "control").read_text(), (ROOT / "Containerfile").read_text()
    lists = re.findall(r"^(?:Recommends|Suggests): (.*)$", control, re.MULTILINE)
    assert len(lists) == 2
    assert {name for each in lists for name in each.split(", ")} <= set(image.split())
