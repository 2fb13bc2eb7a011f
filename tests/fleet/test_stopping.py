"""Stopping a local pool whose workers have something to clean up."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

from puller.cli import signals
from puller.cli.input import worker
from puller.cli.signals import Stopped
from puller.fleet.engine import LocalEngine
from puller.fleet.task import Answer, DrillTask, Place, Task
from tests.fleet.conftest import is_alive, until


def hold(folder: Path, task: Task) -> Answer:
    """Do a task as a worker does, but with a drill that is nothing but its end."""
    signals.TOGETHER = 0.0
    worker._do = partial(_drill, folder)
    return worker.work("", task)


def _drill(folder: Path, _: str, task: DrillTask) -> Answer:
    (folder / f"begun {task.point}").write_text(str(os.getpid()))
    try:
        until(lambda: False)
    except Stopped:
        if task.point == "slow":
            first = int((folder / "begun quick").read_text())
            until(lambda: not is_alive(first))
            threading.Event().wait(1.0)  # the pool tells the others to end
        (folder / f"clean {task.point}").touch()
        raise
    return Answer()


def test_each_worker_cleans_up_though_another_has_ended_before(tmp_path: Path) -> None:
    engine = LocalEngine(2)
    for name in ("quick", "slow"):
        engine.submit(partial(hold, tmp_path), DrillTask(Place("", ""), name, name, {}))
    until(lambda: all((tmp_path / f"begun {name}").exists() for name in ("quick", "slow")))
    until(lambda: all((tmp_path / f"begun {name}").read_text() for name in ("quick", "slow")))
    engine.close()
    assert sorted(path.name for path in tmp_path.glob("clean *")) == ["clean quick", "clean slow"]
