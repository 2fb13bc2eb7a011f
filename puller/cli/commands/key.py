"""``puller key list``, ``add`` and ``remove``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_with_secret
from puller.cli.input.options import Command, Group
from puller.cli.input.secret import new_secret
from puller.cli.output.outcome import Outcome
from puller.cli.output.results.tables import table
from puller.cli.output.settings import Settings
from puller.cli.output.times import local, rfc3339
from puller.errors import DamagedData

if TYPE_CHECKING:
    from puller.api import KeyRole
    from puller.upkeep.keys import Key

command = Group(
    "key",
    help="Manage the passwords and key files of the repository. To change a password, add the new one, "
    "then remove the old one.",
    no_args_is_help=False,
)


@command.command("list", cls=Command)
@click.pass_obj
def list_(settings: Settings) -> Outcome:
    """List the keys of the repository.

    The column OPENED shows which key opened the repository for this command.
    """
    repository, secret = open_with_secret(settings)
    from puller import api

    keys = api.list_keys(repository, password=secret.password, key_file=secret.key_file)
    return Outcome({"keys": [_record(key) for key in keys]}, _listing(keys), _damage(keys))


@command.command("add", cls=Command)
@click.option(
    "--new-key-file", metavar="FILE", help="Add this key file, which holds at least 32 random bytes."
)
@click.option(
    "--new-password-file",
    metavar="FILE",
    help="Add the password in this file. A newline at its end is ignored.",
)
@click.option(
    "--role",
    type=click.Choice(["full", "backup-only"]),
    default="full",
    show_default=True,
    help="Choose what the key allows: full (everything) or backup-only (back up, but not read the guests' "
    "data).",
)
@click.option(
    "--label", default="", metavar="TEXT", help="Set a label that 'puller key list' shows. It is not secret."
)
@click.pass_obj
def add(
    settings: Settings, new_key_file: str | None, new_password_file: str | None, role: KeyRole, label: str
) -> Outcome:
    """Add a key: a password or a key file.

    Without --new-key-file and --new-password-file, puller asks twice for a password. Open the repository with
    a key whose role is full.
    """
    if new_key_file is not None and new_password_file is not None:
        raise click.UsageError("--new-key-file and --new-password-file exclude each other")
    repository, current = open_with_secret(settings)
    from puller import api
    from puller.upkeep import keys

    keys.check_full(repository)
    secret = new_secret(new_key_file, new_password_file)
    key = api.add_key(
        repository,
        password=current.password,
        key_file=current.key_file,
        new_password=secret.password,
        new_key_file=secret.key_file,
        role=role,
        label=label,
    )
    return Outcome({"key": key, "role": role, "label": label}, f"added key {key} ({role})")


@command.command("remove", cls=Command)
@click.argument("key", metavar="ID")
@click.pass_obj
def remove(settings: Settings, key: str) -> Outcome:
    """Remove a key, so that it no longer opens the repository.

    ID is the key's id in 'puller key list'. Open the repository with a key whose role is full. At least one
    such key must remain.
    """
    repository, _ = open_with_secret(settings)
    from puller import api

    api.remove_key(repository, key)
    return Outcome({"removed": key}, f"removed key {key}")


def _record(key: Key) -> dict[str, Any]:
    return {**asdict(key), "created": None if key.created is None else rfc3339(key.created)}


def _listing(keys: Sequence[Key]) -> str:
    heads = ("ID", "KIND", "ROLE", "CREATED", "OPENED", "LABEL")
    return table(heads, [_row(key) for key in keys])


def _row(key: Key) -> tuple[str, ...]:
    created = "" if key.created is None else local(key.created)
    opened = "yes" if key.opened else ""
    return key.key, key.kind or "damaged", key.role or "", created, opened, key.label or ""


def _damage(keys: Sequence[Key]) -> DamagedData | None:
    for key in keys:
        if key.damage is not None:
            advice = f"Remove it with 'puller key remove {key.key}' and add the key again."
            return DamagedData(key.damage, advice=advice)
    return None
