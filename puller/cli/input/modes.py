"""Options of ``restore`` that belong to one way of restoring, and pairs such as ``vda=PATH``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from puller.errors import UsageError

Given = Mapping[str, tuple[bool, Sequence[str]]]
"""By option: whether it is given, and the ways of restoring that take it."""


def refuse_odd(ways: Mapping[str, bool], plain: Given, special: Given) -> None:
    """Refuse options that do not go together.

    ``ways`` are the options that choose a way of restoring other than the plain one. Options in ``plain`` go
    with the plain one and with those that they name; options in ``special`` only with those. Raises
    UsageError.
    """
    chosen = [way for way, given in ways.items() if given]
    if len(chosen) > 1:
        raise UsageError(f"cannot combine {' and '.join(chosen)}", advice="Choose one of them.")
    for option, (given, takers) in plain.items():
        if given and chosen and chosen[0] not in takers:
            raise UsageError(f"cannot combine {chosen[0]} and {option}", advice="Leave one of them out.")
    for option, (given, takers) in special.items():
        if given and not set(chosen) & set(takers):
            needed = " or ".join(takers)
            raise UsageError(f"{option} needs {needed}", advice=f"Add {needed}, or leave {option} out.")


def split_disks(disks: Sequence[str], mapped: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The targets that ``--disk`` names alone, and the places of the others and of ``--map-disk``.

    Raises UsageError.
    """
    alone = [disk for disk in disks if "=" not in disk]
    places = pairs("--disk", [disk for disk in disks if "=" in disk])
    for target, place in pairs("--map-disk", mapped).items():
        if places.setdefault(target, place) != place:
            raise _twice(target)
    return alone, places


def pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    """``OLD=NEW`` values of ``option``, by OLD. Raises UsageError."""
    found: dict[str, str] = {}
    for value in values:
        old, separator, new = value.partition("=")
        if not (old and separator and new):
            raise UsageError(f"invalid {option} {value!r}", advice="Write it as NAME=VALUE.")
        if found.setdefault(old, new) != new:
            raise _twice(old)
    return found


def _twice(name: str) -> UsageError:
    return UsageError(f"{name} is given two values", advice="Give each name once.")
