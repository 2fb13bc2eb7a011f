"""``puller backup``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from puller.cli import failures
from puller.cli.access import open_repository
from puller.cli.options import Command, Settings
from puller.cli.outcome import Outcome
from puller.cli.progress import BACKUP, observing
from puller.cli.records import record, summary
from puller.cli.signals import Stopped
from puller.errors import Interrupted, PartialFailure, PullerError

if TYPE_CHECKING:
    from puller.repository.points import Point
    from puller.repository.repository import Repository


def _tags(context: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for word, (name, sign, _) in zip(words, pairs, strict=True):
        if not (name and sign):
            raise click.BadParameter(f"'{word}' is not KEY=VALUE")
    tags = {name: value for name, _, value in pairs}
    if len(tags) < len(pairs):
        raise click.BadParameter("a key is given twice")
    return tags


@click.command("backup", cls=Command)
@click.argument("domains", nargs=-1, required=True, metavar="DOMAIN...")
@click.option("--disk", "disks", multiple=True, metavar="TARGET", help="Only this disk; may be repeated.")
@click.option(
    "--exclude-disk", "exclude", multiple=True, metavar="TARGET", help="Not this disk; may be repeated."
)
@click.option("--full", is_flag=True, help="Read everything, whatever earlier points know.")
@click.option(
    "--mode",
    type=click.Choice(["pull"]),
    default="pull",
    show_default=True,
    expose_value=False,
    help="How libvirt hands over the data.",
)
@click.option(
    "--quiesce",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Freeze the guest's file systems for an instant: if it can be done, by all means, never.",
)
@click.option(
    "--scratch-dir", metavar="DIR", help="Where the guest's overwritten data waits while the backup runs."
)
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", callback=_tags, help="Kept in the point.")
@click.pass_obj
def command(settings: Settings, /, domains: tuple[str, ...], **choices: Any) -> Outcome:
    """Take one restore point of each DOMAIN (name or UUID), running or not, one after the other."""
    repository = open_repository(settings)
    session = Session(repository, settings, choices)
    session.run(list(dict.fromkeys(domains)))
    return session.outcome()


@dataclass
class Session:
    """The backups of one command: a domain that fails does not stop the others."""

    repository: Repository
    settings: Settings
    choices: dict[str, Any]
    points: list[Point] = field(default_factory=list)
    failed: list[tuple[str, PullerError]] = field(default_factory=list)

    def run(self, domains: Sequence[str]) -> None:
        """Back up one after the other, until one is interrupted."""
        for domain in domains:
            try:
                self.points.append(self._backup(domain))
            except (Exception, Stopped) as error:  # noqa: BLE001 - a bug met in one domain is not the others' loss
                failure = failures.translate(error)
                self.failed.append((domain, failure))
                if len(domains) > 1:
                    failures.complain(failure, self.settings, domain)
                if isinstance(failure, Interrupted):
                    return

    def _backup(self, domain: str) -> Point:
        from puller.agent import api

        connect = self.settings.connect or api.DEFAULT_URI
        with observing(self.settings, BACKUP) as observer:
            return api.backup(self.repository, domain, connect=connect, observer=observer, **self.choices)

    def outcome(self) -> Outcome:
        """What came of all of them."""
        failed = [{"domain": domain, "error": failures.document(error)} for domain, error in self.failed]
        return Outcome(
            {"points": [record(point) for point in self.points], "failed": failed},
            "\n".join(summary(point) for point in self.points),
            self._failure(),
        )

    def _failure(self) -> PullerError | None:
        """An interruption; else how many of the domains failed; if all did, the first one's error."""
        if not self.failed:
            return None
        last, first = self.failed[-1][1], self.failed[0][1]
        if isinstance(last, Interrupted):
            return last
        if self.points:
            names = ", ".join(domain for domain, _ in self.failed)
            total = len(self.points) + len(self.failed)
            return PartialFailure(f"{len(self.failed)} of {total} domains were not backed up: {names}")
        if len(self.failed) > 1:
            text = f"none of {len(self.failed)} domains was backed up; {self.failed[0][0]}: {first.message}"
            return type(first)(text, advice=first.advice)
        return first
