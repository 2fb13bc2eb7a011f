"""Options that several commands parse in one way: tags, and the level of compression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from puller.cli.input.options import Callback
from puller.cli.input.quantities import SHARD
from puller.repository.shard import WHOLE


def _tags(context: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` words, each key once."""
    pairs = [word.partition("=") for word in words]
    for word, (name, sign, _) in zip(words, pairs, strict=True):
        if not (name and sign):
            raise click.BadParameter(f"'{word}' is not of the form KEY=VALUE")
    tags = {name: value for name, _, value in pairs}
    if len(tags) < len(pairs):
        raise click.BadParameter("the same key is given twice")
    return tags


def _compression(context: click.Context, parameter: click.Parameter, word: str) -> int | str:
    if word in {"auto", "fast"}:
        return word
    if not (word.isdecimal() and 1 <= int(word) <= 19):
        raise click.BadParameter(f"'{word}' is neither a level from 1 to 19 nor 'fast' nor 'auto'")
    return int(word)


COMPRESSION = click.option(
    "--compression",
    default="1",
    show_default=True,
    metavar="LEVEL|fast|auto",
    callback=_compression,
    help="Set the zstd level, from 1 to 19 (smallest), fast (less CPU than 1, slightly larger) or auto (1 "
    "to 10, raised while the upload is the bottleneck).",
)


def tags_option(text: str) -> Callable[[Callback], Callback]:
    """Return ``--tag``; ``text`` is its help."""
    return click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", callback=_tags, help=text)


def shard_option(text: str) -> Callable[[Callback], Callback]:
    """Return ``--shard``; ``text`` says what it limits."""
    return click.option(
        "--shard",
        type=SHARD,
        default=WHOLE,
        metavar="I/N",
        help=f"{text} I is a number from 1 to N; 0 means the same as N. Without it, all of them.",
    )
