"""An example of the configuration, made of the descriptions of its keys, so that it is never out of date."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from puller.configuration.schema import (
    Command,
    Defaults,
    JobTable,
    Keep,
    RepositoryTable,
    Shared,
    Table,
    keys,
)

_HEAD = """\
# puller's configuration. 'puller config check' tells what is wrong with it.
# An option of the command line wins over the environment, and that over this file.
# Lines that begin with "#key" show the other keys that there are."""


def example() -> str:
    """The text of a file that passes the check and shows every key."""
    parts = [
        (_HEAD,),
        ("[repositories.main]", *_lines(RepositoryTable, {"url", "password-file"})),
        ("# What holds unless a job or an option says something else: repository, connect, progress and",),
        ("# verbosity for all commands, the rest for jobs.",),
        ("[defaults]", *_lines(Defaults, {"repository"}, set(keys(Shared)) - {"repository", "connect"})),
        ("# A job. 'puller run nightly' does it. All keys that a job has may stand in [defaults] too,",),
        ("# but for 'domains' and 'exclude'.",),
        ("[jobs.nightly]", *_lines(JobTable, {"domains", "then", "check"}, {"repository", "connect"})),
        ("# Only points that this job took on this host, of its domains, are pruned by its rules.",),
        ("[jobs.nightly.keep]", *_lines(Keep, {"daily", "weekly", "monthly"})),
        ("# Commands get PULLER_JOB, and the one after the backups PULLER_EXIT_CODE too.",),
        ("#[jobs.nightly.before]", *_lines(Command, ())),
        ("#[jobs.nightly.after]", *_lines(Command, ())),
    ]
    return "".join(_block(lines) for lines in parts)


def _block(lines: Collection[str]) -> str:
    """Comments stand right above the table that they belong to."""
    gap = "\n" if len(lines) > 1 or lines == (_HEAD,) else ""
    return "\n".join(lines) + "\n" + gap


def _lines(table: type[Table], set_: Collection[str], left_out: Collection[str] = ()) -> Iterator[str]:
    shown = {name: key for name, (_, key) in keys(table).items() if key.example and name not in left_out}
    for name, key in sorted(shown.items(), key=lambda item: item[0] not in set_):
        yield f"# {key.meaning}"
        yield f"{name} = {key.example}" if name in set_ else f"#{name} = {key.example}"
