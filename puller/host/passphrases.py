"""Passphrases for QEMU's programs, passed in memory that only they can open.

Other users can read a command line and an environment, and a file outlives a process that is killed. So each
passphrase is in a file without a name (memfd_create(2)), whose descriptor the program inherits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Handed:
    """``options`` declare the secrets to the program, which must inherit the ``descriptors``.

    A program of another host gets the ``lines`` instead, each as a descriptor.
    """

    options: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    lines: tuple[bytes, ...] = field(default=(), repr=False)


NOTHING = Handed()


def secret_id(number: int) -> str:
    """Return QEMU's name for the secret of this number."""
    return f"key{number}"


@contextmanager
def handed_over(passphrases: Sequence[bytes | None]) -> Iterator[Handed]:
    """Make the passphrases readable for a program; each is QEMU's secret ``secret_id`` of its index."""
    with ExitStack() as stack:
        options: list[str] = []
        descriptors: list[int] = []
        for number, passphrase in enumerate(passphrases):
            if passphrase is not None:
                descriptor = os.memfd_create("puller-passphrase")
                stack.callback(os.close, descriptor)
                os.write(descriptor, passphrase)
                options += ["--object", f"secret,id={secret_id(number)},file=/dev/fd/{descriptor}"]
                descriptors.append(descriptor)
        yield Handed(tuple(options), tuple(descriptors))
