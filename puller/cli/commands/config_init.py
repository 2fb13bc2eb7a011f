"""``puller config init``."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from puller.cli.input.options import Bare
from puller.cli.input.questions import Question
from puller.cli.input.secret import given_secret
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings
from puller.errors import PullerError, UsageError

if TYPE_CHECKING:
    from puller.configuration.initial import AccessKey, Answers


@click.command("init", cls=Bare)
@click.option(
    "--endpoint-url",
    metavar="URL",
    envvar="AWS_ENDPOINT_URL_S3",
    help="Use the S3 server at this URL; empty for AWS.  [env: AWS_ENDPOINT_URL_S3]",
)
@click.option(
    "--region",
    metavar="NAME",
    envvar="AWS_DEFAULT_REGION",
    help="Use this region of the S3 server.  [env: AWS_DEFAULT_REGION; default: us-east-1]",
)
@click.option(
    "--access-key-id",
    metavar="ID",
    envvar="AWS_ACCESS_KEY_ID",
    help="Use this S3 access key.  [env: AWS_ACCESS_KEY_ID]",
)
@click.option(
    "--secret-access-key-file",
    metavar="FILE",
    help="Read the secret of the access key from FILE, or from standard input if FILE is '-'.  [env: the "
    "secret itself in AWS_SECRET_ACCESS_KEY]",
)
@click.option(
    "--credentials-file",
    metavar="FILE",
    envvar="PULLER_CREDENTIALS_FILE",
    help="Use the access key in FILE, which is like ~/.aws/credentials, and do not ask for one.  [env: "
    "PULLER_CREDENTIALS_FILE]",
)
@click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="NAME",
    help="Back up this domain, by its name or a pattern such as 'web*'. Can be repeated.  [default: '*', "
    "all domains]",
)
@click.option(
    "--credentials-dir",
    metavar="DIR",
    help="Write the password and the access key into DIR.  [default: /etc/credstore]",
)
@click.option("--no-timer", is_flag=True, help="Do not enable the timer puller-backup@nightly.timer.")
@click.pass_obj
def command(
    settings: Settings,
    /,
    domains: tuple[str, ...],
    credentials_file: str | None,
    credentials_dir: str | None,
    no_timer: bool,
    **access_key: str | None,
) -> Outcome:
    """Write a first configuration, its secrets and a timer.

    Asks for what the options and the environment leave open: the repository, for S3 the endpoint and the
    access key, and the domains. Without a terminal it asks nothing. It creates a password, unless
    PULLER_PASSWORD, PULLER_PASSWORD_FILE or --key-file gives one.

    If one of the files exists already, nothing is written. The timer is enabled only if its service reads
    the file that was written, /etc/puller/puller.toml.
    """
    from puller.configuration import file, initial

    path = Path(settings.config or file.DEFAULT_PATH).absolute()
    initial.refuse_existing([path])
    _refuse_unused(credentials_file, access_key)
    answers = _answers(settings, domains, credentials_file, access_key)
    content = initial.files(answers, path, Path(credentials_dir or initial.CREDENTIALS).absolute())
    initial.write(content)
    timer, failure = None, None
    if path == file.DEFAULT_PATH and not no_timer:
        timer, failure = _enabled(f"puller-backup@{initial.JOB}.timer")
    document = {
        "file": str(path),
        "written": [str(each) for each in content],
        "timer": timer,
        "repository": answers.repository,
        "domains": list(answers.domains),
    }
    init = "puller init" if settings.config is None else f"puller --config {shlex.quote(str(path))} init"
    return Outcome(document, _text(document, answers.password is not None, init), failure)


def _refuse_unused(credentials_file: str | None, access_key: Mapping[str, str | None]) -> None:
    """Refuse options that would have no effect: the file of credentials says all of this itself."""
    context = click.get_current_context()
    given = [name for name in access_key if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if credentials_file is not None and given:
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError(
            f"cannot use both {option} and a credentials file",
            advice=f"Write it into {credentials_file}, or leave the file out.",
        )


def _enabled(timer: str) -> tuple[str | None, PullerError | None]:
    """Return the timer if it is enabled, or else the reason why not: the files stay."""
    from puller.host.timers import enable

    try:
        enable(timer)
    except PullerError as error:
        return None, error
    return timer, None


def _answers(
    settings: Settings,
    domains: tuple[str, ...],
    credentials_file: str | None,
    access_key: Mapping[str, str | None],
) -> Answers:
    """Ask in the order in which a user has the answers at hand."""
    from puller.configuration.initial import Answers

    # Read now, if one is given: otherwise the service would be the first to fail.
    secret = given_secret(settings.key_file, os.environ, None)
    _require_readable(credentials_file)
    url = _REPOSITORY.answer(settings.repository)
    key = _access_key(**access_key) if url.startswith("s3://") and credentials_file is None else None
    names = domains or _DOMAINS.answer(None)
    password_file = None if "PULLER_PASSWORD" in os.environ else os.environ.get("PULLER_PASSWORD_FILE")
    is_in_file = settings.key_file is not None or password_file is not None
    return Answers(
        repository=url,
        domains=names,
        password=None if is_in_file else secret.password or secrets.token_urlsafe(24),
        password_file=_absolute(password_file) if settings.key_file is None else None,
        key_file=_absolute(settings.key_file),
        access_key=key,
        credentials_file=_absolute(credentials_file),
    )


def _require_readable(credentials_file: str | None) -> None:
    try:
        if credentials_file is not None:
            Path(credentials_file).open("rb").close()
    except OSError as error:
        raise UsageError(
            f"cannot read the credentials file {credentials_file}: {error.strerror}",
            advice="Name a readable file with --credentials-file.",
        ) from error


def _access_key(
    endpoint_url: str | None,
    region: str | None,
    access_key_id: str | None,
    secret_access_key_file: str | None,
) -> AccessKey:
    from puller.configuration.initial import AccessKey

    given = _secret(secret_access_key_file)
    _refuse_temporary(access_key_id)
    endpoint, key_id = _ENDPOINT.answer(endpoint_url), _KEY_ID.answer(access_key_id)
    secret = _SECRET.answer(given)
    place = None if region is None else _REGION.answer(region)
    return AccessKey(key_id, secret, endpoint or None, place)


def _refuse_temporary(key_id: str | None) -> None:
    """A key with a session token ends within hours, and is of no use without the token."""
    if os.environ.get("AWS_SESSION_TOKEN") and key_id and key_id == os.environ.get("AWS_ACCESS_KEY_ID"):
        raise UsageError(
            "cannot use the access key in AWS_ACCESS_KEY_ID: it is temporary, as AWS_SESSION_TOKEN shows",
            advice="Unset both and give an access key that does not expire, or pass --credentials-file.",
        )


def _text(document: Mapping[str, Any], has_password: bool, init: str) -> str:
    lines = [f"wrote {path}" for path in document["written"]]
    if document["timer"] is not None:
        lines.append(f"enabled {document['timer']}")
    if has_password:
        lines.append("Keep a copy of the password elsewhere: without it nobody can read the backups.")
    return "\n".join([*lines, f"Run '{init}' to create the repository, unless it exists."])


def _secret(path: str | None) -> str | None:
    """Return the secret of the access key, if it was given."""
    if path is None:
        return os.environ.get("AWS_SECRET_ACCESS_KEY") or None
    try:
        with click.open_file(path) as stream:
            return str(stream.read(1 << 16)).strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"cannot read {path}: {why}", advice="Name a readable file in --secret-access-key-file."
        ) from error


def _url(text: str) -> str:
    from puller.store.location import parse

    return parse(text.strip()).url


def _endpoint(text: str) -> str:
    from puller.configuration.channels import web_url

    return web_url(text.strip()) if text.strip() else ""


def _line(text: str) -> str:
    if not text.strip() or not text.strip().isprintable():
        raise ValueError("use one line of text")
    return text.strip()


def _names(text: str) -> Sequence[str]:
    names = text.replace(",", " ").split()
    if not names:
        raise ValueError("name one domain at least, or '*' for all")
    return names


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


_REPOSITORY = Question("Repository, s3://BUCKET/PREFIX or a directory", "--repository", _url)
_ENDPOINT = Question("S3 endpoint, empty for AWS", "--endpoint-url", _endpoint, "")
_KEY_ID = Question("Access key id", "--access-key-id", _line)
_SECRET = Question("Secret access key", "--secret-access-key-file", _line, hidden=True)
_REGION = Question("Region", "--region", _line)
_DOMAINS = Question("Domains, by name or pattern", "--domain", _names, "*")
