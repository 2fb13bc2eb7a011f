"""``qemu-img``, run with a time limit, and the error messages of QEMU's tools."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from puller.cancelling import CancelScope
from puller.errors import PullerError
from puller.host.access import LOCAL, HostAccess

INSTALL = "Install the QEMU tools: package qemu-utils on Debian and Ubuntu, qemu-img on Fedora and RHEL."


@dataclass(frozen=True, slots=True)
class Failure:
    """The error to raise if a tool fails: its class, its beginning ("cannot read disk.img"), its advice."""

    kind: type[PullerError]
    text: str
    advice: str | None = None


def qemu_img(  # noqa: PLR0913 - what to run, where, and how to fail
    words: Sequence[str],
    seconds: float,
    failure: Failure,
    passphrases: Sequence[bytes | None] = (),
    *,
    host: HostAccess = LOCAL,
    scope: CancelScope | None = None,
    umask: int = -1,
) -> bytes:
    """Run ``qemu-img`` of ``host`` for at most ``seconds`` and return its output.

    ``passphrases`` are QEMU's secrets, numbered in this order.
    """
    try:
        with host.handing(passphrases) as handed:
            command = ["qemu-img", words[0], *handed.options, *words[1:]]
            done = host.run(command, seconds, scope, handed=handed, umask=umask)
    except FileNotFoundError as error:
        raise failure.kind("qemu-img is not installed", advice=INSTALL) from error
    except subprocess.TimeoutExpired as error:
        text = f"{failure.text}: no answer within {seconds:.0f} s"
        raise failure.kind(text, advice="Check that the storage of the image responds.") from error
    except OSError as error:
        raise failure.kind(f"{failure.text}: {error.strerror}", advice=failure.advice) from error
    if done.returncode:
        raise failure.kind(f"{failure.text}: {complaint(done.stderr)}", advice=failure.advice)
    return done.stdout


def complaint(output: bytes) -> str:
    """Return the last message of a QEMU tool, which begins with the tool's name; hints may follow it."""
    lines = output.decode(errors="replace").splitlines()
    messages = [line.partition(": ")[2] for line in lines if line.startswith("qemu-")]
    return messages[-1].rstrip(".") if messages else "no message"
