"""A process that plays scenes by one way, so that a test can patch the puller of another network.

``python -m tests.ways.player WAY FOLDER`` reads lines ``["scene", arguments…]`` and answers each with one of
JSON, until its input ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from puller.hypervisor.connection import prepare_library
from tests.lab.daemon import in_own_namespace
from tests.lab.two_hosts import in_own_network

_SECONDS = 600.0
"""Most seconds of a scene."""

_ALONE = "qmp"
"""The way that needs no libvirtd, so no view of the file system of its own."""

_OTHER_HOST = ("ssh", "tls")


class Player:
    """The process of one way; a context that ends it."""

    def __init__(self, way: str, folder: Path) -> None:
        self._log = folder / "player.log"
        arguments = [way, str(folder)]
        module = "tests.ways.player"
        if way == _ALONE:
            command = [sys.executable, "-m", module, *arguments]
        else:
            enter = in_own_network if way in _OTHER_HOST else in_own_namespace
            command = enter(module, arguments)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def play(self, scene: str, *arguments: str) -> dict[str, Any]:
        """The result of a scene. Raises AssertionError with the traceback if it failed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(_SECONDS, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps([scene, *arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert line, self._log.read_text()[-3000:]
        answer: dict[str, Any] = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer


def _play(scenes: Any, way: Any, words: Sequence[str]) -> dict[str, Any]:
    try:
        return dict(scenes[words[0]](way, *words[1:]))
    except Exception:  # noqa: BLE001 - told to the test
        return {"failed": traceback.format_exc()}


def main() -> int:
    """Play."""
    from tests.ways.kinds import WAYS
    from tests.ways.scenes import SCENES

    kind, folder = sys.argv[1], Path(sys.argv[2])
    os.environ["PULLER_CACHE_DIR"] = str(folder / "cache")
    prepare_library()
    with WAYS[kind].opened(folder) as way:
        way.prepare()
        for line in sys.stdin:
            print(json.dumps(_play(SCENES, way, json.loads(line))), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
