"""Questions on the terminal, each asked again until its answer can be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import click

from puller.cli.input.secret import can_ask
from puller.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """A question whose answer can be given by an option, too.

    ``read`` parses an answer, and raises ValueError or UsageError. ``default`` is the answer if the user
    gives none; without one, an answer is needed.
    """

    text: str
    option: str
    read: Callable[[str], T]
    default: str | None = None
    hidden: bool = False

    def answer(self, given: str | None) -> T:
        """Return the given answer; without one, ask on the terminal; without a terminal, take the default.

        Raises UsageError if there is no answer, or if it is invalid.
        """
        if given is None and can_ask():
            return self._ask()
        text = self.default if given is None else given
        if text is None:
            raise UsageError(
                f"{self.option} is missing",
                advice=f"Pass {self.option}, or run the command on a terminal to be asked.",
            )
        try:
            return self.read(text)
        except ValueError as error:
            raise UsageError(f"{self.option}: {error}", advice=f"Correct {self.option}.") from error

    def _ask(self) -> T:
        answered: T = click.prompt(
            self.text,
            default=self.default,
            show_default=bool(self.default),
            value_proc=self._read_or_ask_again,
            hide_input=self.hidden,
            err=True,
        )
        return answered

    def _read_or_ask_again(self, text: str) -> T:
        try:
            return self.read(text)
        except (ValueError, UsageError) as error:
            raise click.BadParameter(str(error)) from error
