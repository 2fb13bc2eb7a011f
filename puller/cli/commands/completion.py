"""``puller completion``."""

from __future__ import annotations

import click

from puller.cli.input.options import Bare
from puller.cli.output.outcome import Outcome

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=Bare)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> Outcome:
    """Print a completion script for a shell.

    The script completes commands and options. To use it in bash, run:

    eval "$(puller completion bash)"
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    if script is None:
        raise click.BadParameter(f"no completion is available for {shell}")
    text = script(context.find_root().command, {}, "puller", "_PULLER_COMPLETE").source()
    return Outcome({"script": text}, text.strip())
