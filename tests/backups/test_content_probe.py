"""Looks at images of disks that are in use, without a guest."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import puller
from puller.backups.sources import content_probe
from puller.backups.sources.content_probe import ContentProbe
from puller.cancelling import CancelScope
from puller.errors import Interrupted, NbdError
from puller.hypervisor.domain.disks.disk import Disk
from puller.units import CHUNK, MIB
from tests.lab.archive import make_point


def test_the_wait_for_a_guests_flush_ends_when_the_scope_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parallel backups a signal raises nothing where the disks are looked at."""
    monkeypatch.setattr(content_probe, "_FLUSH", 3600.0)
    image = tmp_path / "vda.raw"
    image.write_bytes(bytes(MIB))
    disk = Disk("vda", str(image), "file", "raw", "disk", False, False, False, image)
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    point = make_point(repository, {"vda": random.Random(1).randbytes(MIB)})
    told: list[str] = []
    waiting = CancelScope()
    begun = ContentProbe(repository, disk, point.disks[0], told.append).within(waiting)
    met: list[Interrupted] = []

    def wait() -> None:
        try:
            begun.is_foreign(15)
        except Interrupted as error:
            met.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waiting.cancel()
    thread.join(30)
    assert len(met) == 1


def test_a_connection_that_a_cancellation_interrupts_as_it_opens_does_not_count_as_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "vda.raw"
    image.write_bytes(bytes(MIB))
    disk = Disk("vda", str(image), "file", "raw", "disk", False, False, False, image)
    repository = puller.create_repository(str(tmp_path / "r"), password=None)
    point = make_point(repository, {"vda": random.Random(1).randbytes(MIB)})
    waiting = CancelScope()
    begun = ContentProbe(repository, disk, point.disks[0], lambda _: None).within(waiting)

    def interrupted(*_: object, **__: object) -> None:
        waiting.cancel()
        raise NbdError("external event 0 is invalid")

    monkeypatch.setattr(content_probe, "Export", interrupted)
    with pytest.raises(Interrupted):
        begun.is_foreign(15)


class Late:
    """A look at the image of a guest that flushes late, by a clock of its own."""

    look: ContentProbe

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.told: list[str] = []
        self.clock = 1000.0
        self.pauses = 0


WRITTEN = random.Random(1).randbytes(MIB)
TOLD = "waiting up to 35 s for the guest to flush data that the last point holds"


def _late(monkeypatch: pytest.MonkeyPatch, folder: Path, flush: Callable[[int], bytes | None]) -> Late:
    """``flush`` says what the image holds after so many pauses, None for what it held before."""
    image = folder / "vda.raw"
    image.write_bytes(bytes(MIB))
    disk = Disk("vda", str(image), "file", "raw", "disk", False, False, False, image)
    repository = puller.create_repository(str(folder / "r"), password=None)
    point = make_point(repository, {"vda": WRITTEN})
    late = Late()
    look = ContentProbe(repository, disk, point.disks[0], late.told.append)
    late.look = look.within(late.scope)

    def pause(seconds: float) -> None:
        if seconds < 1:  # for the start of qemu-nbd
            threading.Event().wait(seconds)
            return
        late.clock += seconds
        late.pauses += 1
        if (content := flush(late.pauses)) is not None:
            image.write_bytes(content)

    monkeypatch.setattr(late.scope, "pause", pause)
    monkeypatch.setattr("time.monotonic", lambda: late.clock)
    return late


def test_a_wait_for_a_guests_flush_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chunks are waited for."""
    last = bytes(MIB - CHUNK) + WRITTEN[-CHUNK:]
    late = _late(monkeypatch, tmp_path, {2: last, 4: WRITTEN}.get)
    assert not late.look.is_foreign(15)
    assert not late.look.is_foreign(14)
    assert (late.pauses, late.told) == (4, [TOLD])


def test_all_chunks_of_a_disk_have_the_same_time_to_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = bytes(MIB - CHUNK) + WRITTEN[-CHUNK:]
    late = _late(monkeypatch, tmp_path, {30: last}.get)
    assert not late.look.is_foreign(15)
    assert late.look.is_foreign(14)
    assert late.pauses == 35
