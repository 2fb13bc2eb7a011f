"""Simulated guests: a disk in memory, and the checkpoints that record what the guest writes to it."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

from tests.lab.history import ZEROED, Disk, uuid_of

CHUNKS = 8
BOOT = 0
"""The chunk that a guest starts from."""

BROKEN = 1
"""Its content if the guest does not start."""

_SHARED = range(2, 20)
"""Contents that several guests have."""


@dataclass
class Guest:
    """A domain on ``host``. ``checkpoints`` are ids of the points that its bitmaps record the changes since.

    While it ``is_off``, nothing writes to its disk, and no checkpoint can be made.
    """

    domain: str
    host: str
    disk: Disk = field(default_factory=lambda: [0] * CHUNKS)
    checkpoints: set[str] = field(default_factory=set)
    is_off: bool = False
    written: int = 1000

    @property
    def uuid(self) -> str:
        return uuid_of(self.domain)

    def write(self, chance: random.Random, chunks: int) -> None:
        """Write, zero or discard this many chunks, but never what it starts from."""
        for place in chance.sample(range(1, CHUNKS), chunks) if not self.is_off else ():
            self.written += 1
            own = zlib.crc32(f"{self.domain} {self.written}".encode()) + 1000
            self.disk[place] = chance.choice([own, own, own, chance.choice(_SHARED), 0, ZEROED])

    def encrypt(self) -> None:
        """What an attacker does to a guest."""
        self.disk = [zlib.crc32(f"{self.domain} ransom {place}".encode()) + 1000 for place in range(CHUNKS)]

    def break_down(self) -> None:
        """It goes on running, but would not start again."""
        self.disk[BOOT] = BROKEN

    def mend(self) -> None:
        self.disk[BOOT] = 0
