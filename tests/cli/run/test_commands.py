"""The commands ``before`` and ``after``."""

from __future__ import annotations

import os
import select
from pathlib import Path

from tests.cli.conftest import CommandLine
from tests.cli.run.setting import Setting
from tests.lab.machine import Machine


class TestCommands:
    """Before and after the backups."""

    def test_both_run_and_are_told(
        self, cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        shell = f'["sh", "-c", "echo $PULLER_JOB $PULLER_EXIT_CODE >> {log}; echo chatter"]'
        both = "\n".join(f"{when} = {{ command = {shell} }}" for when in ("before", "after"))
        setting.job(f'domains = ["{machine.name}", "gone"]\n{both}')
        assert len(cli("run", "nightly", "--json").document["points"]) == 1
        assert log.read_text() == "nightly\nnightly 3\n"

    def test_one_before_that_fails_keeps_the_backups_from_running(
        self, cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path
    ) -> None:
        after = f'after = {{ command = ["touch", "{tmp_path}/after"] }}'
        setting.job(f'domains = ["{machine.name}"]\nbefore = {{ command = ["false"] }}\n{after}')
        answer = cli("run", "nightly", "--json")
        assert (answer.error["code"], answer.error["name"]) == (1, "CommandFailed")
        assert "false failed with exit code 1" in answer.error["message"]
        assert answer.document["points"] == []
        assert [failure["step"] for failure in answer.document["failures"]] == ["before"]
        assert (tmp_path / "after").exists()

    def test_one_that_takes_too_long_is_killed_with_its_children(
        self, cli: CommandLine, setting: Setting, machine: Machine, tmp_path: Path
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        script = f"exec 3>{pipe}; sleep 1000 & sleep 1000"
        setting.job(
            f'domains = ["{machine.name}"]\nbefore = {{ command = ["sh", "-c", "{script}"], timeout = 1 }}'
        )
        with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
            assert "within 1 seconds" in cli("run", "nightly", "--json").error["message"]
            ended, _, _ = select.select([reader], [], [], 60)
            assert ended  # nobody holds the other end any more

    def test_one_that_is_ended_by_a_signal_without_a_name(self, cli: CommandLine, setting: Setting) -> None:
        for number, name in ((9, "SIGKILL"), (35, "signal 35")):
            setting.job(f'domains = ["x"]\nbefore = {{ command = ["sh", "-c", "kill -{number} $$"] }}')
            assert cli("run", "nightly", "--json").error["message"] == f"sh failed with {name}"

    def test_one_that_is_not_there(self, cli: CommandLine, setting: Setting, machine: Machine) -> None:
        setting.job(f'domains = ["{machine.name}"]\nafter = {{ command = ["/nonexistent"] }}')
        answer = cli("run", "nightly", "--json")
        assert answer.error["message"] == "cannot run /nonexistent: No such file or directory"
        assert len(answer.document["points"]) == 1
