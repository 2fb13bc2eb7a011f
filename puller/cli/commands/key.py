"""``puller key list``, ``add`` and ``remove``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from puller.cli.input.access import open_with_secret
from puller.cli.input.options import Command, Group
from puller.cli.input.secret import new_secret
from puller.cli.output.outcome import Outcome
from puller.cli.output.settings import Settings
from puller.cli.output.tables import table
from puller.cli.output.times import local, rfc3339
from puller.errors import DamagedData

if TYPE_CHECKING:
    from puller.upkeep.keys import Key

command = Group(
    "key",
    help="Passwords and key files that open the repository. To change one, add the new and remove the old.",
    no_args_is_help=False,
)


@command.command("list", cls=Command)
@click.pass_obj
def list_(settings: Settings) -> Outcome:
    """List the keys; the one that opened the repository now is marked."""
    repository, secret = open_with_secret(settings)
    from puller import api

    keys = api.list_keys(repository, password=secret.password, key_file=secret.key_file)
    return Outcome({"keys": [_record(key) for key in keys]}, _listing(keys), _damage(keys))


@command.command("add", cls=Command)
@click.option("--new-key-file", metavar="FILE", help="The new key is a file of 32 random bytes or more.")
@click.option("--new-password-file", metavar="FILE", help="The new key is the password that FILE holds.")
@click.option(
    "--role",
    type=click.Choice(["full", "backup-only"]),
    default="full",
    show_default=True,
    help="What it may: all, or back up but not read the guests' data.",
)
@click.option("--label", default="", metavar="TEXT", help="Shown by 'puller key list'.")
@click.pass_obj
def add(
    settings: Settings, new_key_file: str | None, new_password_file: str | None, role: str, label: str
) -> Outcome:
    """Add a key; without an option for it, a password is asked for twice.

    The repository must be opened with a key of the full role.
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
    """Remove the key ID: its password or file opens the repository no more.

    The repository must be opened with a key of the full role, and one of these must be left.
    """
    repository, _ = open_with_secret(settings)
    from puller import api

    api.remove_key(repository, key)
    return Outcome({"removed": key}, f"removed key {key}")


def _record(key: Key) -> dict[str, Any]:
    return {
        "key": key.key,
        "kind": key.kind,
        "role": key.role,
        "label": key.label,
        "created": None if key.created is None else rfc3339(key.created),
        "opened": key.opened,
        "damage": key.damage,
    }


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
            advice = f"Remove it with 'puller key remove {key.key}' and add it anew."
            return DamagedData(key.damage, advice=advice)
    return None
