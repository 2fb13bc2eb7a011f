"""``puller find`` before it opens anything."""

from __future__ import annotations

from tests.cli.conftest import CommandLine


def test_a_directory_belongs_into_the_pattern(cli: CommandLine) -> None:
    """``ls``, ``cat`` and ``cp`` take POINT:/PATH, so users try it here too."""
    error = cli("find", "web1@latest:/etc", "fs*", "-r", "/nowhere", "--json").error
    assert (error["code"], error["message"]) == (
        2,
        "'puller find' searches a whole point, not 'web1@latest:/etc'",
    )
    assert error["advice"] == "Name the directory in the pattern, such as '/etc/*'."
