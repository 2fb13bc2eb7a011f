"""Settings of a command from the environment, the global options and the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from puller.cli.output.streams import console
from puller.cli.output.streams.notify import Service
from puller.cli.output.streams.progressjson import as_json
from puller.errors import UsageError

if TYPE_CHECKING:
    from puller.configuration.file import Configuration, Place
    from puller.configuration.job import Job

JSON = "--json"
PROGRESS = ("auto", "lines", "json")


@dataclass(slots=True)
class Settings:
    """Settings from the environment, overridden by the global options as they are parsed.

    The configuration supplies the others before a command begins: then ``repository`` is a URL, and ``place``
    is the configuration's entry for it. ``verbosity`` is -1 for ``-q``, 1 for ``-v``; of several the last
    one counts, and None means that none was given.
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
        """Return the settings before parsing, with ``--json``, which sets the form of a parsing error."""
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
        """Take missing settings from the configuration. Raises UsageError."""
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

    def of(self, word: str) -> Settings:
        """Return the settings for another repository: a name in the configuration, or a URL."""
        place = self.configure().place(word)
        return replace(self, repository=place.url, place=place)

    def begin_job(self, name: str) -> Job:
        """Return the job of this name, whose settings override the defaults. Raises UsageError."""
        configuration = self.configure()
        job = configuration.job(name)
        self.repository = self.repository or job.repository
        self.connect = self.connect or job.connect
        self.complete(configuration)
        self.start()
        return job

    def start(self) -> None:
        """Report from now on in the requested form: all settings are known."""
        if self.progress == "json":
            console.report_as(as_json)
        self.service.ready()


_VERBOSITY = {"quiet": -1, "normal": 0, "verbose": 1}
