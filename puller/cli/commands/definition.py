"""``puller restore --define``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puller.cli.input.access import open_repository
from puller.cli.output.outcome import Outcome
from puller.cli.output.reporting.measures import RESTORE
from puller.cli.output.reporting.progress import observing
from puller.cli.output.results.restored import disk_document, disk_line, without_ends
from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import printable

if TYPE_CHECKING:
    from puller.recovery.recreation import Recreated


def recreate(settings: Settings, point: str, choices: dict[str, Any]) -> Outcome:
    """Restore and define as ``choices`` of ``puller.recreate`` say, and tell what was made."""
    repository = open_repository(settings)
    from puller import api

    connect = settings.connect or api.DEFAULT_URI
    with observing(settings, RESTORE) as told:
        observer = without_ends(told, settings)
        made = api.recreate(repository, point, connect=connect, observer=observer, **choices)
    return Outcome(_document(made), _text(made, started=choices["start"]))


def _document(made: Recreated) -> dict[str, Any]:
    disks = [] if made.restored is None else [disk_document(disk) for disk in made.restored.disks]
    domain = {"name": made.name, "uuid": made.uuid}
    return {"point": made.point, "disks": disks, "domain": domain, "xml": made.xml}


def _text(made: Recreated, *, started: bool) -> str:
    if made.restored is None:
        return made.xml.rstrip("\n")
    lines = [disk_line(done) for done in made.restored.disks]
    lines.append(f"defined {'and started ' if started else ''}domain {made.name} ({made.uuid})")
    return "\n".join(map(printable, lines))
