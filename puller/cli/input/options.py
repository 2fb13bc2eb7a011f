"""The global options: given before or after the command's name, or by the environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from puller import __version__
from puller.cli.output.settings import JSON, PROGRESS, Settings

if TYPE_CHECKING:
    pass

Callback = TypeVar("Callback", bound=Callable[..., Any])


def _settings(context: click.Context) -> Settings:
    return context.find_object(Settings) or Settings()


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Store a given value; an option can be given before or after the command's name."""
    if value is not None and value is not False and parameter.name:
        setattr(_settings(context), parameter.name, value)


def _quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        _settings(context).said = -1


def _verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        _settings(context).said = 1


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        text = json.dumps({"version": __version__}) if _settings(context).json else f"puller {__version__}"
        click.echo(text)
        context.exit()


def _option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, **{"callback": _store, **attributes})


GLOBAL_OPTIONS = (
    _option(
        "--config",
        metavar="FILE",
        help="Read this configuration file.  [env: PULLER_CONFIG; "
        "default: /etc/puller/puller.toml, if it exists]",
    ),
    _option(
        "-r",
        "--repository",
        metavar="URL",
        help="Use this repository: s3://bucket/prefix, a directory (/path, ./path or file:///path), or a "
        "name in the configuration.  [env: PULLER_REPOSITORY; default: from the configuration]",
    ),
    _option(
        "--key-file",
        metavar="FILE",
        help="Open the repository with this key file instead of a password.  [env: PULLER_KEY_FILE]",
    ),
    _option(
        "-c",
        "--connect",
        metavar="URI",
        help="Connect to libvirt at this URI, or to the monitor of a QEMU without libvirt (qmp:///PATH).  "
        "[env: LIBVIRT_DEFAULT_URI; default: qemu:///system]",
    ),
    _option(JSON, is_flag=True, help="Print one JSON document to stdout, also for an error."),
    _option("-q", "--quiet", is_flag=True, callback=_quiet, help="Print only errors."),
    _option(
        "-v",
        "--verbose",
        is_flag=True,
        callback=_verbose,
        help="Print every step. If both -q and -v are given, the last one counts.",
    ),
    _option(
        "--progress",
        type=click.Choice(PROGRESS),
        help="Choose the form of progress: auto (bars on a terminal, lines elsewhere), lines, or json (all "
        "of stderr as JSON lines).  [env: PULLER_PROGRESS; default: auto]",
    ),
    _option("--debug", is_flag=True, help="Print the traceback of an error."),
    _option("--version", is_flag=True, is_eager=True, callback=_version, help="Print the version."),
)


def hosts_option(text: str) -> Callable[[Callback], Callback]:
    """Return ``--host``, for commands that distinguish points of several hosts."""
    return click.option("--host", "hosts", multiple=True, metavar="HOST", help=f"{text} Can be repeated.")


OF_HOST = hosts_option(
    "For DOMAIN@latest and DOMAIN@TIME, use only points taken by HOST: a name, or a pattern such as '*' (all "
    "hosts). Required if several hosts took points of DOMAIN."
)


class WithGlobalOptions(click.Command):
    """A command with the global options, which answers ``--help --json`` in JSON."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own parameters, then the global ones."""
        return [*super().get_params(ctx), *GLOBAL_OPTIONS]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click, which leaves out the command of an option that lacks its value."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show its own and the global options in two sections."""
        taken = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        own = [option for option in taken if option not in GLOBAL_OPTIONS]
        for title, options in (("Options", own), ("Global options", GLOBAL_OPTIONS)):
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(records)

    def get_help(self, ctx: click.Context) -> str:
        """Return the help as text, or as a document if JSON was asked for."""
        text = super().get_help(ctx)
        return json.dumps({"help": text}) if _settings(ctx).json else text


class Bare(WithGlobalOptions):
    """A command that needs no configuration, or reads it itself."""


class Command(WithGlobalOptions):
    """A command of puller. The configuration sets what its options and the environment do not."""

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        settings = _settings(ctx)
        settings.complete(settings.configure())
        settings.start()
        return super().invoke(ctx)


class Group(WithGlobalOptions, click.Group):
    """A command that consists of commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the commands first, because users look for them here."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)
