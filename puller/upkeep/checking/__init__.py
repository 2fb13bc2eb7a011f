"""Examination of a repository: whether every point can be restored, and what is damaged."""
