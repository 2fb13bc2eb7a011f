"""The command line: parse, call one use case, print."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the program with the process's arguments and exit."""
    # While modules load, Ctrl-C has to end the process without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from puller.cli import libraries

    libraries.restrain()
    with libraries.loading():
        from puller.cli.program import run
    if "--debug" not in sys.argv:
        libraries.silence()
    sys.exit(run(sys.argv[1:]))
