"""Chunks, maps and disk images out of the store."""
