"""The command line: parse, call one use case, print."""

from puller.cli.program import main

__all__ = ["main"]
