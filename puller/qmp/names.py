"""Names of what a run sets up in QEMU. All begin with puller's prefix and the repository's id. Pure."""

from __future__ import annotations

from hashlib import sha256

from puller.hypervisor.domain.checkpoint import PREFIX_LENGTH

NODE_LENGTH = 31
"""Most characters of the name of a block node (QEMU's ``BlockDriverState.node_name``)."""

_CHANGES = "-changes"


def short_name(checkpoint: str) -> str:
    """Return the ends of the checkpoint's name: the owner and the random part."""
    return f"{checkpoint[:PREFIX_LENGTH]}{checkpoint[-8:]}"


def socket_name(checkpoint: str, uuid: str) -> str:
    """Return the name of the socket of a run over the machine ``uuid``; its path must be short."""
    return f"{short_name(checkpoint)}{_socket_suffix(uuid)}"


def socket_pattern(prefix: str, uuid: str) -> str:
    """Return a pattern for the sockets of runs over one machine: others' may be in the same directory."""
    return f"{prefix}*{_socket_suffix(uuid)}"


def _socket_suffix(uuid: str) -> str:
    return f"-{sha256(uuid.encode()).hexdigest()[:8]}.sock"


def node_name(checkpoint: str, number: int) -> str:
    """Return the name of the scratch node, the job and the export of one disk of the run."""
    return f"{short_name(checkpoint)}-{number:x}"


def changes_name(checkpoint: str) -> str:
    """Return the name of the disabled bitmap with the changes since the base."""
    return f"{checkpoint}{_CHANGES}"


def is_changes(name: str) -> bool:
    """Return whether a bitmap of ours is a run's own, and not a checkpoint's."""
    return name.endswith(_CHANGES)
