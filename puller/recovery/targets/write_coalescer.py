"""Restored chunks that are neighbours, gathered so that an output gets them in one write."""

from __future__ import annotations

from puller.pipeline.buffers import Buffer
from puller.recovery.targets.outputs import Output
from puller.units import MIB

STRETCH = MIB
"""Bytes written at once at most: 16 chunks, so that a write costs little beside what it writes."""


class WriteCoalescer:
    """What is on its way to ``output`` in ``buffer``. One thread's own.

    ::

        chunks   7 8 9 | 31 32 | 12      (in the order of their slots)
        writes   ─────   ─────   ──
    """

    def __init__(self, buffer: Buffer, output: Output) -> None:
        self._view = buffer.view
        self._output = output
        self._offset = 0
        self._length = 0

    def add(self, offset: int, content: bytes) -> None:
        """Take ``content``, which belongs at ``offset`` of the disk."""
        end = self._length + len(content)
        if offset != self._offset + self._length or end > len(self._view):
            self.flush()
            self._offset, end = offset, len(content)
        self._view[self._length : end] = content
        self._length = end

    def flush(self) -> None:
        """Write what was taken."""
        if self._length:
            self._output.write(self._offset, self._view[: self._length])
        self._length = 0
