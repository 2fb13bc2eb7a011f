"""Names of variables for commands of the user's."""

from __future__ import annotations

import subprocess

import pytest

from puller.host.command import variable


@pytest.mark.parametrize("target", ["vda", "drive-scsi0", "node.1", "sd a"])
def test_a_shell_can_read_the_variable_of_any_disk(target: str) -> None:
    name = variable("PULLER_URI_", target)
    shell = subprocess.run(
        ["/bin/sh", "-c", f'echo "${name}"'], env={name: "found"}, capture_output=True, text=True, check=True
    )
    assert shell.stdout == "found\n"
