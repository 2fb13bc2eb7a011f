"""Whether an image is certainly the one that a point was taken of, by what the point recorded of it."""

from __future__ import annotations

from dataclasses import asdict

from puller.hypervisor.domain.disk import ImageFacts
from puller.repository.points import ImageRecord


def recorded(facts: ImageFacts) -> ImageRecord:
    """As a point keeps them."""
    return ImageRecord(**asdict(facts))


def is_strange(now: ImageFacts, then: ImageRecord) -> bool:
    """Whether somebody may have changed the image without QEMU: another file, a shorter one, another run.

    An image grows as its guest writes; QEMU never makes it shorter. While one QEMU has an image open nobody
    else may write to it, but that is a lock which ``cp`` does not ask for.
    """
    return (now.inode, now.born, now.qemu) != (then.inode, then.born, then.qemu) or now.size < then.size
