"""The names of objects (docs/format.md, "Objects")."""

from __future__ import annotations

import re

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
POINT = r"\d{8}T\d{6}Z-[0-9a-f]{8}"
RANDOM = r"[0-9a-f]{32}"
_PACK = r"([0-9a-f]{2})/\1[0-9a-f]{30}(?:\.[1-9][0-9]{0,9})?"

_SHAPES = {
    "keys/": r"[0-9a-f]{16}",
    "points/": f"{UUID}/{POINT}",
    "pending/": rf"{UUID}/{POINT}|doctor-\d{{8}}",
    "index/": RANDOM,
    "condemned/": RANDOM,
    "damaged/": RANDOM,
    "verified/": RANDOM,
    "locking/": RANDOM,
    "locks/": rf"[a-z]+/{RANDOM}-[0-9]{{8}}|{RANDOM}",
    "kept/": f"{UUID}/{POINT}/{RANDOM}",
    "proofs/": f"{UUID}/{POINT}/{RANDOM}",
    "packs/": _PACK,
    "maps/": _PACK,
}
"""Pattern of the names by directory. A trial of ``init`` or ``doctor`` that died leaves such names, too."""

SMALL_FOLDERS = tuple(folder for folder in _SHAPES if folder not in ("packs/", "maps/"))
"""Directories that are quick to list even in large repositories."""

FOLDERS = tuple(_SHAPES)


def is_foreign(key: str, size: int) -> bool:
    """Return whether an object in one of ``FOLDERS`` is foreign: by its name, or because it is empty."""
    folder, _, rest = key.partition("/")
    is_empty = not size and folder not in ("kept", "locks")  # a keep protects its point, a lease expires
    return is_empty or re.fullmatch(_SHAPES[f"{folder}/"], rest) is None


def is_trial(key: str) -> bool:
    """Return whether ``init`` or ``doctor`` put the object to test the store."""
    return re.fullmatch(f"locks/{RANDOM}", key) is not None
