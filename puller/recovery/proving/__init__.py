"""Restore drills: start a point in isolation, wait for a sign of life, store the verdict (docs/drills.md)."""
