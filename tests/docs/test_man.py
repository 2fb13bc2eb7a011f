"""The man pages: every command and every option has its entry, and man(1) reads them without a complaint."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from puller.cli.program import COMMANDS, program
from puller.errors import PullerError

SCRIPT = Path(__file__).parents[2] / "scripts" / "man.py"


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, SCRIPT, folder], check=True)
    return folder


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(program)
    for name in COMMANDS:
        command = program.get_command(context, name)
        assert command is not None
        yield f"puller-{name}", command
        if isinstance(command, click.Group):
            yield from ((f"puller-{name}-{below}", each) for below, each in command.commands.items())


def entries(page: Path) -> set[str]:
    return {
        line.replace("\\-", "-") for line in re.findall(r"^\.TP\n\.B (.*)$", page.read_text(), re.MULTILINE)
    }


def test_every_command_has_a_page_that_the_first_page_names(manual: Path) -> None:
    names = {name for name, _ in commands()}
    assert {path.stem for path in manual.iterdir()} == {"puller", *names}
    first = (manual / "puller.1").read_text().replace("\\-", "-")
    assert all(f"{name}(1)" in first for name in names)
    assert {f"puller {name}" for name in COMMANDS} <= entries(manual / "puller.1")


def test_every_option_has_an_entry(manual: Path) -> None:
    for name, command in commands():
        told = " ".join(entries(manual / f"{name}.1"))
        for option in command.get_params(click.Context(command)):
            if isinstance(option, click.Option):
                assert re.search(rf"(^|[ ,]){max(option.opts, key=len)}( |,|$)", told), (name, option.name)


def test_exit_codes_are_those_of_the_errors(manual: Path) -> None:
    def below(kind: type[PullerError]) -> Iterator[type[PullerError]]:
        yield kind
        for each in kind.__subclasses__():
            yield from below(each)

    codes = {str(kind.exit_code) for kind in below(PullerError)}
    assert codes <= entries(manual / "puller-backup.1")


def test_man_reads_them(manual: Path) -> None:
    pages = sorted(str(path) for path in manual.iterdir())
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", *pages], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
