"""What the environment and the global options say of how a command runs and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from puller.cli.output import console
from puller.cli.output.notify import Service
from puller.cli.output.progressjson import as_json
from puller.errors import UsageError

if TYPE_CHECKING:
    from puller.configuration.file import Configuration, Place
    from puller.configuration.job import Job

JSON = "--json"
PROGRESS = ("auto", "lines", "json")


@dataclass(slots=True)
class Settings:
    """What the environment says, overwritten by the global options as they are parsed.

    What neither says comes from the configuration before a command begins: then ``repository`` is a URL,
    and ``place`` is what the configuration says of that repository. ``verbosity`` is -1 for ``-q``, 1 for
    ``-v``; of several the last one counts, and None means that none was given.
    """

    config: str | None = None
    repository: str | None = None
    key_file: str | None = None
    connect: str | None = None
    json: bool = False
    progress: str | None = None
    debug: bool = False
    said: int | None = None
    place: Place | None = None
    service: Service = field(default_factory=lambda: Service(None))

    @property
    def verbosity(self) -> int:
        """-1, 0 or 1."""
        return self.said or 0

    @classmethod
    def begin(cls, environment: Mapping[str, str], arguments: Sequence[str]) -> Settings:
        """What is known before parsing. ``--json`` is, because it rules how a parsing error is told."""
        words = list(arguments)
        options = words[: words.index("--")] if "--" in words else words
        return cls(
            config=environment.get("PULLER_CONFIG") or None,
            progress=environment.get("PULLER_PROGRESS") or None,
            repository=environment.get("PULLER_REPOSITORY") or None,
            key_file=environment.get("PULLER_KEY_FILE"),
            connect=environment.get("LIBVIRT_DEFAULT_URI") or None,
            service=Service.of(environment),
            json=JSON in options,
        )

    def configure(self) -> Configuration:
        """Read the configuration. Raises ConfigurationError, UsageError."""
        from puller.configuration.file import load

        return load(self.config)

    def complete(self, configuration: Configuration) -> None:
        """Take from the configuration what was not said. Raises UsageError."""
        defaults = configuration.defaults
        if self.said is None and defaults.verbosity is not None:
            self.said = _VERBOSITY[defaults.verbosity]
        self.progress = self.progress or defaults.progress or PROGRESS[0]
        if self.progress not in PROGRESS:
            text = f"invalid value for PULLER_PROGRESS: {self.progress}"
            raise UsageError(text, advice=f"Set it to one of: {', '.join(PROGRESS)}.")
        self.connect = self.connect or defaults.connect
        if word := self.repository or configuration.repository:
            self.place = configuration.place(word)
            self.repository = self.place.url

    def begin_job(self, name: str) -> Job:
        """The job of this name; what it says wins over what holds for all. Raises UsageError."""
        configuration = self.configure()
        job = configuration.job(name)
        self.repository = self.repository or job.repository
        self.connect = self.connect or job.connect
        self.complete(configuration)
        self.start()
        return job

    def start(self) -> None:
        """All is known that was to be said: tell from now on as it was asked for."""
        if self.progress == "json":
            console.report_as(as_json)
        self.service.ready()


_VERBOSITY = {"quiet": -1, "normal": 0, "verbose": 1}
