"""``puller config``: ``init`` is in a module of its own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from puller.cli.commands import config_init
from puller.cli.input.options import Bare, Group
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings
from puller.errors import UsageError

command = Group(
    "config", help="Write a first configuration, check it, or print an example.", no_args_is_help=False
)
command.add_command(config_init.command)


@command.command("check", cls=Bare)
@click.argument("file", required=False)
@click.pass_obj
def check(settings: Settings, file: str | None) -> Outcome:
    """Check the configuration and print every mistake.

    Check FILE; without it, the file of --config or PULLER_CONFIG, or else /etc/puller/puller.toml.
    """
    from puller.configuration.file import DEFAULT_PATH, load
    from puller.configuration.mistakes import ConfigurationError

    settings.config = file or settings.config or str(DEFAULT_PATH)
    try:
        found = load(settings.config)
    except ConfigurationError as error:
        mistakes: list[dict[str, Any]] = [asdict(mistake) for mistake in error.mistakes]
        text = "\n".join(f"{mistake.text}\n  {mistake.advice}" for mistake in error.mistakes)
        count = len(mistakes)
        failure = UsageError(
            f"{settings.config} has {count} mistake{'s' if count > 1 else ''}",
            advice="Correct each mistake, then run 'puller config check' again.",
        )
        return Outcome({"file": settings.config, "jobs": [], "mistakes": mistakes}, text, failure)
    jobs = ", ".join(found.jobs) or "none"
    document = {"file": settings.config, "jobs": list(found.jobs), "mistakes": []}
    return Outcome(document, f"{settings.config} has no mistakes; jobs: {jobs}")


@command.command("example", cls=Bare)
def example() -> Outcome:
    """Print an example configuration that explains every key."""
    from puller.configuration.example import example as text

    return Outcome({"example": text()}, text().rstrip())
