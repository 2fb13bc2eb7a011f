"""Writes the man pages of the program and of each command into a folder: ``python scripts/man.py build/man``.

They are made of what ``--help`` is made of, and of the table of exit codes in docs/cli.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from puller import __version__
from puller.cli.input.options import GLOBAL_OPTIONS
from puller.cli.program import program

MANUAL = Path(__file__).parents[1] / "docs" / "cli.md"
_FILES = (
    ("/etc/puller/puller.toml", "The configuration; 'puller config example' prints one."),
    ("/etc/credstore/puller-password", "The repository's password, for the services."),
    ("/etc/credstore/puller-aws-credentials", "The S3 keys, for the services."),
)

Rows = list[tuple[str, str]]


def walk(command: click.Command, name: str) -> Iterator[click.Context]:
    """The command's context, and those of all commands below it."""
    context = click.Context(command, info_name=name, parent=None)
    yield context
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            if below is not None:
                yield from walk(below, f"{name} {word}")


def file_name(context: click.Context) -> str:
    """Such as ``puller-key-add.1``."""
    return f"{str(context.info_name).replace(' ', '-')}.1"


def page(context: click.Context, pages: list[click.Context]) -> str:
    """One page, in the language of man(7)."""
    command, name = context.command, str(context.info_name)
    title = name.replace(" ", "-")
    lines = [f'.TH "{title.upper()}" 1 "" "puller {__version__}" "puller"', ".SH NAME"]
    lines += [f"{_text(title)} \\- {_text(command.get_short_help_str(200).rstrip('.'))}"]
    pieces = " ".join(command.collect_usage_pieces(context))
    lines += [".SH SYNOPSIS", f".B {_text(name)}", _text(pieces), ".SH DESCRIPTION"]
    lines += _paragraphs(command.help or "")
    below = [each for each in pages if str(each.info_name).rpartition(" ")[0] == name]
    lines += _section(
        "COMMANDS", [(str(each.info_name), each.command.get_short_help_str(200)) for each in below]
    )
    own = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    own = [each for each in own if each not in GLOBAL_OPTIONS]
    lines += _section("OPTIONS", _records(own, context))
    lines += _section("GLOBAL OPTIONS", _records(list(GLOBAL_OPTIONS), context))
    if command.epilog:
        lines += [".SH NOTES", *_paragraphs(command.epilog)]
    lines += _section("EXIT STATUS", exit_codes()) + _section("FILES", list(_FILES))
    others = [each for each in pages if each is not context]
    lines += [".SH SEE ALSO", ", ".join(_text(file_name(each).replace(".1", "(1)")) for each in others)]
    return "\n".join(lines) + "\n"


def exit_codes() -> Rows:
    """The table of docs/cli.md."""
    section = MANUAL.read_text().partition("\n## Exit codes\n")[2].partition("\n#")[0]
    return re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE)


def _records(parameters: list[click.Option], context: click.Context) -> Rows:
    return [record for each in parameters if (record := each.get_help_record(context)) is not None]


def _section(title: str, rows: Rows) -> list[str]:
    lines = [f".SH {title}"] if rows else []
    for term, meaning in rows:
        lines += [".TP", f".B {_text(term)}", _text(meaning)]
    return lines


def _paragraphs(text: str) -> list[str]:
    parts = [" ".join(part.split()) for part in text.split("\n\n")]
    return [line for part in parts for line in (".PP", _text(part))]


def _text(text: str) -> str:
    """Nothing of it is taken for a request, and an option can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> int:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    pages = list(walk(program, "puller"))
    for context in pages:
        (folder / file_name(context)).write_text(page(context, pages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
