"""Failures: any exception as an error of puller, as JSON, and as lines for a person."""

from __future__ import annotations

import traceback
from typing import Any

import click

from puller.cli.output.settings import Settings
from puller.cli.output.streams.console import ERROR, printable, say
from puller.cli.signals import Stopped
from puller.errors import Interrupted, PullerError, UsageError

_BINDINGS = {"nbd": "python3-libnbd", "libvirt": "python3-libvirt", "libvirtmod": "python3-libvirt"}
"""Modules that only distributions provide, and Debian's packages with them."""


class InternalError(PullerError):
    """An error that puller did not expect: a bug."""


class MissingBinding(PullerError):
    """A module from the distribution is not installed."""


def translate(error: BaseException) -> PullerError:
    """Return ``error`` as an error of puller."""
    match error:
        case PullerError():
            return error
        case click.ClickException():
            return _raised_from(error, _usage(error))
        case click.Abort():
            return _raised_from(error, Interrupted("stopped while asking for input"))
        case Stopped():
            return _raised_from(error, Interrupted(f"stopped by {error.signal}"))
        case ModuleNotFoundError(name=str(name)) if name in _BINDINGS:
            return _raised_from(error, _missing(name))
        case _:
            text = f"internal error: {type(error).__name__}: {error}"
            return _raised_from(error, InternalError(text))


def _raised_from(cause: BaseException, failure: PullerError) -> PullerError:
    failure.__cause__ = cause
    return failure


def _usage(error: click.ClickException) -> UsageError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = "puller" if context is None else context.command_path
    return UsageError(error.format_message().rstrip("."), advice=f"See '{path} --help'.")


def _missing(name: str) -> MissingBinding:
    return MissingBinding(
        f"the Python module '{name}' is not installed",
        advice=f"Install {_BINDINGS[name]} from the distribution: 'nbd' on PyPI is a different package.",
    )


def document(failure: PullerError) -> dict[str, Any]:
    """Return the members of ``error`` in JSON."""
    return {
        "code": failure.exit_code,
        "name": type(failure).__name__,
        "message": failure.message,
        "advice": failure.advice,
        "retryable": failure.retryable,
    }


def complain(failure: PullerError, settings: Settings, subject: str = "") -> None:
    """Report to a person: one line, one line of advice, and with ``--debug`` the traceback."""
    about = f"{printable(subject)}: " if subject else ""
    lines = [f"puller: {about}{printable(failure.message)}"]
    if settings.debug:
        lines.insert(0, "".join(traceback.format_exception(failure)).rstrip())
    if failure.advice:
        lines.append(f"  {printable(failure.advice)}")
    told = {"subject": subject} if subject else {}
    say("\n".join(lines), "error", ERROR, **told, **document(failure))
