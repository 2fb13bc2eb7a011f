"""What the pages name is there: metrics in the alerts, files that the README leads to, units and options."""

from __future__ import annotations

import re
from pathlib import Path

from puller.cli.output.metrics import _ERRORS, _GAUGES

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"


def test_alerts_name_metrics_that_there_are() -> None:
    rules = OPERATIONS.read_text().partition("```yaml\n")[2].partition("```")[0]
    named = set(re.findall(r"\bpuller_\w+", rules))
    assert named
    assert named <= {_ERRORS, *_GAUGES}


def test_every_metric_is_in_the_table_of_the_command_line() -> None:
    table = (ROOT / "docs" / "cli.md").read_text().partition("\n## Metrics\n")[2]
    told = set(re.findall(r"`(puller_\w+|_\w+)`", table))
    for name in {_ERRORS, *_GAUGES}:
        assert name in told or f"_{name.removeprefix('puller_backup_')}" in told, name


def test_the_readme_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    targets = {target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target}
    targets |= set(re.findall(r"`((?:docs|scripts|systemd|benchmarks)/[\w./-]+)`", text))
    targets |= set(re.findall(r"^\./(scripts/\w+)", text, re.MULTILINE))
    assert targets
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []


def test_each_page_says_first_for_whom_it_is_and_what_they_know_after_it() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    beginnings = {page.name: page.read_text().split("\n\n")[1] for page in pages}
    said = re.compile(r"This (page|site) is for .*\. (After it|After its|After this page)", re.DOTALL)
    assert [name for name, text in beginnings.items() if not said.match(text)] == []


def test_the_first_screen_of_the_readme_has_what_it_is_for_whom_and_the_two_commands() -> None:
    screen = (ROOT / "README.md").read_text().splitlines()[:40]
    for words in (
        "puller backs up",
        "It is for people who",
        "./scripts/demo",
        "./scripts/test",
        "## Why puller",
    ):
        assert any(words in line for line in screen), words
