"""Plays a person at a terminal: ``terminal.py ANSWERS COMMAND...`` runs it and answers its questions.

ANSWERS is a JSON list. What the terminal shows goes to stdout; the exit code is that of the command.
"""

from __future__ import annotations

import json
import os
import pty
import sys
from collections.abc import Iterator


def shown(terminal: int) -> Iterator[str]:
    """What appears, piece by piece, until the command has ended."""
    while True:
        try:
            piece = os.read(terminal, 1000)
        except OSError:  # EIO: the other side is closed
            return
        if not piece:
            return
        yield piece.decode().replace("\r\n", "\n")


def main() -> int:
    answers, words = iter(json.loads(sys.argv[1])), sys.argv[2:]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(words[0], words)
    line = ""
    for piece in shown(terminal):
        sys.stdout.write(piece)
        line = (line + piece).rpartition("\n")[2]
        if line.endswith(": "):
            os.write(terminal, f"{next(answers)}\n".encode())
            line = ""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
