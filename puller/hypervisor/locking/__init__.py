"""Locks against other runs on this host."""
