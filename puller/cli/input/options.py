"""The global options: told before or after the command's name, or by the environment."""

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
    """Keep a value that was given; the other place where it can be given may have been first."""
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
        help="Read this configuration.  [env: PULLER_CONFIG; "
        "default: /etc/puller/puller.toml, if it is there]",
    ),
    _option(
        "-r",
        "--repository",
        metavar="URL",
        help="s3://bucket/prefix, a folder (/path or file:///path), or a name in the configuration.  "
        "[env: PULLER_REPOSITORY]",
    ),
    _option(
        "--key-file",
        metavar="FILE",
        help="Open the repository with this key file, not a password.  [env: PULLER_KEY_FILE]",
    ),
    _option(
        "-c",
        "--connect",
        metavar="URI",
        help="Where libvirt is.  [env: LIBVIRT_DEFAULT_URI; default: qemu:///system]",
    ),
    _option(JSON, is_flag=True, help="Write one JSON document to stdout, errors included."),
    _option("-q", "--quiet", is_flag=True, callback=_quiet, help="Tell errors only."),
    _option("-v", "--verbose", is_flag=True, callback=_verbose, help="Tell every step."),
    _option(
        "--progress",
        type=click.Choice(PROGRESS),
        help="Tell progress as bars or lines, whichever suits; as lines; or all of stderr as JSON lines.  "
        "[env: PULLER_PROGRESS; default: auto]",
    ),
    _option("--debug", is_flag=True, help="Show the traceback of an error."),
    _option("--version", is_flag=True, is_eager=True, callback=_version, help="Show the version."),
)


def hosts_option(text: str) -> Callable[[Callback], Callback]:
    """``--host``, for commands that tell points of several hosts apart."""
    return click.option("--host", "hosts", multiple=True, metavar="HOST", help=f"{text} Can be repeated.")


OF_HOST = hosts_option("Look for DOMAIN only in the points of this host: a name, or a pattern such as '*'.")


class WithGlobalOptions(click.Command):
    """A command that takes the global options beside its own, and answers ``--help --json`` in JSON."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own parameters, then the global ones."""
        return [*super().get_params(ctx), *GLOBAL_OPTIONS]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the two kinds of options apart."""
        taken = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        own = [option for option in taken if option not in GLOBAL_OPTIONS]
        for title, options in (("Options", own), ("Global options", GLOBAL_OPTIONS)):
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(records)

    def get_help(self, ctx: click.Context) -> str:
        """The help as text, or as a document where JSON is asked for."""
        text = super().get_help(ctx)
        return json.dumps({"help": text}) if _settings(ctx).json else text


class Bare(WithGlobalOptions):
    """A command that needs no configuration, or reads it itself."""


class Command(WithGlobalOptions):
    """One command of puller. What its options and the environment leave open, the configuration says."""

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        settings = _settings(ctx)
        settings.complete(settings.configure())
        settings.start()
        return super().invoke(ctx)


class Group(WithGlobalOptions, click.Group):
    """A command that consists of commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands come first: they are what a user looks for here."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)
