"""The recipes of docs/fleet.md: the Job's schema, and the command lines with the variables of schedulers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import puller
from puller.units import CHUNK
from tests.lab.archive import make_point

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def job() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return dict(yaml.safe_load(block("yaml")))


def test_kubernetes_accepts_the_job(job: dict[str, Any]) -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    schemas.validate(job, "1.33", strict=True)
    job["spec"]["podFailurePolicies"] = {}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(job, "1.33", strict=True)


def test_the_policy_says_of_every_exit_code_what_the_table_says(job: dict[str, Any]) -> None:
    decided = {
        code: rule["action"]
        for rule in job["spec"]["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", [])
    }
    assert decided == dict.fromkeys([2, 10, 12, 16], "FailJob") | dict.fromkeys([3, 13], "FailIndex")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    repository = puller.create_repository(str(tmp_path / "repository"), password="night")
    for number in range(6):
        make_point(repository, {"vda": bytes([number]) * CHUNK}, f"d{number}")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "puller"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m puller.cli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "home/.config/puller").mkdir(parents=True)
    (tmp_path / "home/.config/puller/password").write_text("night\n")
    return {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "PULLER_REPOSITORY": str(tmp_path / "repository"),
        "PULLER_PASSWORD_FILE": str(tmp_path / "home/.config/puller/password"),
    }


def verified(answers: list[subprocess.CompletedProcess[str]]) -> int:
    assert [answer.returncode for answer in answers] == [0] * len(answers), answers[0].stderr
    return sum(json.loads(answer.stdout)["packs_verified"] for answer in answers)


def test_the_pods_of_the_job_read_every_pack_once(job: dict[str, Any], environment: dict[str, str]) -> None:
    words = job["spec"]["template"]["spec"]["containers"][0]["args"]

    def pod(index: int) -> subprocess.CompletedProcess[str]:
        """As kubelet does: $(NAME) in args is a variable of the container."""
        args = [word.replace("$(JOB_COMPLETION_INDEX)/50", f"{index}/2") for word in words]
        return subprocess.run(["puller", *args], env=environment, capture_output=True, text=True, check=False)

    assert verified([pod(index) for index in (0, 1)]) == 6


def test_the_tasks_of_the_array_read_every_pack_once(tmp_path: Path, environment: dict[str, str]) -> None:
    script = block("bash").replace("s3://backups/kvm", environment["PULLER_REPOSITORY"])

    def task(index: int) -> subprocess.CompletedProcess[str]:
        variables = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2"}
        return subprocess.run(
            ["bash"],
            input=script,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    assert verified([task(index) for index in (1, 2)]) == 6


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(11, "0", True), (11, "5", False), (13, "0", False)]
)
def test_the_array_is_requeued_if_that_can_help(
    tmp_path: Path, environment: dict[str, str], code: int, restarts: str, requeued: bool
) -> None:
    for name, text in {
        "puller": f"exit {code}",
        "scontrol": f'echo "$@" > {tmp_path}/said',
        "sleep": "",
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "9", "SLURM_ARRAY_JOB_ID": "77"}
    done = subprocess.run(
        ["bash"],
        input=block("bash"),
        env={**environment, **variables, "SLURM_RESTART_COUNT": restarts},
        text=True,
        check=False,
    )
    assert done.returncode == code
    said = tmp_path / "said"
    assert said.exists() is requeued
    assert not requeued or said.read_text() == "requeue 77_3\n"
