"""Whether an image is certainly the one of which a point was taken, by the facts in the point."""

from __future__ import annotations

from dataclasses import asdict

from puller.hypervisor.domain.disk import ImageFacts
from puller.repository.points import ImageRecord


def recorded(facts: ImageFacts) -> ImageRecord:
    """Return the facts in the form in which a point stores them."""
    return ImageRecord(**asdict(facts))


def may_differ(now: ImageFacts, then: ImageRecord) -> bool:
    """Return whether the image may have changed without QEMU: another file, a shorter one, another run.

    An image grows as its guest writes; QEMU never makes it shorter. While QEMU has an image open, its lock
    keeps other QEMU programs from writing to it, but not ``cp``.
    """
    return (now.inode, now.born, now.qemu) != (then.inode, then.born, then.qemu) or now.size < then.size
