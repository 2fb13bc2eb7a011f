"""What was told last about a job, on this host: a change is worth a message, the same again is not."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from puller.host.folders import state_directory
from puller.notifying.ending import Ending


class _Told(msgspec.Struct, frozen=True):
    """The state told last, what had failed then, and the alarms that nobody could be told about."""

    state: str = "ok"
    failed: tuple[str, ...] = ()
    untold: tuple[tuple[str, str], ...] = ()


_TOLD = msgspec.json.Decoder(_Told)
_MOST_UNTOLD = 100


def with_untold(ending: Ending) -> Ending:
    """Return the ending with the alarms of earlier runs about which nobody could be told."""
    return replace(ending, alarms=(*_last(ending.job).untold, *ending.alarms))


def is_change(ending: Ending) -> bool:
    """Return whether an ending is news: another state, another failure, or a point that looks wrong.

    Each alarm is about a point of its own. Before the first note, the job was well.
    """
    last = _last(ending.job)
    return bool(ending.alarms) or (last.state, last.failed) != (ending.state, ending.failed)


def note(ending: Ending) -> None:
    """Note what was told. If that fails, the next run tells it again, which does no harm."""
    _write(ending.job, _Told(ending.state, ending.failed))


def note_untold(ending: Ending) -> None:
    """Note the alarms, so that the next run tells them; its state counts as not told."""
    last = _last(ending.job)
    _write(ending.job, _Told(last.state, last.failed, ending.alarms[-_MOST_UNTOLD:]))


def _last(job: str) -> _Told:
    try:
        return _TOLD.decode(_path(job).read_bytes())
    except (OSError, ValueError, msgspec.MsgspecError):
        return _Told()


def _write(job: str, told: _Told) -> None:
    path = _path(job)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(told))
        fresh.replace(path)


def _path(job: str) -> Path:
    return state_directory() / "notified" / job
