"""What commands load before they work: a short command should not pay for a long one."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import puller
from puller.cli.libraries import loading
from tests.lab.archive import make_point

OF_LONG_COMMANDS = ("boto3", "botocore", "cryptography.x509", "libvirt", "nbd", "numpy", "rich")


@pytest.mark.parametrize("command", ["points", "show web1@latest", "keep web1@latest", "stats", "status"])
def test_commands_that_read_records_load_nothing_heavy(
    repository: puller.Repository, folder: Path, command: str
) -> None:
    make_point(repository, {"vda": b"content"})
    script = f"""
import sys
from puller.cli.program import run
code = run({[*command.split(), "-r", str(folder)]})
print("LOADED", *sorted(set({OF_LONG_COMMANDS}) & set(sys.modules)))
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_garbage_is_collected_again_once_modules_are_loaded() -> None:
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_garbage_is_collected_again_after_a_module_that_fails() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
