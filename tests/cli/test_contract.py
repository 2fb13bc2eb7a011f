"""What holds for every command: options, environment, exit codes, one document on stdout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import puller
from puller.cli.input.options import GLOBAL_OPTIONS
from puller.cli.output import failures
from puller.cli.output.settings import Settings
from puller.cli.program import COMMANDS, program
from tests.cli.conftest import CommandLine, command, process
from tests.lab.archive import data_packs, make_point

HEAVY = ("boto3", "botocore", "libvirt", "nbd", "numpy", "rich", "msgspec", "cryptography", "zstandard")


@pytest.mark.parametrize(("debug", "shown"), [((), False), (("--debug",), True)])
def test_what_fails_as_an_object_is_destroyed_is_shown_only_for_debugging(
    debug: tuple[str, ...], shown: bool
) -> None:
    """As an HTTP response does that belongs to a request which was given up."""
    script = """
import atexit, sys
from puller.cli import main

class Broken:
    def __del__(self):
        raise AttributeError("fp")

left = [Broken()]
atexit.register(left.clear)
main()
"""
    command = [sys.executable, "-c", script, "stats", *debug, "--repository", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 10
    assert ("AttributeError: fp" in done.stderr) is shown


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
import sys
from puller.cli.program import run
code = run({arguments})
print("LOADED", *sorted(set({HEAVY}) & set(sys.modules)))
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert done.stderr == ""


def test_help_of_the_program_names_every_command(cli: CommandLine) -> None:
    answer = cli("--help")
    assert answer.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_the_global_options(cli: CommandLine, name: str) -> None:
    answer = cli(name, "--help")
    assert answer.code == 0
    for option in ("--repository", "--connect", "--json", "--quiet", "--verbose", "--debug", "--version"):
        assert option in answer.out


def test_version(cli: CommandLine) -> None:
    assert cli("--version").out == f"puller {puller.__version__}\n"
    assert cli("points", "--version").out == f"puller {puller.__version__}\n"
    assert cli("--version", "--json").document == {"version": puller.__version__}


def test_help_is_one_document_too(cli: CommandLine) -> None:
    assert "--exclude-disk" in cli("backup", "--help", "--json").document["help"]


@pytest.mark.parametrize("place", ["before", "after"])
def test_global_options_stand_on_either_side_of_the_command(
    cli: CommandLine, repository: puller.Repository, folder: Path, place: str
) -> None:
    options = ["-r", str(folder), "--json", "-q", "--debug", "-c", "test:///default"]
    answer = cli(*options, "points") if place == "before" else cli("points", *options)
    assert answer.document == {"points": []}


def test_an_option_wins_over_the_environment_on_either_side(
    cli: CommandLine, repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLER_REPOSITORY", "/nonexistent")
    assert cli("points", "--json").error["code"] == 10
    assert cli("points", "-r", str(folder)).code == 0
    assert cli("-r", str(folder), "points").code == 0
    monkeypatch.setenv("PULLER_REPOSITORY", str(folder))
    assert cli("points").code == 0


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ([], "command"),
        (["nonsense"], "nonsense"),
        (["prune"], "repository"),
        (["prune", "--keep-last", "0"], "--keep-last"),
        (["prune", "--keep-daily", "-1"], "--keep-daily"),
        (["prune", "--keep-within", "week"], "week"),
        (["prune", "--grace", "-1d"], "-1d"),
        (["delete"], "POINT"),
        (["key"], "command"),
        (["key", "nonsense"], "nonsense"),
        (["key", "remove"], "ID"),
        (["key", "add", "--role", "admin"], "admin"),
        (["key", "add", "--new-key-file", "a", "--new-password-file", "b"], "exclude"),
        (["points", "--nonsense"], "--nonsense"),
        (["--nonsense", "points"], "--nonsense"),
        (["points", "one", "two"], "two"),
        (["backup"], "DOMAIN"),
        (["backup", "web1", "--mode", "carry"], "carry"),
        (["backup", "web1", "--tag", "word"], "word"),
        (["backup", "web1", "--tag", "=word"], "=word"),
        (["backup", "web1", "--tag", "a=1", "--tag", "a=2"], "twice"),
        (["show"], "POINT"),
        (["restore", "x"], "--output"),
        (["restore", "x", "--output", "/tmp/x", "--format", "vmdk"], "vmdk"),
        (["check", "--read-data", "0"], "0"),
        (["check", "--read-data=101"], "101"),
        (["check", "--read-data=half"], "half"),
        (["completion", "tcsh"], "tcsh"),
        (["points", "-r"], "-r"),
        (["points"], "repository"),
        (["points", "-r", ""], "repository"),
        (["points", "-r", "nonsense"], "repository"),
        (["points", "-r", "s3://"], "bucket"),
    ],
)
def test_wrong_usage(cli: CommandLine, arguments: list[str], about: str) -> None:
    error = cli("--json", *arguments).error
    assert (error["code"], error["name"], error["retryable"]) == (2, "UsageError", False)
    assert about in error["message"]
    assert cli(*arguments).out == ""
    assert cli(*arguments).code == 2


def test_an_option_without_its_value_leads_to_the_help_of_its_command(cli: CommandLine) -> None:
    error = cli("--json", "check", "--max-age").error
    assert (error["code"], error["advice"]) == (2, "See 'puller check --help'.")


def test_json_after_the_double_dash_is_no_option(cli: CommandLine) -> None:
    answer = cli("points", "--nonsense", "--", "--json")
    assert (answer.code, answer.out) == (2, "")


def test_a_bug_is_one_line_and_a_traceback_only_with_debug(
    cli: CommandLine, repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*unused: object, **options: object) -> None:
        raise ValueError("bad\nthing \x1b[31m")

    monkeypatch.setattr("puller.api.list_points", broken)
    answer = cli("points", "-r", str(folder), "--json")
    assert answer.document["error"]["name"] == "InternalError"
    assert answer.code == 1
    first, second = answer.err.splitlines()
    assert first == r"puller: internal error: ValueError: bad thing \x1b[31m"
    assert "--debug" in second
    assert "Traceback" in cli("points", "-r", str(folder), "--debug").err


def test_an_error_shows_its_traceback_with_debug(cli: CommandLine) -> None:
    answer = cli("points", "-r", "/nonexistent", "--debug")
    assert answer.code == 10
    assert "ObjectNotFound" in answer.err
    assert answer.err.splitlines()[-2].startswith("puller: no repository")


@pytest.mark.parametrize("module", ["nbd", "libvirt"])
def test_a_binding_that_the_distribution_lacks(module: str) -> None:
    error = failures.translate(ModuleNotFoundError(f"No module named '{module}'", name=module))
    assert (error.exit_code, module in error.message) == (1, True)
    assert f"python3-{'libnbd' if module == 'nbd' else module}" in error.advice


def test_verbosity_is_what_was_said_last(
    cli: CommandLine, repository: puller.Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = make_point(repository, {"vda": b"x"})
    check = ["check", "-r", str(folder), point.point]
    assert cli(*check, "-q", "-v").err != ""
    assert cli(*check, "-v", "-q").err == ""
    assert cli("-v", *check, "-q").err == ""


def test_as_a_process(folder: Path, tmp_path: Path) -> None:
    made = process("init", "--no-encryption", "--json", environment={"PULLER_REPOSITORY": str(folder)})
    assert made.document["encrypted"] is False
    assert made.err == ""
    gone = process("points", "-r", str(tmp_path / "nothing"), "--json")
    assert gone.error["name"] == "NoRepository"


def test_the_console_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "puller"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"puller {puller.__version__}\n"


def test_a_reader_that_goes_away_changes_nothing(repository: puller.Repository, folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("points", "-r", str(folder), "--json"),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_that_cannot_be_written_is_an_error(repository: puller.Repository, folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("points", "-r", str(folder), "--json"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("puller: cannot write the result to standard output: No space left")
    assert "Exception" not in done.stderr


def test_without_streams_the_exit_code_still_tells(repository: puller.Repository, folder: Path) -> None:
    for url, code in ((str(folder), 0), ("/nonexistent", 10)):
        words = ["sh", "-c", '"$@" >&- 2>&- <&-', "sh", *command("points", "-r", url)]
        assert subprocess.run(words, check=False).returncode == code


def test_the_document_is_ascii_whatever_the_names(
    cli: CommandLine, repository: puller.Repository, folder: Path
) -> None:
    make_point(repository, {"vda": b"x"}, domain="wéb\x1b[2J\n1")
    answer = cli("points", "-r", str(folder), "--json")
    assert answer.out.isascii()
    assert answer.document["points"][0]["domain"] == "wéb\x1b[2J\n1"
    listed = cli("points", "-r", str(folder)).out
    assert "\x1b" not in listed
    assert len(listed.splitlines()) == 2
    data_packs(folder)[0].unlink()
    checked = cli("check", "-r", str(folder)).out
    assert "\x1b" not in checked
    assert len(checked.splitlines()) == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(cli: CommandLine, shell: str) -> None:
    script = cli("completion", shell)
    assert script.code == 0
    assert f"_PULLER_COMPLETE={shell}_complete" in script.out
    assert cli("completion", shell, "--json").document["script"].strip() == script.out.strip()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("puller ", set(COMMANDS)),
        ("puller rest", {"restore"}),
        ("puller key ", {"list", "add", "remove"}),
        ("puller restore --f", {"--format", "--force"}),
        ("puller restore --format ", {"raw", "qcow2"}),
        ("puller points --repo", {"--repository"}),
        ("puller --js", {"--json"}),
    ],
)
def test_bash_completes_commands_and_options(words: str, expected: set[str]) -> None:
    split = words.split(" ")
    environment = {
        "_PULLER_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(split) - 1),
    }
    answer = process(environment=environment)
    assert {line.partition(",")[2] for line in answer.out.splitlines()} == expected


def test_settings_know_json_before_anything_is_parsed() -> None:
    assert Settings.begin({}, ["points", "--json"]).json
    assert not Settings.begin({}, ["points", "--", "--json"]).json
    assert json.dumps(Settings.begin({"PULLER_REPOSITORY": ""}, []).repository) == "null"


FILLERS = re.compile(r"\b(tell|so many|so much|whatever|is no|by all means|may be repeated)\b", re.IGNORECASE)


def helped() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(program)
    yield "puller", program
    for name in COMMANDS:
        found = program.get_command(context, name)
        assert found is not None
        yield f"puller {name}", found
        if isinstance(found, click.Group):
            yield from ((f"puller {name} {below}", each) for below, each in found.commands.items())


def test_every_help_text_is_a_sentence_without_fillers() -> None:
    for name, each in helped():
        options = [option for option in each.params if isinstance(option, click.Option)]
        texts = {option.opts[0]: option.help or "" for option in (*options, *GLOBAL_OPTIONS)}
        for what, text in {"": each.help or "", **texts}.items():
            assert re.match(r"[A-Z]", text), (name, what)
            assert re.search(r"[.)\]\"]$", text.rstrip()), (name, what, text)
            assert not FILLERS.search(text), (name, what, text)


def test_lists_of_commands_cut_no_sentence_short(cli: CommandLine) -> None:
    for name in [name for name, each in helped() if isinstance(each, click.Group)]:
        _, _, listed = cli(*name.split()[1:], "--help").out.partition("\nCommands:\n")
        assert listed
        assert "..." not in listed.partition("\n\n")[0]
