"""Outcome of a command: a document for programs, text for people, and perhaps a failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puller.cli.output import failures
from puller.cli.output.settings import Settings
from puller.cli.output.streams import console
from puller.errors import PullerError


@dataclass(frozen=True, slots=True)
class Outcome:
    """``document`` and ``text`` have the same content; ``failure`` is reported too and sets the exit code.

    Without document and failure, the command has written everything itself; ``code`` is its exit code then.
    """

    document: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    failure: PullerError | None = None
    code: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return self.code if self.failure is None else self.failure.exit_code

    def as_json(self) -> str:
        """Return the document in ASCII, so that no terminal's encoding can damage it."""
        error = {} if self.failure is None else {"error": failures.document(self.failure)}
        return json.dumps({**self.document, **error})


def present(outcome: Outcome, settings: Settings) -> int:
    """Print the outcome, return the exit code."""
    try:
        _answer(outcome, settings)
    except PullerError as error:
        failures.complain(error, settings)
        return outcome.exit_code or error.exit_code
    finally:
        if outcome.failure is not None:
            failures.complain(outcome.failure, settings)
    return outcome.exit_code


def _answer(outcome: Outcome, settings: Settings) -> None:
    if settings.json and (outcome.document or outcome.failure):
        console.answer(outcome.as_json())
    elif outcome.text and not settings.json:
        console.answer(outcome.text)
