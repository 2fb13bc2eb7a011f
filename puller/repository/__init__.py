"""Bytes at rest: keys, packs, maps, points, index. See docs/format.md."""
