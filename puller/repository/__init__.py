"""Stored data: keys, packs, maps, points, index. See docs/format.md."""
