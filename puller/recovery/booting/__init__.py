"""Machines booted from a restore point, and instant recovery (docs/instant-recovery.md)."""
