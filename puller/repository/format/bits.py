"""Sets of slots: as numbers whose bit k stands for slot k, and as columns of truth values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bits_of(column: NDArray[np.bool_]) -> int:
    """Return the set of the slots at which ``column`` is true."""
    return int.from_bytes(np.packbits(column, bitorder="little").tobytes(), "little")


def column_of(slots: int, count: int) -> NDArray[np.bool_]:
    """Return for each of ``count`` slots whether it is in the set."""
    content = (slots & ((1 << count) - 1)).to_bytes(-(-count // 8), "little")
    bits = np.unpackbits(np.frombuffer(content, np.uint8), count=count, bitorder="little")
    return bits.view(np.bool_)
