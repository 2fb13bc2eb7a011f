"""What is rebound by several threads has its ``__dict__`` before they can ask for it at once."""

from __future__ import annotations

import subprocess
import sys

SCENE = """
import gc
from puller.cancelling import Scoped

class Thing(Scoped if {scoped} else object):
    def __init__(self):
        self.one, self.two = 1, [2]

gc.disable()
thing, seen = Thing(), []

def another(phase, info):
    if phase == "start" and not seen:
        seen.append(vars(thing))

gc.callbacks.append(another)
held = [{{}} for _ in range(500)]  # none is left for reuse, so the next one is made, after a collection
gc.enable()
gc.set_threshold(1, 1000, 1000)
mine = vars(thing)
gc.disable()
import os
os.write(1, b"one" if not seen or seen[0] is mine else b"two")
os._exit(0)  # where there are two, the end of the process may crash
"""
"""Another thread that gets its turn while the garbage is collected, played by the collector's callback."""


def played(*, scoped: bool) -> str:
    command = [sys.executable, "-c", SCENE.format(scoped=scoped)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_scoped_thing_has_one_dictionary() -> None:
    assert played(scoped=True) == "one"
    if sys.version_info < (3, 12):  # else it has never been wrong
        assert played(scoped=False) == "two"
