"""A record of a booted machine, as ``puller boot`` writes it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from puller.recovery.booting.record import Booted, BootedDisk


def booted(folder: Path, **changes: object) -> Booted:
    """Return the record of a running machine whose files are in ``folder``, with ``changes``."""
    made = Booted(
        name="web1-boot",
        uuid="5d1a3bc7-64f0-4a15-9c29-20c5c1a3e2ab",
        state="running",
        point="20261128T010000Z-1c2d3e4f",
        domain="web1",
        repository="/srv/backups",
        connect="qemu:///system",
        created=datetime(2026, 11, 28, tzinfo=UTC),
        storage=str(folder),
        runtime=str(folder / "run"),
        socket=str(folder / "nbd.sock"),
        disks=(BootedDisk("vda", 1 << 20, str(folder / "vda.qcow2")),),
    )
    return msgspec.structs.replace(made, **changes)
