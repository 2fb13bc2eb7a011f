"""Scratch and staging: checks and a watch for free space."""
