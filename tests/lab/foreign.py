"""Random cases of disks whose images are exchanged, copied or put back behind the back of QEMU."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import puller
from puller.hypervisor.job.frozen import DiskExport
from puller.units import KIB, MIB
from tests.lab.machine import DiskSpec, Machine

DEEDS = ("copied", "exchanged", "rolled back", "cut and grown", "fresh", "nothing")
MODES = ("offline", "pull", "push")
TARGETS = ("vda", "vdb")

Hook = Callable[[Sequence[DiskExport]], None]


@dataclass(frozen=True)
class Case:
    """What happens to two disks, all of it by ``seed``."""

    seed: int
    deed: str
    mode: str
    fills: tuple[str, str]
    sizes: tuple[int, int]

    @classmethod
    def random(cls, seed: int) -> Case:
        chance = random.Random(seed)
        fills = chance.choice(("blank", "sparse", "full")), chance.choice(("blank", "sparse", "full"))
        first = chance.choice((8, 16, 24)) * MIB
        second = chance.choice((first, chance.choice((8, 16, 24)) * MIB))
        return cls(seed, DEEDS[seed % len(DEEDS)], MODES[seed // len(DEEDS) % 3], fills, (first, second))

    def specs(self) -> list[DiskSpec]:
        return [DiskSpec(target, size) for target, size in zip(TARGETS, self.sizes, strict=True)]


class Play:
    """One case on a machine that has the case's disks."""

    def __init__(self, case: Case, machine: Machine, folder: Path) -> None:
        self._case = case
        self._machine = machine
        self._folder = folder
        self._chance = random.Random(case.seed + 1)

    def fill(self) -> None:
        for target, size, fill in zip(TARGETS, self._case.sizes, self._case.fills, strict=True):
            if fill == "full":
                self._noise(target, 0, size)
            elif fill == "sparse":
                self.write(target)

    def write(self, target: str) -> None:
        for _ in range(self._chance.randint(1, 5)):
            length = self._chance.choice((4 * KIB, 64 * KIB, 300 * KIB))
            offset = self._chance.randrange(0, 8 * MIB - length, 4 * KIB)
            deed = self._chance.choice(("noise", "noise", "noise", "zeroes", "discard"))
            if deed == "noise":
                self._noise(target, offset, length)
            elif deed == "zeroes":
                self._machine.write_zeroes(target, offset, length)
            else:
                self._machine.discard(target, offset, length)

    def _noise(self, target: str, offset: int, length: int) -> None:
        noise = self._folder / "noise"
        noise.write_bytes(self._chance.randbytes(length))
        self._machine.copy_in(target, noise, offset, length)

    def keep_copies(self) -> None:
        """While the machine is off."""
        for target in TARGETS:
            shutil.copyfile(self._machine.image(target), self._folder / f"early-{target}")

    def cut(self) -> None:
        """While the machine runs."""
        if self._case.deed == "cut and grown":
            for size in (4 * MIB, self._case.sizes[1]):
                self._machine.handle.blockResize("vdb", size, 1)

    def do(self) -> None:
        """The deed itself, while the machine is off."""
        first, second = (self._machine.image(target) for target in TARGETS)
        match self._case.deed:
            case "copied":
                source, target = self._chance.choice(((first, second), (second, first)))
                shutil.copyfile(source, target)
            case "exchanged":
                aside = self._folder / "aside"
                first.rename(aside)
                second.rename(first)
                aside.rename(second)
            case "rolled back":
                shutil.copyfile(self._folder / "early-vdb", second)
            case "fresh":
                create = ["qemu-img", "create", "-q", "-f", "qcow2", str(second), str(self._case.sizes[1])]
                subprocess.run(create, check=True)


def play(
    case: Case,
    machine: Machine,
    folder: Path,
    take: Callable[[str], puller.Point],
) -> puller.Point:
    """Run the case, and return the point after the deed. ``take`` backs up in a mode."""
    acts = Play(case, machine, folder)
    acts.fill()
    mode = "pull" if case.mode == "offline" else case.mode
    take(mode)
    machine.stop()
    acts.keep_copies()
    machine.start()
    for target in TARGETS[: case.seed % 3]:
        acts.write(target)
    if case.seed % 2:
        take(mode)
    acts.cut()
    machine.stop()
    acts.do()
    if case.mode != "offline":
        machine.start()
        if case.seed % 5 == 0:
            acts.write("vda")
    return take(case.mode)
